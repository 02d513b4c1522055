"""Byte ranges: what a client asks for, and what that means for an object of known size.

`ByteRange` is half-open and always valid. `RangeRequest` is the header's single range before the size is known.
Source: RFC 9110 section 14; where AWS S3 differs (a syntactically bad or multiple range is ignored), the
parser returns None, which means "the whole object". A header is cut at its separators and never matched by an
expression with parts that could share characters: its cost is bounded by HEADER_CHARS_MAX, whatever it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.errors import RangeNotSatisfiable

HEADER_CHARS_MAX = 128  # two 64-bit numbers take 47; longer ones are no range that anybody means
_BLANKS = " \t\n\r\f\v"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes [start, end) of an object."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end:
            raise ValueError(f"not a range: [{self.start}, {self.end})")

    @property
    def length(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """`bytes=first-last` (last may be None), or, when `first` is None, the final `last` bytes."""

    first: int | None
    last: int | None

    def resolve(self, size_bytes: int) -> ByteRange:
        """The bytes meant, cut at the object's end; raises RangeNotSatisfiable where none are meant."""
        if self.first is None:
            assert self.last is not None
            if self.last == 0 or size_bytes == 0:
                raise RangeNotSatisfiable(size_bytes)
            return ByteRange(max(0, size_bytes - self.last), size_bytes)
        if self.first >= size_bytes:
            raise RangeNotSatisfiable(size_bytes)
        end = size_bytes if self.last is None else min(self.last + 1, size_bytes)
        return ByteRange(self.first, end)


def parse_range(header: str | None) -> RangeRequest | None:
    """The single range of a `Range` header, or None: absent, other unit, several ranges, or nonsense."""
    if header is None or len(header) > HEADER_CHARS_MAX:
        return None
    unit, _, numbers = header.partition("=")
    if unit.strip(_BLANKS).lower() != "bytes":
        return None
    before, dash, after = numbers.partition("-")
    before, after = before.strip(_BLANKS), after.strip(_BLANKS)
    if not dash or not (before + after).isdecimal() or not header.isascii():
        return None
    first = int(before) if before else None
    last = int(after) if after else None
    if first is not None and last is not None and last < first:
        return None
    return RangeRequest(first, last)


def parse_span(header: bytes, size_bytes: int) -> tuple[int, int] | None:
    """Start and end of the plain form, `bytes=1-2` or `bytes=1-`, of an object of that size.

    None: any other form, and what can't be satisfied; `parse_range` tells. Saves a microsecond on each hot read.
    """
    if header[:6] != b"bytes=" or len(header) > 64:
        return None
    first, dash, last = header[6:].partition(b"-")
    if not dash or not first.isdigit():
        return None
    start, end = int(first), size_bytes
    if last:
        if not last.isdigit():
            return None
        end = int(last) + 1
        if end > size_bytes:
            end = size_bytes
    return (start, end) if start < end else None


def render_content_range(span: ByteRange, size_bytes: int) -> str:
    """`Content-Range` of a 206 (RFC 9110 section 14.4)."""
    return f"bytes {span.start}-{span.end - 1}/{size_bytes}"
