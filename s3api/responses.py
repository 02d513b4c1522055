"""From the engine's answer to S3's status and headers. Pure.

How it works. The record keeps the origin's own headers, and a hit gives them back as they came, less what describes
one connection or one answer. Status, length and range are this answer's own. A full-object checksum goes out only
with the full object (a 200) and only to a client that asked: SDKs check any such header against the bytes they got,
whatever the status.
"""

from __future__ import annotations

from email.utils import formatdate

from proxy.gateway.answers import CacheStatus, ReadAnswer
from proxy.http.dialect_headers import amz_headers, goog_headers
from proxy.objects import ObjectRecord
from proxy.surface import heads
from proxy.surface.heads import OF_ONE_CONNECTION, Headers, overridden, read_status
from s3api.requests import Read

DEFAULT_TYPE = "binary/octet-stream"  # what S3 gives an object that was stored without a type
_CHECKSUM = "x-amz-checksum-"
_OF_ONE_READ = OF_ONE_CONNECTION | {"accept-ranges", "content-length", "content-range"}
_OF_ONE_READ |= {"x-amz-id-2", "x-amz-mp-parts-count", "x-amz-request-charged", "x-amz-request-id"}
_OF_NOT_MODIFIED = frozenset(  # RFC 9110 section 15.4.5, and S3's own
    {"cache-control", "etag", "expires", "last-modified", "vary", "x-amz-version-id"}
)


def render_read(read: Read, answer: ReadAnswer) -> tuple[int, Headers]:
    """Status and headers of a GetObject or HeadObject, all but those that every response gets."""
    status = read_status(answer)
    return status, describe(read, answer, status) + measure(answer, status)


def describe(read: Read, answer: ReadAnswer, status: int) -> Headers:
    """What the headers say of the object: the same for every range of it."""
    headers = _record_headers(answer.record)
    if status == 304:
        return tuple(pair for pair in headers if pair[0] in _OF_NOT_MODIFIED)
    headers = overridden(headers, read.overrides)
    if status == 200 and answer.part is None and read.wants_checksum:
        headers += tuple(pair for pair in amz_headers(answer.record) if pair[0].startswith(_CHECKSUM))
    return headers + goog_headers(answer.record) if read.bare else headers


def measure(answer: ReadAnswer, status: int) -> Headers:
    """What the headers say of this answer's body."""
    parts: Headers = ()
    if answer.part is not None and status != 304:
        parts = (("x-amz-mp-parts-count", str(answer.part.count)),)
    return parts + heads.measure(answer, status)


def complete(headers: Headers, cache: CacheStatus, request_id: str, *, closes: bool = False) -> Headers:
    """The headers with those that every answer gets; an origin's own request id stays."""
    added = [("x-cache", cache.value)]
    if not any(name == "x-amz-request-id" for name, _ in headers):
        added += [("x-amz-request-id", request_id), ("x-amz-id-2", request_id)]
    if closes:
        added.append(("connection", "close"))
    return (*headers, *added)


def _record_headers(record: ObjectRecord) -> Headers:
    """What the record says of the object, with what S3 always says filled in."""
    kept = [
        (name, value)
        for name, value in amz_headers(record)
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
