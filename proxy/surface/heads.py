"""What an answer's head says in any dialect: of its status, its length, its range. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import getrandbits

from proxy.gateway.answers import ReadAnswer
from proxy.http.dialect_headers import OWN_HEADERS
from proxy.ranges import render_content_range

Headers = tuple[tuple[str, str], ...]

_SCRIPTABLE = re.compile(r"html|xml|svg", re.IGNORECASE)  # types whose documents run scripts

OF_ONE_CONNECTION = frozenset(  # what an origin's answer says of itself and its way, not of what was asked for
    {
        "age",
        "alt-svc",
        "connection",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "server",
        "set-cookie",
        "strict-transport-security",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-cache",
    }
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A small answer, whole; Content-Length is the body's."""

    status: int
    headers: Headers
    body: bytes = b""


def read_status(answer: ReadAnswer) -> int:
    """Of an object's bytes."""
    if answer.not_modified:
        return 304
    return 200 if answer.span is None or answer.span.length == 0 else 206  # no Content-Range can name an empty part


def measure(answer: ReadAnswer, status: int) -> Headers:
    """What the headers say of this answer's body."""
    if status == 304:
        return ()
    headers: Headers = (("accept-ranges", "bytes"), ("content-length", str(answer.length)))
    if status == 200:
        return headers
    assert answer.span is not None
    return (*headers, ("content-range", render_content_range(answer.span, answer.record.size_bytes)))


def measure_lines(status: int, start: int, end: int, size_bytes: int) -> bytes:
    """`measure` rendered, of bytes [start, end) of an object: for the lane that counts microseconds."""
    if status == 206:
        return b"accept-ranges: bytes\r\ncontent-length: %d\r\ncontent-range: bytes %d-%d/%d\r\n" % (
            end - start,
            start,
            end - 1,
            size_bytes,
        )
    return b"" if status == 304 else b"accept-ranges: bytes\r\ncontent-length: %d\r\n" % (end - start)


def overridden(headers: Headers, overrides: Headers) -> Headers:
    """The headers with those in place of theirs that the request gave itself.

    A link says these, and nobody verifies whose: it must not make a page with scripts of this host's out of anything.
    """
    if not overrides:
        return headers
    names = {name for name, _ in overrides}
    guards: Headers = (("x-content-type-options", "nosniff"),)
    if any(name == "content-type" and _SCRIPTABLE.search(value) is not None for name, value in overrides):
        guards += (("content-security-policy", "sandbox"),)
    return (*(pair for pair in headers if pair[0] not in names), *overrides, *guards)


def render_passed(status: int, headers: Headers) -> Headers:
    """The headers of an origin's answer as they pass through: all but those of its connection, and our own words."""
    bodiless = status in (204, 304)
    return tuple(
        (name, value)
        for name, value in headers
        if name not in OF_ONE_CONNECTION
        and not name.startswith(OWN_HEADERS)
        and not (bodiless and name == "content-length")
    )


def new_request_id() -> str:
    """A number that no two requests share; no secret."""
    return f"{getrandbits(64):016X}"
