"""At how many bytes of a disk eviction begins and ends, and the smallest disk on which that works. Pure.

How it works. A fill reserves its whole block before it begins. If eviction began only when there is no room for a
block any more, it would never begin: the fill is refused, nothing is added, and so no mark is passed. So eviction
begins while HEADROOM_BLOCKS are still free, whatever the watermark says, and ends a block below that at most. What is
then left for the cache must be KEPT_BLOCKS or more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

HEADROOM_BLOCKS = 2  # one for the fill that is about to begin, one for those that begin while a segment is unlinked
KEPT_BLOCKS = 2  # with fewer, two readers evict each other's block


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Bytes allocated on a disk: eviction begins above `high_bytes` and ends at `low_bytes`."""

    high_bytes: int
    low_bytes: int


def watermarks(size_bytes: int, high: float, low: float, headroom_bytes: int = 0) -> Watermarks:
    """`high` and `low` are shares of the size; `headroom_bytes` stay free in any case."""
    high_bytes = min(int(size_bytes * high), size_bytes - headroom_bytes)
    return Watermarks(high_bytes, min(int(size_bytes * low), high_bytes - headroom_bytes // HEADROOM_BLOCKS))


def headroom(block_bytes: int) -> int:
    return HEADROOM_BLOCKS * block_bytes


def smallest_size(block_bytes: int, high: float, low: float) -> int:
    """The smallest size that keeps KEPT_BLOCKS at the low mark, in whole MiB."""
    kept = KEPT_BLOCKS * block_bytes
    smallest = max(kept + headroom(block_bytes) + block_bytes, kept / low, (kept + block_bytes) / high)
    return math.ceil(smallest / (1 << 20)) << 20
