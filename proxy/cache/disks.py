"""The cache's disks: which one takes a segment, whether it has room, and what happens when it fails.

How it works. Each segment of an object version ranks the disks by weighted rendezvous: a disk's score is
-weight / ln(u), where u comes from a hash of the disk's id and the segment's name, and the weight is the disk's share
of the cache. So segments spread by size, and a disk that comes, goes or grows moves only what it gains or loses.
A look-up tries the disks in that order, because a segment may date from a time with another order. A new segment goes
to the first disk in service.

A disk is full for a write if it would exceed its size, by what a scan has found or, until the first scan has ended, by
what the last run left there. It is also full if its file system would have less than a reserve left, of bytes or of
inodes, as others may use it too. Eviction begins before that (retention.py), so a full disk usually has room a moment
later: `StoreFull` says that waiting makes sense. A disk that returns an I/O error leaves service, for every process,
until the next start: its objects are fetched again, onto the other disks. So does a disk that could not store bytes
that it had accepted, unless it only lacked room (a thin pool that others have filled). In that case this process gives
it no new blocks for a while.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from proxy.cache.accounts import LEAVING
from proxy.cache.space import Space
from proxy.cache.syncer import Syncer
from proxy.cache.writeback import SyncBy, sync_by
from proxy.errors import StoreFull, StoreUnavailable
from proxy.metrics import DISK_FAILED, WRITE_BACK_FAILURES
from proxy.rate_limited_log import RateLimitedLog

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}  # eviction helps
FULL = {*NO_ROOM, errno.EFBIG}
BROKEN = {
    *(errno.EIO, errno.EROFS, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EUCLEAN, errno.EREMOTEIO),
    *(errno.ENOTCONN, errno.ESHUTDOWN, errno.ENOMEDIUM),
}
SLOW_WRITE_S = 0.002  # the longest that an event loop can block repeatedly
STALL_SHARE = 0.05  # of an event loop's time: what slow writes may take before they move to threads
STALL_S = 0.025  # and what they may take in a burst
THREADS_FOR_S = 3.0  # after writes that were too slow; then an inline write is tried again
LOSS_PAUSE_S = 10.0  # without new blocks after a loss for lack of room, as they would be lost too
UNSTORED_SEGMENTS_MAX = 1024  # kept open by a process until they are stored, one descriptor each; see `Syncer`

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """A folder that the cache may use, and the most bytes that it may take there."""

    path: Path
    size_bytes: int


class Usage(Protocol):
    """The run's accounts of its disks, shared by its processes: `proxy.cache.usage.UsageTable`."""

    def charge(self, disk_index: int, nbytes: int, folder: int) -> None: ...

    def used(self, disk_index: int) -> int | None: ...

    def used_at_most(self, disk_index: int) -> int: ...

    def records(self, disk_index: int) -> int: ...

    def can_evict(self, disk_index: int) -> bool: ...

    def set_evicting(self, disk_index: int, able: bool) -> None: ...

    def report_short(self, disk_index: int) -> None: ...

    def tell_of_retired(self, disk_index: int) -> None: ...

    def retired(self, disk_index: int) -> int: ...

    def take_short(self, disk_index: int) -> bool: ...

    def fail_disk(self, disk_index: int) -> None: ...

    def disk_failed(self, disk_index: int) -> bool: ...

    def orphans(self) -> bool: ...


def _waits() -> int:
    """Return how often this thread has slept so far for a disk or a lock (not for its turn to run)."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class WritePace:
    """The decision whether writes to one disk are quick enough for the event loop, from earlier inline writes.

    A write is slow if it slept and took long. A long write without sleep was computing, or another process had the CPU:
    threads would help in neither case. Every file system makes a single write wait now and then, for its journal. A
    disk that can't keep up makes every write wait. So stalls add up and decay over time: a single short one changes
    nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, waits: Callable[[], int] = _waits) -> None:
        self._clock = clock
        self._waits = waits
        self._threads_until_s = -math.inf
        self._stalled_s = 0.0  # at `_stalled_at_s`, less what was forgotten
        self._stalled_at_s = -math.inf

    def inline(self) -> bool:
        return self._clock() >= self._threads_until_s

    def run(self, write: Callable[[], None]) -> None:
        """Run an inline write and measure it."""
        began_s, waits = self._clock(), self._waits()
        write()
        ended_s = self._clock()
        if ended_s - began_s >= SLOW_WRITE_S and self._waits() != waits:
            self._stalled(ended_s - began_s, ended_s)

    def _stalled(self, took_s: float, now_s: float) -> None:
        forgotten_s = (now_s - self._stalled_at_s) * STALL_SHARE
        self._stalled_s = max(0.0, self._stalled_s - forgotten_s) + took_s
        self._stalled_at_s = now_s
        if self._stalled_s > STALL_S:
            self._stalled_s = 0.0
            self.slow(now_s)

    def slow(self, now_s: float) -> None:
        self._threads_until_s = now_s + THREADS_FOR_S


