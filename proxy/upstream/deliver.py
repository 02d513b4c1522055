"""Delivery of one object version's bytes from its origin: broken transfers are resumed, failed requests tried again.

`deliver` brings a span to any sink. `fill_block` brings one block to its writer: from where the fill starts to the
block's end, then (if it started inside) from the block's beginning to the start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, runtime_checkable

from proxy.blocks import BlockWriter, ByteSink, Later, RangeSource
from proxy.errors import OriginUnavailable
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange
from proxy.upstream.hedge import read_hedged
from proxy.upstream.retry import Attempts, OriginCall, RetryPolicy, turn
from proxy.upstream.speculative import SpeculativeSource
from proxy.upstream.throttle import OriginThrottle

PAUSE_MIN_S = 0.001  # below, a sleep costs more than it holds back


@runtime_checkable
class Brings(Protocol):
    """A source that decides itself which node or origin to ask. It passes the throttle only when it asks the origin."""

    @property
    def level(self) -> int:
        """The source's level: fills wait only for those of lower levels; 0 waits for none."""
        ...

    def begin(self, writer: BlockWriter) -> None: ...

    async def bring(
        self, version: ObjectVersion, span: ByteRange, sink: ByteSink, policy: RetryPolicy, *, urgent: bool, last: bool
    ) -> None: ...

    async def settle(self, policy: RetryPolicy) -> None:
        """Check the complete block. Raise BytesWrong if it is not what it should be."""
        ...

    def end(self, *, done: bool) -> None: ...


class Counted:
    """A sink that passes bytes on, counts those taken, and pays for them: this enforces the bandwidth limit."""

    def __init__(self, sink: ByteSink, attempts: Attempts, pay: Callable[[int], float]) -> None:
        self._sink = sink
        self._attempts = attempts
        self._pay = pay
        self.taken_bytes = 0

    def write(self, data: memoryview) -> Awaitable[None] | None:
        length = len(data)
        pending = self._sink.write(data)
        wait_s = self._pay(length)
        if pending is not None or wait_s > PAUSE_MIN_S:
            return Later(self._finish, pending, length, wait_s)
        self.taken_bytes += length
        self._attempts.progressed()
        return None

    async def _finish(self, pending: Awaitable[None] | None, length: int, wait_s: float) -> None:
        if pending is not None:
            await pending
        self.taken_bytes += length
        self._attempts.progressed()
        if wait_s > PAUSE_MIN_S:
            await asyncio.sleep(wait_s)


async def deliver(
    origin: RangeSource,
    origin_id: str,
    version: ObjectVersion,
    span: ByteRange,
    sink: ByteSink,
    policy: RetryPolicy,
    *,
    urgent: bool = False,
) -> None:
    """Bring the span to the sink, in order, each byte once. Raise what a retry cannot mend.

    `urgent`: ahead of bulk if requests wait for the origin.
    """
    whole = origin.origin if isinstance(origin, SpeculativeSource) else origin
    attempts = Attempts(policy, OriginCall(whole, version.bucket, version.key))
    counted = Counted(sink, attempts, policy.throttles.of(origin_id).pay)
    while counted.taken_bytes < span.length:
        rest = ByteRange(span.start + counted.taken_bytes, span.end)
        try:
            if isinstance(origin, SpeculativeSource) and origin.holds(rest):
                await origin.take(version, rest, counted)
                continue
            async with turn(policy, origin_id, attempts, urgent=urgent) as throttle:
                await _read(origin, version, rest, counted, throttle)
        except OriginUnavailable as error:
            if not await attempts.again(error):
                raise
        else:
            assert counted.taken_bytes == span.length, "an origin returned without delivering the span"


async def _read(
    origin: RangeSource, version: ObjectVersion, span: ByteRange, sink: ByteSink, throttle: OriginThrottle
) -> None:
    """Send one request, and a second one if the first is late and hedging is configured."""
    if not throttle.hedges.share:
        await origin.read_range(version, span, sink)
        return

    def ask(offset: int, taker: ByteSink) -> Awaitable[None]:
        return origin.read_range(version, ByteRange(span.start + offset, span.end), taker)

    await read_hedged(ask, sink, throttle, origin.name)


class WriterSink:
    """A sink that writes to a block, reports its progress, and knows whether a write is still under way."""

    def __init__(self, writer: BlockWriter, moved: Callable[[int, int], None]) -> None:
        self._writer = writer
        self._moved = moved
        self._under_way: asyncio.Future[None] | None = None

    def write(self, data: memoryview) -> Awaitable[None] | None:
        pending = self._writer.write(data)
        if pending is None:
            self._moved(self._writer.start, self._writer.progress)
            return None
        self._under_way = asyncio.ensure_future(pending)
        return Later(self._finish, self._under_way)

    async def _finish(self, under_way: asyncio.Future[None]) -> None:
        await asyncio.shield(under_way)
        self._under_way = None
        self._moved(self._writer.start, self._writer.progress)

    async def settle(self) -> None:
        """Return when no write is under way any more. A block's lock is given up only after that."""
        while self._under_way is not None and not self._under_way.done():
            try:
                await asyncio.shield(asyncio.wait({self._under_way}))
            except asyncio.CancelledError:
                continue  # the write holds memory and the lock: nothing may end before it does
        if self._under_way is not None and not self._under_way.cancelled():
            self._under_way.exception()  # seen: the fill has failed for its own reason
        self._under_way = None


async def fill_block(
    origin: RangeSource | Brings,
    origin_id: str,
    version: ObjectVersion,
    block: ByteRange,
    writer: BlockWriter,
    sink: WriterSink,
    policy: RetryPolicy,
    until: int | None = None,
) -> None:
    """Bring the rest of one block to its writer, or until its progress is `until`. Continue a predecessor's fill."""
    until = writer.length if until is None else min(until, writer.length)
    while writer.progress < until:
        position = writer.start + writer.progress
        if position < writer.length:
            span = ByteRange(block.start + position, block.end)
        else:
            span = ByteRange(block.start + position - writer.length, block.start + writer.start)
        span = ByteRange(span.start, min(span.end, span.start + until - writer.progress))
        urgent = until < writer.length
        if isinstance(origin, Brings):
            last = writer.progress + span.length == writer.length
            await origin.bring(version, span, sink, policy, urgent=urgent, last=last)
        else:
            await deliver(origin, origin_id, version, span, sink, policy, urgent=urgent)
