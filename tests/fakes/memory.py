"""An origin and a block writer in memory, for the rules of flights alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.blocks import BlockWriter, ByteSink, update_sum
from proxy.errors import StoreUnavailable
from proxy.fill.flight import Flights
from proxy.fill.progress import FillProgress
from proxy.objects import ObjectVersion, SumKind
from proxy.ranges import ByteRange


def version_of(content: bytes, key: str = "k") -> ObjectVersion:
    return ObjectVersion("s3://test", "b", key, 'etag "1"', len(content))


async def pump(sink: ByteSink, data: bytes) -> None:
    pending = sink.write(memoryview(data))
    if pending is not None:
        await pending


class MemoryOrigin:
    """Serves one content in pieces; `script` may raise or wait before piece n of a request."""

    name = "memory"

    def __init__(self, content: bytes, piece_bytes: int = 10) -> None:
        self.content = content
        self.piece_bytes = piece_bytes
        self.asked: list[ByteRange] = []
        self.script: Callable[[int, int], Awaitable[None]] | None = None  # request number, bytes sent

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        del version
        self.asked.append(span)
        number = len(self.asked)
        for start in range(span.start, span.end, self.piece_bytes):
            if self.script is not None:
                await self.script(number, start - span.start)
            await pump(sink, self.content[start : min(start + self.piece_bytes, span.end)])


class MemoryWriter:
    """Keeps a block in a bytearray. With `threaded`, each write is finished only when `barrier` is set."""

    def __init__(self, length: int, start: int = 0, progress: int = 0, content: bytes = b"") -> None:
        self.length = length
        self.start = start
        self.progress = progress
        self.data = bytearray(length)
        self.data[: len(content)] = content
        self.outcome: str | None = None
        self.under_way = 0
        self.barrier: asyncio.Event | None = None
        self.full_after: int | None = None
        self.was_read_back = False

    def write(self, data: memoryview) -> Awaitable[None] | None:
        assert self.outcome is None, "written after the end"
        if self.full_after is not None and self.progress + len(data) > self.full_after:
            raise StoreUnavailable("the disk is full")
        if self.barrier is not None:
            return self._later(bytes(data))
        self._put(data)
        return None

    async def _later(self, data: bytes) -> None:
        assert self.barrier is not None
        self.under_way += 1
        await self.barrier.wait()
        self._put(memoryview(data))
        self.under_way -= 1

    def _put(self, data: memoryview) -> None:
        for byte in data:
            self.data[(self.start + self.progress) % self.length] = byte
            self.progress += 1

    @property
    def crc32c(self) -> int:
        order = self.data[self.start :] + self.data[: self.start]
        return update_sum(SumKind.CRC32C, memoryview(order[: self.progress]))

    @property
    def block_crc32c(self) -> int:
        return update_sum(SumKind.CRC32C, memoryview(self.data))

    def read_back(self) -> None:
        self.was_read_back = True

    def commit(self) -> None:
        assert self.outcome is None
        assert self.progress == self.length
        self.outcome = "committed"

    def leave(self) -> None:
        self._end("left")

    def abandon(self) -> None:
        self._end("abandoned")

    def _end(self, outcome: str) -> None:
        assert self.outcome is None
        assert self.under_way == 0, "given up with a write under way"
        self.outcome = outcome


class MemoryClaim:
    """Gives a writer at once, or (`writer` None) finds the block in another process's hands."""

    def __init__(self, writer: MemoryWriter | None, first_bytes: int | None = None) -> None:
        self._writer = writer
        self.first_bytes = first_bytes
        self.passed_on = self.was_put_off = self.ended = False

    @property
    def held(self) -> bool:
        return self._writer is not None and self._writer.progress > 0

    def take(self) -> MemoryWriter | None:
        return self._writer

    async def prepare(self, writer: BlockWriter) -> None:
        writer.read_back()

    def pass_on(self) -> None:
        self.passed_on = True

    def put_off(self) -> None:
        self.was_put_off = True

    def end(self) -> None:
        self.ended = True


def launch(
    flights: Flights, origin: MemoryOrigin, version: ObjectVersion, index: int, block: ByteRange, writer: MemoryWriter
) -> FillProgress:
    """A flight with this writer, and its arrival."""
    arrival = FillProgress(block.length)
    arrival.move(writer.start, writer.progress)
    flights.launch(origin, version, index, block, MemoryClaim(writer), arrival)
    return arrival
