"""The check that a download is what was requested, from its head alone, before a byte of the body is used.

How it works. The request names the generation, and the answer must name the same. A server that names none (an
emulator) may have ignored the one in the request. Its bytes are passed on only when the metadata, requested after the
last byte, still shows that generation. Gzip-encoded objects come as stored, because the request accepts gzip. A body
that was nevertheless compressed or decompressed on the way is rejected.
"""

from __future__ import annotations

from collections.abc import Awaitable

from proxy.objects import ObjectVersion
from proxy.origin.answers import check_range
from proxy.origin.headers import first_value
from proxy.origin.trouble import changed, mismatch
from proxy.ranges import ByteRange
from proxy.wire.head import ResponseHead

GENERATION = "x-goog-generation"


def is_success(head: ResponseHead, version: ObjectVersion, span: ByteRange) -> bool:
    """Return True if the body is this span of this version, or of an unknown one (`is_labelled`); False for an error.

    Raises VersionChanged, or OriginUnavailable for an answer that makes no sense.
    """
    if head.status in (412, 416):
        raise changed(version.origin, version.key, f"it answered {head.status}")
    if head.status not in (200, 206):
        return False
    found = first_value(head.headers, GENERATION)
    if found is not None and f"generation {found}" != version.validator:
        raise changed(version.origin, version.key, f"generation {found}, not {version.validator}")
    encoding = (first_value(head.headers, "content-encoding") or "identity").lower()
    stored = (first_value(head.headers, "x-goog-stored-content-encoding") or encoding).lower()
    if (stored == "gzip") != (encoding == "gzip"):
        raise mismatch(f"a body in {encoding} of an object that is stored in {stored}", head.headers)
    check_range(head, version, span)
    return True


def is_labelled(head: ResponseHead) -> bool:
    return first_value(head.headers, GENERATION) is not None


class Collected:
    """A sink that collects a body of at most `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self.data = bytearray()
        self._bytes_max = bytes_max

    def write(self, data: memoryview) -> Awaitable[None] | None:
        if len(self.data) + len(data) > self._bytes_max:
            raise mismatch(f"a document of more than {self._bytes_max} bytes")
        self.data += data
        return None
