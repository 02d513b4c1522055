"""Is this answer what was asked for? Decided from the head alone, before a byte of the body is used.

How it works. A ranged GET for a version may be answered by 206 with the right Content-Range, by 200 with the right
Content-Range (rclone does that), or by 200 without one, if the whole object was asked for and the length is its size.
Then ETag, Last-Modified and version id must be the version's: the condition that went along may have been ignored.
Another version is VersionChanged (resolve the key again); an answer that fits no version is OriginUnavailable.
A body may still be shorter or longer than announced: `ExactSink` lets no byte beyond the range through.
"""

from __future__ import annotations

from collections.abc import Awaitable

from proxy.blocks import ByteSink
from proxy.errors import VersionChanged
from proxy.objects import ObjectVersion
from proxy.origin.s3.errors import changed, mismatch
from proxy.origin.s3.headers import Headers, first_value, parse_content_range, parse_validator, read_validator
from proxy.ranges import ByteRange
from proxy.wire.head import ResponseHead


def is_success(head: ResponseHead, version: ObjectVersion, span: ByteRange) -> bool:
    """True: the body is exactly this span of this version. False: an error whose body is worth reading.

    Raises VersionChanged, or OriginUnavailable for an answer that makes no sense.
    """
    if head.status in (412, 416):
        raise changed(version.origin, version.key, f"it answered {head.status}")
    if head.status not in (200, 206):
        return False
    check_version(head.headers, version)
    _check_range(head, version, span)
    return True


def check_version(headers: Headers, version: ObjectVersion) -> None:
    """Raises VersionChanged, or OriginUnavailable, for headers that are not this version's; sizes aside."""
    version_id, _ = parse_validator(version.validator)
    own_id = first_value(headers, "x-amz-version-id")
    if version_id is not None and own_id is not None and own_id != version_id:
        raise mismatch(version.origin, f"version {own_id!r} for version {version_id!r}")
    if version_id is not None and version_id != "null":
        return
    etag = first_value(headers, "etag") or ""
    if not etag and not version.validator.startswith("none"):
        raise mismatch(version.origin, "no ETag")
    found = read_validator(version_id, etag, first_value(headers, "last-modified"))
    if found != version.validator:
        raise changed(version.origin, version.key, f"{found}, not {version.validator}")


def _check_range(head: ResponseHead, version: ObjectVersion, span: ByteRange) -> None:
    label = first_value(head.headers, "content-range")
    if label is None:
        _check_whole(head, version, span)
    else:
        named = parse_content_range(label)
        if named is None:
            raise mismatch(version.origin, f"Content-Range {label!r}")
        if named.size_bytes != version.size_bytes:
            raise _resized(version, named.size_bytes)
        if named.span != span:
            raise mismatch(version.origin, f"Content-Range {label!r} for bytes {span.start}-{span.end - 1}")
    if head.content_length is not None and head.content_length != span.length:
        raise mismatch(version.origin, f"{head.content_length} bytes for a range of {span.length}")


def _check_whole(head: ResponseHead, version: ObjectVersion, span: ByteRange) -> None:
    """An answer that names no range."""
    if head.status == 206:
        raise mismatch(version.origin, "a 206 without a Content-Range")
    if head.content_length is None:
        raise mismatch(version.origin, "a 200 of unknown length")
    if head.content_length != version.size_bytes:
        raise _resized(version, head.content_length)
    if span.length != version.size_bytes:
        raise mismatch(version.origin, "the whole object for a range")


def _resized(version: ObjectVersion, size_bytes: int) -> VersionChanged:
    return changed(version.origin, version.key, f"{size_bytes} bytes, not {version.size_bytes}")


class ExactSink:
    """Passes a span's bytes on and refuses whatever comes beyond it."""

    def __init__(self, sink: ByteSink, version: ObjectVersion, span: ByteRange) -> None:
        self._sink = sink
        self._version = version
        self._left_bytes = span.length

    @property
    def left_bytes(self) -> int:
        """How many bytes of the span have not come."""
        return self._left_bytes

    def write(self, data: memoryview) -> Awaitable[None] | None:
        if len(data) > self._left_bytes:
            raise mismatch(self._version.origin, f"more than the {self._left_bytes} bytes that were left")
        self._left_bytes -= len(data)
        return self._sink.write(data)
