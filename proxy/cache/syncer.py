"""Finding out that written blocks have reached the disk.

How it works. A filled block is published as "written": all of its bytes are in the page cache, and readers may have
them from there. The express lane passes it by until it is "present", which says that the disk has it too. In between:

1. `add`, when the block is committed: one thread for each disk starts its write-back, then waits until it has ended.
   What is committed meanwhile waits for the next round, so the rounds grow with the load. Where only fdatasync tells
   the truth (`SyncBy.FILE`), which makes the file system write more than these bytes, there is one round a second.
2. No failure: one store for each block makes it "present". A failure, by whichever call it shows: the segment is given
   up, and its disk hears of it (`Disk.lost_bytes`). The kernel tells of failures by file, not by block.
3. Only a file description that was open before the write hears of every failure. So the thread keeps the segment,
   and with it the data file, until the result is known. The result is asked for by `Segment.has_lost` alone, on that
   description; the thread itself waits on one of its own, as a waiting call would take the result away from readers
   who ask at that moment.
4. A process that dies leaves "written" blocks that nobody waits for. The run notes that a worker has died; from then
   on such a block of another process is synced and compared before its next use (`Block.verify`).
5. More than `segments_max` segments are not kept: a block beyond that is published as one that nobody has checked.

Readers of a written block ask `has_lost` before each piece they send, and after the last one that they have read into
memory (gateway/unstored.py): so no complete response holds bytes that were lost under it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proxy.cache import writeback
from proxy.cache.blockmap import is_written, pack_present, pack_unchecked, word_crc32c
from proxy.cache.writeback import SyncBy

if TYPE_CHECKING:
    from proxy.cache.segment import Segment

ROUND_S = 1.0  # between two rounds of fdatasync: each may make the disk empty its cache

log = logging.getLogger(__name__)


class Syncer:
    """One disk's, in one process. Thread-safe."""

    def __init__(self, by: SyncBy, *, background: bool, segments_max: int) -> None:
        """Without `background`, `add` waits for the disk itself."""
        self.by = by
        self._background = background
        self._segments_max = segments_max
        self._changed = threading.Condition()
        self._waiting: dict[Segment, None] = {}  # in the order of their commits
        self._fresh: deque[tuple[Segment, int]] = deque()  # of those, the blocks whose write-back is to be started
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, segment: Segment, local_index: int) -> None:
        """A block was published as written. Inline with `background`: a lock, and a thread is woken."""
        segment.unstored.add(local_index)
        if not self._background:
            self._sync(segment)
            return
        with self._changed:
            room = segment in self._waiting or len(self._waiting) < self._segments_max
            if room and not self._closed:
                self._waiting[segment] = None
                self._fresh.append((segment, local_index))
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="syncer", daemon=True)
                    self._thread.start()
                self._changed.notify()
        if not room:
            _leave_unchecked(segment, local_index)

    def settle(self, segment: Segment, local_indices: Iterable[int]) -> bool:
        """Waits until these blocks are stored; False: their segment has lost bytes. Blocking."""
        error = self._wait(segment, sorted(local_indices))
        if error is not None:
            segment.lose(error)
        return not segment.has_lost()

    def close(self) -> None:
        """Forget what waits: the next run compares it. Returns at once, for a disk may never answer."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._fresh.clear()
            self._changed.notify()

    def _run(self) -> None:
        round_at_s = 0.0
        while self._wait_for_work():
            self._start_fresh()
            if self.by is SyncBy.FILE and not self._pause(round_at_s):
                continue  # more was committed meanwhile: start that, too
            round_at_s = time.monotonic() + ROUND_S
            self._sync_all()

    def _wait_for_work(self) -> bool:
        """False: closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return not self._closed

    def _pause(self, until_s: float) -> bool:
        """Whether the time has come; False: there is something to do before."""
        with self._changed:
            left_s = until_s - time.monotonic()
            return left_s <= 0 or not self._changed.wait_for(lambda: self._fresh or self._closed, left_s)

    def _start_fresh(self) -> None:
        with self._changed:
            fresh, self._fresh = self._fresh, deque()
        for segment, local_index in fresh:
            offset = local_index * segment.header.block_bytes
            writeback.start(segment.data.fd, offset, segment.header.block_length(local_index))

    def _sync_all(self) -> None:
        """Those that wait now; each is let go as soon as its result is known."""
        with self._changed:
            batch, self._waiting = deque(self._waiting), {}
        while batch:
            try:
                self._sync(batch.popleft())
            except Exception:  # one segment's trouble must not end the thread
                log.exception("a segment could not be synced")

    def _sync(self, segment: Segment) -> None:
        local_indices = sorted(segment.unstored)
        if not segment.retired and self.settle(segment, local_indices):
            _mark_stored(segment, local_indices)
        elif segment.has_lost():
            segment.retire("write_back")
        segment.unstored.difference_update(local_indices)

    def _wait(self, segment: Segment, local_indices: list[int]) -> OSError | None:
        header = segment.header
        with _described_anew(segment.data.fd) as fd:
            try:
                if self.by is SyncBy.FILE:
                    os.fdatasync(fd)
                elif self.by is SyncBy.RANGE:
                    for first, last in _runs(local_indices):
                        offset = first * header.block_bytes
                        writeback.wait_range(fd, offset, header.block_end(last) - offset)
            except OSError as error:
                return error
        return None


def _mark_stored(segment: Segment, local_indices: Iterable[int]) -> None:
    """The disk has these blocks that were written in this run. One store for each."""
    for local_index in local_indices:
        word = segment.word(local_index)
        if is_written(word, segment.tag):
            segment.store_word(local_index, pack_present(segment.tag, word_crc32c(word)))


def _leave_unchecked(segment: Segment, local_index: int) -> None:
    """Nobody will find out whether a written block is stored: whoever reads it next compares it first."""
    word = segment.word(local_index)
    if is_written(word, segment.tag):
        segment.store_word(local_index, pack_unchecked(word_crc32c(word)))
    segment.unstored.discard(local_index)


@contextmanager
def _described_anew(fd: int) -> Iterator[int]:
    """A second description of an open file; the same one where there is no other to be had."""
    try:
        other = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield fd
        return
    try:
        yield other
    finally:
        os.close(other)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run of consecutive numbers.

    >>> list(_runs([1, 2, 3, 5]))
    [(1, 3), (5, 5)]
    """
    first = last = -1
    for number in numbers:
        if first >= 0 and number == last + 1:
            last = number
            continue
        if first >= 0:
            yield first, last
        first = last = number
    if first >= 0:
        yield first, last
