"""Parsers of an answer's headers, shared by all kinds of origin. Pure.

Header lists have lower-case names; values are latin-1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxy.conditions import parse_http_date
from proxy.http.headers import Headers
from proxy.ranges import ByteRange

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


def first_value(headers: Headers, name: str) -> str | None:
    """Return the first value of a header, by its lower-case name."""
    for candidate, value in headers:
        if candidate == name:
            return value
    return None


def read_length(headers: Headers) -> int | None:
    """Return Content-Length in bytes; None if it is absent or nonsense."""
    length = first_value(headers, "content-length")
    if length is None or not length.isascii() or not length.isdigit() or len(length) > 19:
        return None
    return int(length)


@dataclass(frozen=True, slots=True)
class ContentRange:
    """`Content-Range: bytes a-b/size` as a half-open range and a size."""

    span: ByteRange
    size_bytes: int


def parse_content_range(value: str) -> ContentRange | None:
    """Parse a range of known size; None for anything else: `*`, another unit, reversed, beyond the size."""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        return None
    first, last, size_bytes = (int(group) for group in match.groups())
    if not first <= last < size_bytes:
        return None
    return ContentRange(ByteRange(first, last + 1), size_bytes)


def parse_retry_after(value: str | None, now_s: float) -> float | None:
    """Return the seconds to wait, from seconds or a date (RFC 9110 section 10.2.3); None for nonsense."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    date_s = parse_http_date(value)
    return max(0.0, date_s - now_s) if date_s is not None else None