class Disk:
    """One disk of the store. Creating it never raises. Tests replace `space` to simulate a full disk."""

    def __init__(
        self,
        index: int,
        settings: DiskSpec,
        disk_id: str,
        root: Path,
        usage: Usage,
        writer_threads: Executor | None = None,
        unstored_segments_max: int = UNSTORED_SEGMENTS_MAX,
    ) -> None:
        """`root` is the layout's folder. Without writer threads every write runs in its caller."""
        self.index = index
        self.path = settings.path
        self.size_bytes = settings.size_bytes
        self.disk_id = disk_id
        self.objects = root / "objects"
        self.leaving = root / "leaving"
        self.writer_threads = writer_threads
        self.pace = WritePace()
        self.space: Callable[[Path], Space] = Space.of
        self.syncer = Syncer(sync_by(root), background=writer_threads is not None, segments_max=unstored_segments_max)
        self._usage = usage
        self._paused_until_s = -math.inf
        self._loss_log = RateLimitedLog(log, logging.ERROR)

    def __repr__(self) -> str:
        return f"<Disk {self.index} {self.path} {'failed' if self.failed else 'in service'}>"

    @property
    def failed(self) -> bool:
        return self._usage.disk_failed(self.index)

    @property
    def in_memory(self) -> bool:
        """Whether written bytes are stored at once, so that no write-back can fail."""
        return self.syncer.by is SyncBy.NOTHING

    @property
    def orphans(self) -> bool:
        """Whether there may be blocks whose writer died before it knew that they were stored. Inline."""
        return self._usage.orphans()

    @property
    def used_bytes(self) -> int | None:
        """Bytes used, including retired files that are still being read. None until a scan has ended."""
        return self._usage.used(self.index)

    @property
    def records_bytes(self) -> int:
        """Bytes of key records."""
        return self._usage.records(self.index)

    def allocated(self, nbytes: int, folder: int) -> None:
        """Charge that many more bytes to a folder (accounts.py)."""
        self._usage.charge(self.index, nbytes, folder)

    def freed(self, nbytes: int, folder: int) -> None:
        self._usage.charge(self.index, -nbytes, folder)

    def retired(self, nbytes: int, folder: int) -> None:
        """Move the charge of a retired segment from its folder to `leaving/`, where its files are now (leaving.py)."""
        self._usage.charge(self.index, -nbytes, folder)
        self._usage.charge(self.index, nbytes, LEAVING)

    def guard(self, nbytes: int, files: int = 0) -> None:
        """Raise StoreUnavailable unless that many bytes, in that many new files, may be written.

        Raises StoreFull if eviction is expected to make room. Inline: one statvfs, some additions.
        """
        if self.failed:
            raise StoreUnavailable(f"the disk {self.path} is out of service")
        if time.monotonic() < self._paused_until_s:
            raise StoreUnavailable(f"the disk {self.path} could not store what it had taken")
        if nbytes == 0:  # its room is already charged
            return
        used = self._usage.used_at_most(self.index)
        if used + nbytes > self.size_bytes:
            raise self._full(f"the cache on {self.path} is full: {used} of {self.size_bytes} bytes")
        try:
            space = self.space(self.path)
        except OSError as error:
            raise self.trouble(error) from error
        if space.free_bytes - nbytes < space.reserve_bytes:
            raise self._full(f"the file system of {self.path} has {space.free_bytes} bytes left")
        if files and space.inodes and space.free_inodes - files < space.reserve_inodes:
            raise self._full(f"the file system of {self.path} has {space.free_inodes} inodes left")

    def _full(self, message: str) -> StoreUnavailable:
        return StoreFull(message) if self._usage.can_evict(self.index) else StoreUnavailable(message)

    def set_evicting(self, able: bool) -> None:
        """Publish to all processes whether a full disk will soon have room again."""
        self._usage.set_evicting(self.index, able)

    def tell_of_retired(self) -> None:
        """Make all processes close what was evicted."""
        self._usage.tell_of_retired(self.index)

    @property
    def retired_count(self) -> int:
        """Segments evicted in this run. One load."""
        return self._usage.retired(self.index)

    def take_short(self) -> bool:
        """Return whether the file system refused to allocate since the last call."""
        return self._usage.take_short(self.index)

    def trouble(self, error: OSError) -> StoreUnavailable:
        """Translate a disk's error into one of ours; take the disk out of service if it is broken."""
        if error.errno in NO_ROOM:
            self._usage.report_short(self.index)
            return self._full(f"the disk {self.path} is full: {error.strerror}")
        if error.errno in FULL:
            return StoreUnavailable(f"the disk {self.path} is full: {error.strerror}")
        if error.errno in BROKEN:
            self.fail(error)
        return StoreUnavailable(f"the disk {self.path} fails: {error.strerror}")

    def lost_bytes(self, error: OSError) -> None:
        """Handle the loss of written bytes that the kernel could not store; the segment is already condemned."""
        WRITE_BACK_FAILURES.labels(str(self.path)).inc()
        if error.errno in FULL:
            self._paused_until_s = time.monotonic() + LOSS_PAUSE_S
        else:
            self.fail(error)
        text = error.strerror or str(error)
        self._loss_log.say(f"{self.path} has lost bytes that it had taken ({text}); they are fetched again")

    def fail(self, error: OSError) -> None:
        if not self.failed:
            log.error("the cache disk %s is out of service until the next start: %s", self.path, error)
        self._usage.fail_disk(self.index)
        DISK_FAILED.labels(str(self.path)).set(1)


def rank(disks: Sequence[Disk], digest: bytes, segment: int) -> list[Disk]:
    """Return the disks in service, starting with the one that should hold this segment."""
    if len(disks) == 1:
        return [disk for disk in disks if not disk.failed]
    name = digest + segment.to_bytes(8, "big")
    alive = [disk for disk in disks if not disk.failed]
    return sorted(alive, key=lambda disk: _score(disk, name), reverse=True)


def _score(disk: Disk, name: bytes) -> float:
    hashed = hashlib.blake2b(disk.disk_id.encode() + b"\0" + name, digest_size=8).digest()
    unit = (int.from_bytes(hashed, "big") + 1) / (2**64 + 1)  # within (0, 1)
    return disk.size_bytes / -math.log(unit) if unit < 1 else math.inf
