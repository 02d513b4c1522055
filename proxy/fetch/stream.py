"""Bytes of a span straight from the origin, through a little memory: the way of a read that no disk can hold.

How it works. A task delivers into a bounded buffer; the reader takes chunks from it. A full buffer makes the origin's
connection wait. Closing the iterator cancels the task.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable

from proxy.blocks import Origin
from proxy.fetch.attempts import RetryPolicy
from proxy.fetch.fill import deliver
from proxy.fetch.pooled import Pooled
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange

BUFFER_BYTES = 1 << 20
URGENT_BYTES = 256 << 10  # a small read goes ahead of bulk


class _Buffer:
    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.held_bytes = 0
        self._changed = asyncio.Event()

    def write(self, data: memoryview) -> Awaitable[None] | None:
        self.chunks.append(bytes(data))
        self.held_bytes += len(data)
        self._changed.set()
        return self._room() if self.held_bytes > BUFFER_BYTES else None

    async def _room(self) -> None:
        while self.held_bytes > BUFFER_BYTES:
            await self.change()

    def take(self) -> bytes:
        chunk = self.chunks.popleft()
        self.held_bytes -= len(chunk)
        self._changed.set()
        return chunk

    async def change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def wake(self) -> None:
        self._changed.set()


async def stream_span(
    source: Origin | Pooled, version: ObjectVersion, span: ByteRange, policy: RetryPolicy
) -> AsyncGenerator[bytes, None]:
    """The span's bytes in order; raises what `deliver` raises, after the bytes that came before it."""
    buffer, urgent = _Buffer(), span.length <= URGENT_BYTES
    delivery = asyncio.get_running_loop().create_task(
        source.bring(span, buffer, policy, urgent=urgent)
        if isinstance(source, Pooled)
        else deliver(source, version.origin, version, span, buffer, policy, urgent=urgent)
    )
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
