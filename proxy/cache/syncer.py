"""The syncer: it writes filled blocks back and finds out when they have reached the disk.

How it works. A filled block is published as "written": all of its bytes are in the page cache, and readers may take
them from there. The express lane skips it until it is "present", which means that the disk has it too. In between:

1. `add` is called when the block is committed. One thread for each disk starts the write-back, then waits until it has
   ended. Blocks committed meanwhile wait for the next round, so the rounds grow with the load. Where only fdatasync is
   reliable (`SyncBy.FILE`), which makes the file system write more than these bytes, there is one round a second.
2. If nothing failed, one store for each block makes it "present". After a failure, whichever call reports it, the
   segment is retired and its disk notified (`Disk.lost_bytes`). The kernel reports failures per file, not per block.
3. Only a file description that was open before the write sees every failure. So the thread keeps the segment, and with
   it the data file, until the result is known. Only `Segment.has_lost` asks for the result, on that description. The
   thread itself waits on a description of its own: a waiting call would take the result away from readers that ask at
   the same moment.
4. A process that dies leaves "written" blocks that nobody waits for. The run notes that a worker has died; from then
   on such a block of another process is synced and compared before its next use (`Block.verify`).
5. At most `segments_max` segments are kept: a block beyond that is published as unchecked.

Readers of a written block ask `has_lost` before each piece they send, and after the last one that they have read into
memory (gateway/unstored.py). So no complete response contains bytes that were lost meanwhile.
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

ROUND_S = 1.0  # between two rounds of fdatasync: each may make the disk flush its cache

log = logging.getLogger(__name__)


class Syncer:
    """The syncer of one disk in one process. Thread-safe."""

    def __init__(self, by: SyncBy, *, background: bool, segments_max: int) -> None:
        """Without `background`, `add` itself waits for the disk."""
        self.by = by
        self._background = background
        self._segments_max = segments_max
        self._changed = threading.Condition()
        self._waiting: dict[Segment, None] = {}  # in the order of their commits
        self._fresh: deque[tuple[Segment, int]] = deque()  # their blocks whose write-back is to be started
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, segment: Segment, local_index: int) -> None:
        """Add a block that was published as written. Inline with `background`: takes a lock and wakes a thread."""
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
        """Wait until these blocks are stored. Return False if their segment has lost bytes. Blocking."""
        error = self._wait(segment, sorted(local_indices))
        if error is not None:
            segment.lose(error)
        return not segment.has_lost()

    def close(self) -> None:
        """Forget the waiting blocks, which the next run compares. Return at once, as a disk may never answer."""
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
                continue  # more was committed meanwhile: start that too
            round_at_s = time.monotonic() + ROUND_S
            self._sync_all()

    def _wait_for_work(self) -> bool:
        """Wait until there is something to do. Return False if the syncer was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return not self._closed

    def _pause(self, until_s: float) -> bool:
        """Wait until that time. Return False if there is something to do before."""
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
        """Sync the segments that are waiting now; release each as soon as its result is known."""
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
    """Mark these blocks, written in this run, as present: the disk has them. One store for each."""
    for local_index in local_indices:
        word = segment.word(local_index)
        if is_written(word, segment.tag):
            segment.store_word(local_index, pack_present(segment.tag, word_crc32c(word)))


def _leave_unchecked(segment: Segment, local_index: int) -> None:
    """Mark a written block as unchecked, as nobody waits for it: its next reader compares it first."""
    word = segment.word(local_index)
    if is_written(word, segment.tag):
        segment.store_word(local_index, pack_unchecked(word_crc32c(word)))
    segment.unstored.discard(local_index)


@contextmanager
def _described_anew(fd: int) -> Iterator[int]:
    """Yield a second file description of an open file, or the same one if that fails."""
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
    """Yield the first and last of each run of consecutive numbers.

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
