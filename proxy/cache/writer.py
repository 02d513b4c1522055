"""The writer of one block: the cache's `proxy.blocks.BlockWriter`.

How it works. Bytes arrive in the fill's order: from `start` to the block's end, then from the block's beginning to
`start`. Each write goes to the data file, into the running sums (one for each side of `start`, combined at the end),
then into the map's word, and only then into `progress`. So everything that a response has sent is in the word, and a
successor after kill -9 never writes it again.

While the disk is quick, a write is made at once, on the event loop: a thread's round trip costs more than the copy into
the page cache. Writes that sleep too long move the disk's writes to the writer threads for 3 seconds (disks.WritePace),
one at a time for each file (`writequeue`); then `write` returns what to await. That waits for the thread even when it
is cancelled: the caller's memory, and the lock, are free only after the write has returned.

When a fill begins, a writer thread makes the disk allocate its block (`advice`). A fill that may stop after the first
bytes of a small read allocates only those, and the rest if it goes on. The block's word says which. A fill that stops
keeps the whole block charged if it was allocated, and otherwise what it has written.

A committed block goes to the syncer. It starts the write-back at once, so that dirty pages don't pile up until the
kernel makes some writer wait for all of them. It publishes the block as present when it is on the disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Generator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from proxy.blocks import combine_sums
from proxy.cache.accounts import on_disk
from proxy.cache.advice import allocate
from proxy.cache.blockmap import (
    ABSENT_ALLOCATED_WORD,
    ABSENT_WORD,
    charged_bytes,
    pack_filling,
    pack_present,
    pack_written,
)
from proxy.cache.segment import Segment
from proxy.cache.sums import RunningSums
from proxy.errors import StoreUnavailable
from proxy.objects import SumKind

ALLOCATE_BYTES_MIN = 2 << 20  # a thread's round trip costs as much as allocating one megabyte saves


class SegmentWriter:
    """The right to fill one block, from `Block.reserve`. For one caller at a time."""

    def __init__(
        self,
        segment: Segment,
        local_index: int,
        start: int,
        progress: int,
        *,
        allocated: bool = False,
        first_bytes: int | None = None,
    ) -> None:
        """`allocated`: the whole block already has its room. `first_bytes`: as for `Block.reserve`."""
        self.start = start
        self.progress = progress
        self.length = segment.header.block_length(local_index)
        self._segment = segment
        self._local = local_index
        self._base = local_index * segment.header.block_bytes
        second_kind = segment.second_kind
        self._tail = RunningSums(second_kind)  # of [start, length)
        self._head = RunningSums(second_kind)  # of [0, start)
        self._under_way: Future[None] | None = None
        self._open = True
        self.needs_read_back = progress > 0
        self._allocated = allocated
        self._allocated_to = self.length  # progress at which the rest of the block is allocated
        if not allocated:
            self._allocate(first_bytes)

    def __repr__(self) -> str:
        return f"<SegmentWriter {self._local} of {self._segment!r}: {self.progress} of {self.length} from {self.start}>"

    def __del__(self) -> None:
        if not self._segment.closed:  # otherwise its lock is already gone, as if the process had died
            self.abandon()

    def read_back(self) -> None:
        """Add a dead predecessor's bytes to the checksum, before the first write. Blocking.

        Raises StoreUnavailable when they can't be read. The segment is then retired, because others may have followed
        that progress.
        """
        assert self.needs_read_back
        first = min(self.progress, self.length - self.start)
        fd = self._segment.data.fd
        try:
            whole = self._tail.read(fd, self._base + self.start, first)
            whole = whole and self._head.read(fd, self._base, self.progress - first)
            whole = whole and not self._has_holes(first)
        except OSError as error:
            self._segment.retire("damage")
            raise self._segment.disk.trouble(error) from error
        if not whole or self._segment.has_lost():
            self._segment.retire("damage")
            raise StoreUnavailable("a data file has lost bytes that were written to it")
        self.needs_read_back = False

    def _has_holes(self, first: int) -> bool:
        """Return whether the predecessor's bytes were lost while no process had the file open to learn of it."""
        spans = [(self.start, first), (0, self.progress - first)]
        return any(self._segment.data.has_hole(self._base + start, length) for start, length in spans if length)

    def write(self, data: memoryview) -> Awaitable[None] | None:
        """Append at the fill's position. Return None if done, else what to await; don't change `data` until then."""
        assert self._open
        assert not self.needs_read_back
        assert self._under_way is None or self._under_way.done()
        if len(data) > self.length - self.progress:
            raise ValueError(f"{len(data)} bytes do not fit behind {self.progress} of {self.length}")
        if self.progress >= self._allocated_to:
            self._allocate(None)
        disk = self._segment.disk
        if disk.writer_threads is not None and not disk.pace.inline():
            with suppress(RuntimeError):  # the threads have ended: the process is closing
                self._under_way = self._segment.writes.submit(disk.writer_threads, partial(self._append, data))
                return PendingWrite(self._under_way)
        disk.pace.run(partial(self._append, data))
        return None

    @property
    def crc32c(self) -> int:
        """The checksum of the written bytes, in the order of the fill; no write may be under way."""
        return combine_sums(SumKind.CRC32C, self._tail.crc32c, self._head.crc32c, self._head.length)

    @property
    def block_crc32c(self) -> int:
        """The checksum of the complete block."""
        assert self.progress == self.length
        return combine_sums(SumKind.CRC32C, self._head.crc32c, self._tail.crc32c, self._tail.length)

    def commit(self) -> None:
        """Publish the block (state, run and checksum in one store), release the lock and call the syncer."""
        assert self._open
        assert self.progress == self.length, f"{self!r} is not complete"
        assert self._under_way is None or self._under_way.done()
        self._open = False
        segment, sums = self._segment, self._head
        sums.append(self._tail)
        assert sums.length == self.length
        second = sums.second if sums.kind is segment.second_kind else 0  # the kind may have become known meanwhile
        segment.store_second_sum(self._local, second)  # before the word that makes it valid
        pack = pack_present if segment.disk.in_memory else pack_written
        segment.store_word(self._local, pack(segment.tag, sums.crc32c))
        segment.release(self._local)
        if not segment.disk.in_memory:
            segment.disk.syncer.add(segment, self._local)

    def _allocate(self, first_bytes: int | None) -> None:
        """Make the disk allocate the first bytes of the fill, or the whole block."""
        offset, length = self._base, self.length
        self._allocated_to = self.length
        threads = self._segment.disk.writer_threads
        if threads is None or self.length < ALLOCATE_BYTES_MIN:
            return
        if first_bytes is not None and self.start + first_bytes < self.length:
            offset, length = self._base + self.start, first_bytes
            self._allocated_to = first_bytes
        else:
            self._allocated = True
        with suppress(RuntimeError):  # they have ended: the process is closing
            self._segment.writes.submit(threads, partial(allocate, self._segment.data, offset, length))

    def abandon(self) -> None:
        """Give up the fill: the block is absent again. Does nothing if the writer is done."""
        self._end(keep=False)

    def leave(self) -> None:
        """Give up the fill, but keep the written bytes for the block's next writer, as if this process had died.

        For a fill whose bytes are right: its reader went away, or the origin broke off.
        """
        self._end(keep=True)

    def _end(self, *, keep: bool) -> None:
        """End the fill. A write still under way (its awaiter was torn down) keeps the lock until it has returned."""
        if not self._open:
            return
        self._open = False
        if self._under_way is not None and not self._under_way.done():
            self._under_way.add_done_callback(lambda _: self._give_up(keep))
        else:
            self._give_up(keep)

    def _give_up(self, keep: bool) -> None:
        segment = self._segment
        if not segment.retired:  # otherwise its files were charged with what the word said then
            word = ABSENT_ALLOCATED_WORD if self._allocated else ABSENT_WORD
            if keep:
                word = pack_filling(segment.tag, self.start, self.progress, allocated=self._allocated)
            elif self.progress:
                word = ABSENT_ALLOCATED_WORD  # what was written stays; how much it was is not recorded
            segment.store_word(self._local, word)
            segment.disk.freed(on_disk(self.length) - charged_bytes(word, self.length), segment.folder)
        segment.release(self._local)

    def _append(self, data: memoryview) -> None:
        """Write, sum and publish, before and after the wrap to the block's beginning."""
        while len(data) > 0:
            wraps = self.progress < self.length - self.start
            position = self.start + self.progress if wraps else self.start + self.progress - self.length
            part = data[: (self.length if wraps else self.start) - position]
            self._write_at(part, self._base + position)
            (self._tail if wraps else self._head).update(part)
            progress = self.progress + len(part)
            self._segment.store_word(self._local, pack_filling(self._segment.tag, self.start, progress))
            self.progress = progress
            data = data[len(part) :]

    def _write_at(self, data: memoryview, offset: int) -> None:
        segment = self._segment
        if segment.is_cut():
            raise StoreUnavailable("a data file was cut short by something else")
        if segment.lost:
            raise StoreUnavailable("a data file has lost bytes that were written to it")
        try:
            while len(data) > 0:
                count = os.pwrite(segment.data.fd, data, offset)
                data, offset = data[count:], offset + count
        except OSError as error:
            raise segment.disk.trouble(error) from error
        segment.grown(offset)


class PendingWrite:
    """An awaitable write in a thread, which waits even while cancelled. Await or shield it directly: a task around it
    may be cancelled before its first step, and would then not wait at all."""

    def __init__(self, future: Future[None]) -> None:
        self._future = future

    def __await__(self) -> Generator[object, None, None]:
        return self._settle().__await__()

    async def _settle(self) -> None:
        future = asyncio.wrap_future(self._future)
        cancelled: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            future.exception()  # retrieved, as asyncio demands: the awaiter only needs to know that it ended
            raise cancelled
        future.result()
