"""Is this download what was asked for? Decided from the head alone, before a byte of the body is used.

How it works. The request names the generation, and the answer must name the same. A server that names none (an
emulator) may have ignored the one in the request: its bytes are not given on before its metadata says, after the last
of them, that the generation is still the one. Gzip-encoded objects come as they are stored, because the request accepts
gzip; a body that was unpacked, or packed, on the way all the same is refused.
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
    """True: the body is exactly this span of this version, or of one unknown (`is_labelled`). False: an error.

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
    """A sink that keeps a body, up to `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        self.data = bytearray()
        self._bytes_max = bytes_max

    def write(self, data: memoryview) -> Awaitable[None] | None:
        if len(self.data) + len(data) > self._bytes_max:
            raise mismatch(f"a document of more than {self._bytes_max} bytes")
        self.data += data
        return None
