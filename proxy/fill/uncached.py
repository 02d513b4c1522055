"""Uncached streams: a span's bytes straight from the origin, through a small buffer, for reads that no disk can hold.

How it works. A task fetches bytes into a bounded buffer; the reader takes chunks from it. A full buffer makes the
origin's connection wait. Closing the iterator cancels the task.

The reader decides how fast it takes bytes, so nobody else may wait for it:
1. These streams hold at most half of an origin's tickets (`Streams`); the others wait for their turn. A stream gives up
   its turn after SLICE_BYTES.
2. A reader that leaves the buffer full for longer than its pace allows loses its ticket and connection (ReaderSlow).
   Once it has caught up, the rest is requested from the offset reached, one buffer at a time. Such a request ends by
   itself, so nothing that the origin sends is thrown away. A reader that keeps up for one buffer counts as fast again.
3. In both cases the object's content may have changed before the next request; the version's validator detects that.
   For a version without a validator, one request fetches everything; its slow reader is cut off when others wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from proxy.admission import Admission, Room
from proxy.blocks import Later, RangeSource
from proxy.errors import OriginUnavailable, WarmstartError
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange
from proxy.relay.pooled import Pooled
from proxy.upstream.deliver import deliver
from proxy.upstream.retry import RetryPolicy

BUFFER_BYTES = 1 << 20
SLICE_BYTES = 64 << 20  # a second or less of a cloud connection; the next slice costs a round trip
URGENT_BYTES = 256 << 10  # a small read goes ahead of bulk
PATIENCE_MIN_S = 1.0  # a client that pauses for a moment is not slow


class ReaderSlow(WarmstartError):
    """The error of a reader that takes its bytes too slowly to keep its turn at the origin."""


class Buffer:
    """A buffer of `room_bytes`. The write that exceeds them waits.

    `pace`: bytes per second that the reader must take for a write to keep waiting, unless `holds_on` is True; 0: any.
    """

    def __init__(self, room_bytes: int | None = None, pace: int = 0) -> None:
        self.chunks: deque[bytes] = deque()
        self.held_bytes = 0
        self.received_bytes = 0
        self._room_bytes = BUFFER_BYTES if room_bytes is None else room_bytes
        self._pace = pace
        self.holds_on: Callable[[], bool] = lambda: False
        self._changed = asyncio.Event()

    def write(self, data: memoryview) -> Awaitable[None] | None:
        self.chunks.append(bytes(data))
        self.held_bytes += len(data)
        self.received_bytes += len(data)
        self._changed.set()
        return Later(self._room, len(data)) if self.held_bytes > self._room_bytes else None

    async def _room(self, written_bytes: int) -> None:
        """Wait until the buffer has room. Raise ReaderSlow."""
        patience_s = max(PATIENCE_MIN_S, written_bytes / self._pace) if self._pace else None
        while self.held_bytes > self._room_bytes:
            try:
                async with asyncio.timeout(patience_s):
                    while self.held_bytes > self._room_bytes:
                        await self.change()
            except TimeoutError:
                if not self.holds_on():
                    raise ReaderSlow("the client takes its bytes too slowly") from None

    def take(self) -> bytes:
        chunk = self.chunks.popleft()
        self.held_bytes -= len(chunk)
        self._changed.set()
        return chunk

    async def drained(self) -> None:
        while self.chunks:
            await self.change()

    async def change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def wake(self) -> None:
        self._changed.set()


async def stream_span(
    source: RangeSource | Pooled,
    version: ObjectVersion,
    span: ByteRange,
    policy: RetryPolicy,
    room: Room | None = None,
    *,
    begun: bool = False,
) -> AsyncGenerator[bytes, None]:
    """Yield the span's bytes in order. Raise what `deliver` raises, after the bytes that came before it.

    Take up room in `room` while running. Raise Overloaded if it is full, unless the answer has `begun`.
    """
    if room is None:
        room = Admission().uncached_reads
    if begun:
        room.take_anyway()
    else:
        room.take()
    try:
        async with aclosing(_stream(source, version, span, policy)) as stream:
            async for chunk in stream:
                yield chunk
    finally:
        room.give_back()


async def _stream(
    source: RangeSource | Pooled, version: ObjectVersion, span: ByteRange, policy: RetryPolicy
) -> AsyncGenerator[bytes, None]:
    buffer = Buffer(pace=policy.reader_pace)
    delivery = asyncio.get_running_loop().create_task(_bring(source, version, span, buffer, policy))
    delivery.add_done_callback(lambda done: buffer.wake())
    try:
        while True:
            while buffer.chunks:
                yield buffer.take()
            if delivery.done():
                if not buffer.chunks:
                    break
                continue
            await buffer.change()
        await delivery
    finally:
        delivery.cancel()
        await asyncio.wait({delivery})
        if not delivery.cancelled():
            delivery.exception()


async def _bring(
    source: RangeSource | Pooled, version: ObjectVersion, span: ByteRange, buffer: Buffer, policy: RetryPolicy
) -> None:
    streams = policy.throttles.of(version.origin).streams
    divisible = not version.validator.startswith("none")
    buffer.holds_on = lambda: not divisible and not streams.waiting
    clock, slow, start = asyncio.get_running_loop().time, False, span.start
    while start < span.end:
        step = span.length if not divisible else BUFFER_BYTES if slow else SLICE_BYTES
        part = ByteRange(start, min(start + step, span.end))
        try:
            await _bring_part(source, version, part, buffer, policy, is_first=start == span.start)
        except ReaderSlow as error:
            if not divisible:
                raise OriginUnavailable(f"{error}, and others wait") from error
            slow = True
            await buffer.drained()
        else:
            began_s, held_bytes = clock(), buffer.held_bytes
            if slow and part.end < span.end:
                await buffer.drained()
                slow = held_bytes < policy.reader_pace * (clock() - began_s)
        start = span.start + buffer.received_bytes


async def _bring_part(
    source: RangeSource | Pooled,
    version: ObjectVersion,
    part: ByteRange,
    buffer: Buffer,
    policy: RetryPolicy,
    *,
    is_first: bool,
) -> None:
    urgent = part.length <= URGENT_BYTES
    if isinstance(source, Pooled):
        await source.bring(part, buffer, policy, urgent=urgent)
        return
    streams = policy.throttles.of(version.origin).streams
    async with streams.take(patience_s=policy.deadline_s if is_first else None):
        await deliver(source, version.origin, version, part, buffer, policy, urgent=urgent)
