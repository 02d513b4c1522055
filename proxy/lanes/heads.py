"""Request heads: the target as received, and the faults that a parser lets pass. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


@dataclass(frozen=True, slots=True)
class HeadTarget:
    """A parsed target. `path` and `query` are its bytes, still percent-encoded; `query` excludes the "?".

    `authority` is an absolute-form target's host, which overrides the Host header; None for origin-form.
    """

    path: bytes
    query: bytes
    authority: bytes | None = None


def parse_target(raw: bytes) -> HeadTarget | None:
    """Parse origin-form, absolute-form or "*" (RFC 9112, section 3.2); return None for anything else.

    A "#" has no meaning in a target: it is a byte like any other.

    >>> parse_target(b"//a//b?c?d")
    Target(path=b'//a//b', query=b'c?d', authority=None)
    >>> parse_target(b"http://h:9000?list-type=2")
    Target(path=b'/', query=b'list-type=2', authority=b'h:9000')
    """
    authority = None
    if (absolute := _ABSOLUTE.match(raw)) is not None:
        authority, raw = absolute[1], raw[absolute.end() :]
    path, _, query = raw.partition(b"?")
    if authority is not None and path == b"":
        path = b"/"
    if not path.startswith(b"/") and path != b"*":
        return None
    return HeadTarget(path, query, authority)


class HeadRefusal(NamedTuple):
    """An answer given without the application, after which the connection closes."""

    status: int
    text: str


MALFORMED = HeadRefusal(400, "The request is malformed.")
BAD_TARGET = HeadRefusal(400, "The request target makes no sense.")
BAD_HOST = HeadRefusal(400, "A request has one Host header.")
OVERDUE = HeadRefusal(408, "The request's head did not arrive in time.")
TOO_LARGE = HeadRefusal(431, "The request's head is too large.")
BAD_CODING = HeadRefusal(501, "The only transfer coding is chunked.")
UPGRADE_WITH_BODY = HeadRefusal(501, "A request to upgrade has no body.")
BAD_VERSION = HeadRefusal(505, "This server speaks HTTP/1.1.")


def find_fault(version: str, headers: Iterable[tuple[bytes, bytes]], *, upgrades: bool) -> HeadRefusal | None:
    """Return what is wrong with a parsed head, or None. Header names are in lower case.

    There must be one Host (RFC 9112, section 3.2), because it decides which bucket a request addresses. Other transfer
    codings would be stored as if they were content. httptools takes the body of an upgrade request for another
    protocol's bytes: an upload would arrive empty.
    """
    if version not in ("1.1", "1.0"):
        return BAD_VERSION
    hosts = 0
    has_body = False
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            has_body = has_body or value != b"0"
        elif name == b"transfer-encoding":
            has_body = True
            if value.strip().lower() != b"chunked":
                return BAD_CODING
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return BAD_HOST
    return UPGRADE_WITH_BODY if upgrades and has_body else None
