"""A range asked for before its object is known: the first bytes of a first read, in the one round trip that tells it.

How it works. A key that nobody knows would cost a HEAD, and then the block's GET: two round trips to the first byte. So
the GET goes first, without a condition, for a version that is not known yet:
1. When its head has come, `begin` keeps what can judge it, and the first bytes wait, one buffer of them. `tell` gives
   what the head says of the object. Where an origin's head can't say enough, a HEAD leaves beside the GET.
2. The block's fill takes it like an origin (`read_range`), with the version that became known: only now it is judged,
   by the rules of every range. Another version, or nonsense, and the fill asks the origin as usual.
3. Nobody takes it (the key is missing, a condition failed, the block was there): `drop` closes its connection.
It passes the origin's throttle by itself, and has a place there until its head has come: it must not hold one while it
waits to be taken, for what tells its version may need a place, too. Who takes it needs no turn of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from proxy.blocks import ByteSink, Later, RangeSource
from proxy.errors import OriginUnavailable, WarmstartError
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import Attach, OpensRanges
from proxy.ranges import ByteRange
from proxy.upstream.limiter import Ticket
from proxy.upstream.throttle import OriginThrottle


class SpeculativeRead:
    """`span` may lie beyond the object's end, wholly or in part. One taker; make it with the event loop running."""

    def __init__(self, origin: OpensRanges, bucket: str, key: str, span: ByteRange, throttle: OriginThrottle) -> None:
        self.span = span
        loop = asyncio.get_running_loop()
        self._head: asyncio.Future[Attach] = loop.create_future()
        self._taken: asyncio.Future[None] = loop.create_future()
        self._record: ObjectRecord | None = None
        self._sink: ByteSink | None = None
        self._throttle = throttle
        self._ticket: Ticket | None = None
        self.delivered = False  # some of it
        task = loop.create_task(self._ask(origin, bucket, key), name=f"open {key!r}")
        task.add_done_callback(self._ended)
        self._task: asyncio.Task[None] | None = task

    async def _ask(self, origin: OpensRanges, bucket: str, key: str) -> None:
        self._ticket = await self._throttle.enter(urgent=True)
        try:
            await origin.open_range(bucket, key, self.span, self)
        except BaseException as error:
            self._leave(error)
            raise
        self._leave(None)

    def _leave(self, error: BaseException | None) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._throttle.leave(ticket, error)

    def begin(self, attach: Attach, record: ObjectRecord | None = None) -> ByteSink:
        """The origin's: the head has come and is a success."""
        self._record = record
        self._leave(None)
        if not self._head.done():
            self._head.set_result(attach)
        return self

    async def tell(self) -> ObjectRecord | None:
        """What the head says of the key's current version; None: too little. Raises as the origin does."""
        await asyncio.shield(self._head)
        return self._record

    def write(self, data: memoryview) -> Awaitable[None] | None:
        if self._sink is None:
            return Later(self._hold, data)
        self.delivered = True
        return self._sink.write(data)

    async def _hold(self, data: memoryview) -> None:
        await asyncio.shield(self._taken)
        assert self._sink is not None
        self.delivered = True
        pending = self._sink.write(data)
        if pending is not None:
            await pending

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        """As an origin's; `span` begins where this one does. Raises what an origin's does."""
        assert span.start == self.span.start
        assert self._sink is None, "taken once"
        try:
            attach = await asyncio.shield(self._head)
            self._sink = attach(version, span, sink)
            if not self._taken.done():  # else the answer broke off behind its head: the task says why
                self._taken.set_result(None)
            if self._task is not None:
                await asyncio.shield(self._task)
        except BaseException:
            await self._cancel()
            raise

    def drop(self) -> None:
        """Nobody will take it."""
        if self._task is not None:
            self._task.cancel()

    async def _cancel(self) -> None:
        """Returns when the sink is not called any more."""
        task, self._task = self._task, None  # else it, its error and the frames that hold the sink keep each other
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self._head.done():
            known = isinstance(error, WarmstartError)
            self._head.set_exception(error if error is not None and known else OriginUnavailable("no answer"))
            self._head.exception()  # seen, also where nobody takes it
        if not self._taken.done():
            self._taken.cancel()


class SpeculativeSource:
    """An origin whose speculative read is under way. `take` that where it `holds` what a fill wants first."""

    def __init__(self, speculative: SpeculativeRead, origin: RangeSource) -> None:
        self._speculative: SpeculativeRead | None = speculative
        self.origin = origin

    @property
    def name(self) -> str:
        return self.origin.name

    def holds(self, span: ByteRange) -> bool:
        """Whether the span's first bytes are the speculative read's. Of a fill that begins elsewhere, it ends here."""
        if self._speculative is None or self._speculative.span.start == span.start:
            return self._speculative is not None
        self.drop()
        return False

    async def take(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        """Brings what the read holds of the span, maybe nothing, and once. Raises what an origin's reading does."""
        speculative, self._speculative = self._speculative, None
        assert speculative is not None
        try:
            await speculative.read_range(version, ByteRange(span.start, min(span.end, speculative.span.end)), sink)
        except OriginUnavailable:
            raise  # the next try comes after a pause
        except WarmstartError:
            if speculative.delivered:
                raise
            # Asked before the version was known, so that its refusal says little of that.

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        await self.origin.read_range(version, span, sink)

    def drop(self) -> None:
        """The fill will not read any more."""
        if self._speculative is not None:
            self._speculative.drop()
            self._speculative = None
