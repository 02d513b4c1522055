"""What leaves a disk that is full: eviction by segment, with SIEVE, between two watermarks.

How it works. All segments of the disk stand in a queue by age. A hand goes from the oldest to the newest, and then
begins again. At each segment: one that was visited since the hand last came by loses its mark and stays; one without
a mark goes. So what is used again and again stays however old it is, and what was used once goes when the hand
arrives, without ever being in the way of the former: a scan of many objects, each read once, passes through.
Source: Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024. One addition: where all that is new is used once, SIEVE's
hand stays among the new for ever, and what it left behind is never judged again. So the hand begins again, too, when
it has evicted as many bytes as the disk may hold.

Evicting begins when the bytes allocated pass the high watermark, and ends at the low one. Others live on the same
file system: when it runs low, so that the store would soon refuse to write (disks.py), it counts as well. There,
freed space shows up only when the last process has closed the files: what was retired in the last seconds is taken
as on its way.

The queue is as old as the last scan; what was made since is younger than all of it. So at the queue's end the hand
waits for a scan, and goes on with what that has found, before it begins again.

Pinned segments stay, and so do those that a process is filling (the retiring lock is refused). A visited segment is
spared for one round only: when the hand has come round without a victim, the next round takes visited ones too. When
that finds none either, all is pinned or in use: the evictor says so once, and tries again every half minute. Reads go
past the disk meanwhile.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from enum import Enum

from proxy.cache import mapfile
from proxy.cache.disks import BROKEN, Disk
from proxy.cache.scan import entry_path

HIGH_WATERMARK, LOW_WATERMARK = 0.95, 0.90
CLOSING_S = 5.0  # workers drop handles within a second, slow clients' responses hold theirs for longer
STUCK_PAUSE_S = 30.0

log = logging.getLogger(__name__)


class _Found(Enum):
    GONE = "gone"
    STAYS = "stays"
    EVICTED = "evicted"


class Evictor:
    """One disk's. While `wants_scan`, it waits for a scan that begins now."""

    def __init__(
        self,
        disk: Disk,
        *,
        high_watermark: float = HIGH_WATERMARK,
        low_watermark: float = LOW_WATERMARK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert 0 < low_watermark < high_watermark <= 1
        self.wants_scan = False
        self._disk = disk
        self._high_bytes = int(disk.size_bytes * high_watermark)
        self._low_bytes = int(disk.size_bytes * low_watermark)
        self._clock = clock
        self._queue: list[bytes] = []
        self._hand = 0
        self._round_bytes = 0  # evicted since the hand began with the oldest
        self._fruitless = 0  # segments passed since the last victim
        self._evicting = False
        self._fresh = False  # at the queue's end, and scanned since
        self._stuck = False  # and said so
        self._resume_at_s = 0.0
        self._closing: deque[tuple[float, int]] = deque()  # when, and how many bytes, were retired lately

    def renew(self, segments: list[bytes], *, wanted: bool = True) -> None:
        """Take over what a scan has found, sorted; the hand stays where it is.

        `wanted`: the scan began when `wants_scan` was set; an older one may have missed what is new.
        """
        at_end = self._hand >= len(self._queue)
        at = self._queue[-1] + b"." if self._queue and at_end else b"" if at_end else self._queue[self._hand]
        self._queue = segments
        self._hand = bisect_left(segments, at)
        self._fresh = wanted and self.wants_scan
        self.wants_scan = self.wants_scan and not wanted

    def excess_bytes(self) -> int:
        """How many bytes must go: 0 until a high mark is passed, then whatever is above the low one."""
        used_bytes = self._disk.used_bytes or 0
        space = self._disk.space(self._disk.path)
        short_bytes = 2 * space.reserve_bytes - space.free_bytes - self._closing_bytes()
        if used_bytes > self._high_bytes or short_bytes > space.reserve_bytes // 2:
            self._evicting = True
        excess_bytes = max(used_bytes - self._low_bytes, short_bytes)
        if excess_bytes <= 0:
            self._evicting = self._stuck = False
            self._fruitless = 0
        return excess_bytes if self._evicting else 0

    def step(self, moves: int = 64) -> bool:
        """Move the hand so often, at most; whether there is more to do now. Blocking. Raises OSError (EIO ...)."""
        if self._clock() < self._resume_at_s:
            return False
        for _ in range(moves):
            if self.wants_scan or self.excess_bytes() <= 0 or not self._aim():
                return False
            self._move()
        return True

    def _aim(self) -> bool:
        """Put the hand on a segment; False: there is none that could go, or none that is known yet."""
        if self._round_bytes >= self._disk.size_bytes:
            self._begin_again()
        if self._hand >= len(self._queue):
            if not self._fresh:
                self.wants_scan = True
                return False
            self._begin_again()
        if self._fruitless >= 2 * len(self._queue):
            self._give_up()
            return False
        return True

    def _begin_again(self) -> None:
        self._hand = self._round_bytes = 0

    def _move(self) -> None:
        self._fresh = False
        match self._judge(self._queue[self._hand], spare_visited=self._fruitless < len(self._queue)):
            case _Found.STAYS:
                self._hand += 1
                self._fruitless += 1
            case _Found.GONE:
                del self._queue[self._hand]
            case _Found.EVICTED:
                del self._queue[self._hand]
                self._fruitless = 0

    def _judge(self, entry: bytes, *, spare_visited: bool) -> _Found:
        try:
            return self._look(entry, spare_visited=spare_visited)
        except OSError as error:
            if error.errno in BROKEN:
                raise
            log.warning("a segment on %s can't be evicted: %s", self._disk.path, error)
            return _Found.STAYS

    def _look(self, entry: bytes, *, spare_visited: bool) -> _Found:
        """Judge the segment under the hand by what its map says now, and evict it if that is its due."""
        facts = mapfile.read_map(entry_path(self._disk.objects, entry))
        if facts is None:
            return _Found.GONE
        if facts.visited:
            mapfile.clear_visited(facts)
        if facts.pinned or (facts.visited and spare_visited):
            return _Found.STAYS
        freed_bytes = mapfile.retire(facts.path, facts.header.nonce, "space")
        if freed_bytes is None:  # being filled
            return _Found.STAYS
        self._disk.freed(freed_bytes)
        self._closing.append((self._clock(), freed_bytes))
        self._round_bytes += freed_bytes
        return _Found.EVICTED

    def _closing_bytes(self) -> int:
        while self._closing and self._closing[0][0] < self._clock() - CLOSING_S:
            self._closing.popleft()
        return sum(freed_bytes for _, freed_bytes in self._closing)

    def _give_up(self) -> None:
        self._fruitless = 0
        self._resume_at_s = self._clock() + STUCK_PAUSE_S
        if not self._stuck:
            self._stuck = True
            log.error(
                "the cache on %s is full and none of its %d segments can be evicted: they are pinned or being filled;"
                " objects that it does not hold are read past it",
                self._disk.path,
                len(self._queue),
            )
