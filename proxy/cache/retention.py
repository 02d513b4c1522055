"""Eviction from a full disk: by segment, with SIEVE, between two watermarks.

How it works. All segments of the disk are in a queue by age. A hand goes from the oldest to the newest, and then
begins again. A segment that was visited since the hand last passed loses its mark and stays; one without a mark goes.
So what is used again and again stays however old it is, and what was used once goes when the hand reaches it. A client
that reads many objects once each does not evict what is used often.
Source: Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024. There is one addition. If everything new is used once,
SIEVE's hand stays among the new for ever, and what it left behind is never judged again. So the hand also begins again
when it has evicted as many bytes as the disk may hold.

Eviction begins when the allocated bytes pass the high watermark, and ends at the low one (proxy/config/watermarks.py).
It also begins when the file system, which others may use too, runs so low on bytes or inodes that the store would soon
refuse to write (disks.py). If the file system refuses to allocate although its figures say that there is room (a
quota), some room is made all the same. Segments retired in the last seconds count as free, unless they turn out to be
still in use (leaving.py).

Key records are judged separately (recordsweep.py): those of an object go with its only segment, the others when all
records together take more than their share.

The queue is as old as the last scan, and segments created since then are younger than all of it. So at the queue's end
the hand waits for a scan, and goes on with what that has found, before it begins again.

Pinned segments stay, and so do those that a process is filling (the lock for retiring is refused). A visited segment is
spared for one round only: if a round finds no victim, the next round takes visited segments too. If that one finds none
either, everything is pinned or in use. The evictor then logs it once, and tries again a second later, or every half
minute if nothing is being filled. Meanwhile reads bypass the disk.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable
from enum import Enum

from proxy.cache import mapfile
from proxy.cache.accounts import folder_of_object
from proxy.cache.disks import BROKEN, Disk
from proxy.cache.leaving import Leaving
from proxy.cache.recordsweep import RecordSweep
from proxy.cache.scan import entry_path
from proxy.cache.space import Space
from proxy.config.watermarks import watermarks

HIGH_WATERMARK, LOW_WATERMARK = 0.95, 0.90
STUCK_PAUSE_S = 30.0
BUSY_PAUSE_S = 1.0  # the same while fills are under way, which end soon
SHORT_SHARE = 0.01  # of a disk's size: what is evicted when its file system refuses to allocate

log = logging.getLogger(__name__)


class _Found(Enum):
    GONE = "gone"
    STAYS = "stays"
    BUSY = "busy"
    EVICTED = "evicted"


class Evictor:
    """The evictor of one disk. While `wants_scan` is set, it waits for a scan that begins after that."""

    def __init__(
        self,
        disk: Disk,
        *,
        high_watermark: float = HIGH_WATERMARK,
        low_watermark: float = LOW_WATERMARK,
        headroom_bytes: int = 0,
        records: RecordSweep | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`headroom_bytes` of the disk stay free in any case. Without `records`, no key records are judged."""
        assert 0 < low_watermark < high_watermark <= 1
        self.wants_scan = False
        self.leaving = Leaving(disk, clock)
        self._disk = disk
        self._records = records
        self._marks = watermarks(disk.size_bytes, high_watermark, low_watermark, headroom_bytes)
        self._headroom_bytes = headroom_bytes
        self._owed_bytes = 0  # still to be evicted since the file system refused to allocate
        self._clock = clock
        self._queue: list[bytes] = []
        self._hand = 0
        self._round_bytes = 0  # evicted since the hand began with the oldest
        self._fruitless = 0  # segments passed since the last victim
        self._evicting = False
        self._fresh = False  # a scan ended since the hand reached the queue's end
        self._stuck = False  # no victim was found, and that was logged
        self._busy = False  # a segment was spared since the last victim because it is being filled
        self._resume_at_s = 0.0

    def renew(self, segments: list[bytes], *, wanted: bool = True) -> None:
        """Take over the sorted result of a scan; the hand stays where it is.

        `wanted`: the scan began after `wants_scan` was set; an older one may have missed new segments.
        """
        at_end = self._hand >= len(self._queue)
        at = self._queue[-1] + b"." if self._queue and at_end else b"" if at_end else self._queue[self._hand]
        self._queue = segments
        self._hand = bisect_left(segments, at)
        self._disk.set_evicting(True)
        self._fresh = wanted and self.wants_scan
        self.wants_scan = self.wants_scan and not wanted

    def excess_bytes(self) -> int:
        """Return how many bytes must go: 0 until a high mark is passed, then everything above the low one.

        Costs one statvfs and some additions. While inodes are short it is at least 1, as an inode's bytes are unknown.
        """
        space = self._disk.space(self._disk.path)
        closing_bytes = self.leaving.closing_bytes()
        used_bytes = (self._disk.used_bytes or 0) - closing_bytes
        free_bytes = space.free_bytes + closing_bytes
        first_bytes = space.reserve_bytes + max(space.reserve_bytes // 2, self._headroom_bytes)
        last_bytes = space.reserve_bytes + max(space.reserve_bytes, 2 * self._headroom_bytes)
        if self._disk.take_short():
            self._owed_bytes = max(self._headroom_bytes, int(self._disk.size_bytes * SHORT_SHARE))
        begins = used_bytes > self._marks.high_bytes or free_bytes < first_bytes or self._owed_bytes > 0
        if begins or _lacks_inodes(space, 2):
            self._evicting = True
        excess_bytes = max(
            used_bytes - self._marks.low_bytes, last_bytes - free_bytes, self._owed_bytes, int(_lacks_inodes(space, 3))
        )
        if excess_bytes <= 0:
            if self._stuck:
                self._disk.set_evicting(True)
            self._evicting = self._stuck = False
            self._fruitless = 0
        return excess_bytes if self._evicting else 0

    def is_due(self) -> bool:
        """Return whether `step` has something to do now. Costs as much as `excess_bytes`. Raises OSError."""
        if self.leaving.closing_bytes() > 0:
            return True
        return self._clock() >= self._resume_at_s and not self.wants_scan and self.excess_bytes() > 0

    def step(self, moves: int = 64) -> bool:
        """Move the hand up to `moves` times. Return whether there is more to do. Blocking. Raises OSError (EIO ...)."""
        self.leaving.clear()
        if self._clock() < self._resume_at_s:
            return False
        try:
            for _ in range(moves):
                if self.wants_scan or self.excess_bytes() <= 0:
                    return False
                if self._records is not None and self._records.is_due():
                    self._records.step()
                elif self._aim():
                    self._move()
                else:
                    return False
        finally:
            self.leaving.clear()
        return True

    def _aim(self) -> bool:
        """Put the hand on a segment. Return False if none can go, or none is known yet."""
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
            case _Found.STAYS | _Found.BUSY as found:
                self._hand += 1
                self._fruitless += 1
                self._busy |= found is _Found.BUSY
            case _Found.GONE:
                del self._queue[self._hand]
            case _Found.EVICTED:
                del self._queue[self._hand]
                self._fruitless = 0
                self._busy = False
                self._disk.set_evicting(True)

    def _judge(self, entry: bytes, *, spare_visited: bool) -> _Found:
        try:
            return self._look(entry, spare_visited=spare_visited)
        except OSError as error:
            if error.errno in BROKEN:
                raise
            log.warning("a segment on %s can't be evicted: %s", self._disk.path, error)
            return _Found.STAYS

    def _look(self, entry: bytes, *, spare_visited: bool) -> _Found:
        """Judge the segment under the hand by its current map, and evict it if it is due."""
        facts = mapfile.read_map(entry_path(self._disk.objects, entry))
        if facts is None:
            return _Found.GONE
        if facts.visited:
            mapfile.clear_visited(facts)
        if facts.pinned or (facts.visited and spare_visited):
            return _Found.STAYS
        version = facts.header.version
        charge = mapfile.retire(facts.path, facts.header.nonce, "space")
        if charge is None:  # being filled
            return _Found.BUSY
        self._disk.retired(charge, folder_of_object(version.digest))
        self._disk.tell_of_retired()
        self.leaving.expect(charge)
        self._round_bytes += charge
        self._owed_bytes = max(0, self._owed_bytes - charge)
        if self._records is not None and facts.header.data_bytes == version.size_bytes:
            self._records.remove_of(version)
        return _Found.EVICTED

    def _give_up(self) -> None:
        self._fruitless = self._owed_bytes = 0
        self._resume_at_s = self._clock() + (BUSY_PAUSE_S if self._busy else STUCK_PAUSE_S)
        self._disk.set_evicting(self._busy)
        self._busy = False
        if not self._stuck:
            self._stuck = True
            log.error(
                "the cache on %s is full and none of its %d segments can be evicted: they are pinned or being filled;"
                " %d bytes of others are still being sent; objects that it does not hold are read past it",
                self._disk.path,
                len(self._queue),
                self.leaving.open_bytes,
            )


def _lacks_inodes(space: Space, reserves: int) -> bool:
    """Return whether fewer inodes are free than that many times the reserve (below one, the store makes no file)."""
    return space.inodes > 0 and space.free_inodes < reserves * space.reserve_inodes
