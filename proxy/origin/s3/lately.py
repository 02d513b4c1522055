"""Buckets about which something was recently learnt, so that it is not asked again for each of their keys."""

from __future__ import annotations

from collections.abc import Callable

from cachetools import LRUCache

KEPT_S = 60.0
BUCKETS_MAX = 1024  # a bucket's name has 63 characters


class Lately:
    """Recently noted buckets. `clock` is Unix time; setting it back forgets them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._noted: LRUCache[str, float] = LRUCache(BUCKETS_MAX)

    def note(self, bucket: str) -> None:
        self._noted[bucket] = self._clock()

    def lately(self, bucket: str) -> bool:
        """Return whether the bucket was noted within the last KEPT_S."""
        noted_s = self._noted.get(bucket)
        return noted_s is not None and 0 <= self._clock() - noted_s < KEPT_S
