"""From the engine's answer to S3's status and headers. Pure.

How it works. The record keeps the origin's own headers, and a hit gives them back as they came, less what describes
one connection or one answer. Status, length and range are this answer's own. A full-object checksum goes out only
with the full object (a 200) and only to a client that asked: SDKs check any such header against the bytes they got,
whatever the status.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate

from proxy.gateway.answers import ReadAnswer
from proxy.objects import ObjectRecord
from proxy.ranges import render_content_range
from s3api.goog import object_headers
from s3api.requests import Read

Headers = tuple[tuple[str, str], ...]

DEFAULT_TYPE = "binary/octet-stream"  # what S3 gives an object that was stored without a type
_CHECKSUM = "x-amz-checksum-"
_OF_ONE_ANSWER = frozenset(
    {
        "accept-ranges",
        "age",
        "alt-svc",
        "connection",
        "content-length",
        "content-range",
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
_OF_ONE_READ = _OF_ONE_ANSWER | {"x-amz-id-2", "x-amz-mp-parts-count", "x-amz-request-charged", "x-amz-request-id"}
_OF_NOT_MODIFIED = frozenset(  # RFC 9110 section 15.4.5, and S3's own
    {"cache-control", "etag", "expires", "last-modified", "vary", "x-amz-version-id"}
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A small answer, whole; Content-Length is the body's."""

    status: int
    headers: Headers
    body: bytes = b""


def render_read(read: Read, answer: ReadAnswer) -> tuple[int, Headers]:
    """Status and headers of a GetObject or HeadObject, all but those that every response gets."""
    if answer.not_modified:
        return 304, tuple(pair for pair in _record_headers(answer.record) if pair[0] in _OF_NOT_MODIFIED)
    whole = answer.span is None or answer.span.length == 0  # an empty part can't be named by a Content-Range
    headers = _overridden(_record_headers(answer.record), read.overrides)
    if whole and answer.part is None and read.wants_checksum:
        headers += tuple(pair for pair in object_headers(answer.record) if pair[0].startswith(_CHECKSUM))
    if answer.part is not None:
        headers += (("x-amz-mp-parts-count", str(answer.part.count)),)
    headers += (("accept-ranges", "bytes"), ("content-length", str(answer.length)))
    if answer.span is None or whole:
        return 200, headers
    return 206, (*headers, ("content-range", render_content_range(answer.span, answer.record.size_bytes)))


def render_passed(status: int, headers: Headers) -> Headers:
    """The headers of an origin's answer as they pass through: all but those of its connection."""
    bodiless = status in (204, 304)
    return tuple(
        (name, value)
        for name, value in headers
        if (name not in _OF_ONE_ANSWER or name in ("accept-ranges", "content-range", "content-length"))
        and not (bodiless and name == "content-length")
    )


def _record_headers(record: ObjectRecord) -> Headers:
    """What the record says of the object, with what S3 always says filled in."""
    kept = [
        (name, value)
        for name, value in object_headers(record)
        if name not in _OF_ONE_READ and not name.startswith(_CHECKSUM)
    ]
    names = {name for name, _ in kept}
    if "etag" not in names and record.etag:
        kept.append(("etag", record.etag))
    if "last-modified" not in names and record.last_modified_s is not None:
        kept.append(("last-modified", formatdate(int(record.last_modified_s), usegmt=True)))
    if "content-type" not in names:
        kept.append(("content-type", DEFAULT_TYPE))
    return tuple(kept)


def _overridden(headers: Headers, overrides: Headers) -> Headers:
    if not overrides:
        return headers
    names = {name for name, _ in overrides}
    return (*(pair for pair in headers if pair[0] not in names), *overrides)
