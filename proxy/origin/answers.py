"""The check that an answer is the requested range, from its head alone, before a byte of the body is used.

How it works. A ranged GET for a version may be answered by 206 with the right Content-Range, by 200 with the right
Content-Range (rclone does that), or by 200 without one, if the whole object was requested and the length is its size.
A body may still be shorter or longer than announced: `ExactSink` lets no byte beyond the range through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from proxy.blocks import ByteSink
from proxy.errors import VersionChanged
from proxy.metrics import ORIGIN_BYTES
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import Opened
from proxy.origin.headers import first_value, parse_content_range
from proxy.origin.trouble import changed, mismatch, short_body
from proxy.ranges import ByteRange
from proxy.wire.head import ResponseHead


def check_range(head: ResponseHead, version: ObjectVersion, span: ByteRange) -> None:
    """Check that the body after a success is these bytes of an object of the version's size.

    Raises VersionChanged, or OriginUnavailable for an answer that makes no sense.
    """
    label = first_value(head.headers, "content-range")
    if label is None:
        _check_whole(head, version, span)
    else:
        named = parse_content_range(label)
        if named is None:
            raise mismatch(f"Content-Range {label!r}", head.headers)
        if named.size_bytes != version.size_bytes:
            raise _resized(version, named.size_bytes)
        if named.span != span:
            raise mismatch(f"Content-Range {label!r} for bytes {span.start}-{span.end - 1}", head.headers)
    if head.content_length is not None and head.content_length != span.length:
        raise mismatch(f"{head.content_length} bytes for a range of {span.length}", head.headers)


def _check_whole(head: ResponseHead, version: ObjectVersion, span: ByteRange) -> None:
    """Check an answer without a Content-Range."""
    if head.status == 206:
        raise mismatch("a 206 without a Content-Range", head.headers)
    if head.content_length is None:
        raise mismatch("a 200 of unknown length", head.headers)
    if head.content_length != version.size_bytes:
        raise _resized(version, head.content_length)
    if span.length != version.size_bytes:
        raise mismatch("the whole object for a range", head.headers)


def told_size(head: ResponseHead, span: ByteRange) -> int | None:
    """Return the object's size, from a success for this range; None if it gives no size, or another range."""
    label = first_value(head.headers, "content-range")
    if label is None:
        whole = head.status == 200 and span.start == 0 and (head.content_length or 0) <= span.end
        return head.content_length if whole else None
    named = parse_content_range(label)
    if named is None or named.span != ByteRange(span.start, min(span.end, named.size_bytes)):
        return None
    return named.size_bytes


def _resized(version: ObjectVersion, size_bytes: int) -> VersionChanged:
    return changed(version.origin, version.key, f"{size_bytes} bytes, not {version.size_bytes}")


class ExactSink:
    """A sink that passes a span's bytes on and rejects any byte beyond it."""

    def __init__(self, sink: ByteSink, version: ObjectVersion, span: ByteRange) -> None:
        self._sink = sink
        self._version = version
        self._left_bytes = self.length = span.length

    @property
    def left_bytes(self) -> int:
        """How many bytes of the span have not come yet."""
        return self._left_bytes

    def write(self, data: memoryview) -> Awaitable[None] | None:
        if len(data) > self._left_bytes:
            raise mismatch(f"more than the {self._left_bytes} bytes that were left")
        self._left_bytes -= len(data)
        return self._sink.write(data)


class OpenedAnswer:
    """The answer to `open_range`, until its version is known and a sink is attached.

    `name` is the origin's; `is_success` is its check of a head.
    """

    def __init__(
        self, opened: Opened, name: str, is_success: Callable[[ResponseHead, ObjectVersion, ByteRange], bool]
    ) -> None:
        self._opened = opened
        self._name = name
        self._is_success = is_success
        self._taken: ExactSink | None = None

    def begin(self, head: ResponseHead, record: ObjectRecord | None = None) -> ByteSink:
        """Begin the body of a success; `record` is what its head says of the current version."""

        def attach(version: ObjectVersion, wanted: ByteRange, sink: ByteSink) -> ByteSink:
            self._is_success(head, version, wanted)
            self._taken = ExactSink(sink, version, wanted)
            return self._taken

        return self._opened.begin(attach, record)

    def count(self) -> None:
        """Count the bytes that the attached sink received."""
        if self._taken is not None:
            ORIGIN_BYTES.labels(self._name).inc(self._taken.length - self._taken.left_bytes)

    def check_whole(self) -> None:
        """Raise OriginUnavailable if the body ended before the attached sink had all of its bytes."""
        if self._taken is not None and self._taken.left_bytes > 0:
            raise short_body(self._taken.length - self._taken.left_bytes, self._taken.length)
