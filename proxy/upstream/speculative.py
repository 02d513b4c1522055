"""Speculative reads: a range requested before its object is known, to save a first read one round trip.

How it works. An unknown key would cost a HEAD, and then the block's GET: two round trips to the first byte. So the GET
goes first, without a condition, for a version that is not known yet:
1. When its head has come, `begin` keeps what can check it, and the first bytes wait in one buffer. `tell` returns what
   the head says of the object. If an origin's head can't say enough, a HEAD is sent beside the GET.
2. The block's fill reads it like an origin (`read_range`), with the version that has become known. Only then is it
   checked, by the rules for every range. If it is of another version, or nonsense, the fill asks the origin as usual.
3. If nobody takes it (the key is missing, a condition failed, the block was there), `drop` closes its connection.
It passes the origin's throttle by itself, and keeps its turn there until its head has come. It must not hold one while
it waits to be taken, because the request that finds its version may need a turn, too. Its taker needs no turn of its
own.
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
    """One speculative read, for one taker. Create it with the event loop running.

    `span` may be beyond the object's end, wholly or in part.
    """

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
        """Note a successful head: called by the origin. `attach` checks the object's version once it is known."""
        self._record = record
        self._leave(None)
        if not self._head.done():
            self._head.set_result(attach)
        return self

    async def tell(self) -> ObjectRecord | None:
        """Return what the head says of the key's current version; None: too little. Raise as the origin does."""
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
        """Read as an origin does; `span` begins where this one does. Raise what an origin raises."""
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
        """Cancel the read: nobody will take it."""
        if self._task is not None:
            self._task.cancel()

    async def _cancel(self) -> None:
        """Cancel the read. Return when the sink is not called any more."""
        task, self._task = self._task, None  # else it, its error and the frames that hold the sink form a cycle
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if not self._head.done():
            known = isinstance(error, WarmstartError)
            self._head.set_exception(error if error is not None and known else OriginUnavailable("no answer"))
            self._head.exception()  # seen, even if nobody takes it
        if not self._taken.done():
            self._taken.cancel()


class SpeculativeSource:
    """An origin with a speculative read under way. If that read `holds` what a fill wants first, call `take`."""

    def __init__(self, speculative: SpeculativeRead, origin: RangeSource) -> None:
        self._speculative: SpeculativeRead | None = speculative
        self.origin = origin

    @property
    def name(self) -> str:
        return self.origin.name

    def holds(self, span: ByteRange) -> bool:
        """Return whether the span's first bytes are the speculative read's. Drop it if the fill begins elsewhere."""
        if self._speculative is None or self._speculative.span.start == span.start:
            return self._speculative is not None
        self.drop()
        return False

    async def take(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        """Bring what the read holds of the span, maybe nothing; only once. Raise what an origin's read raises."""
        speculative, self._speculative = self._speculative, None
        assert speculative is not None
        try:
            await speculative.read_range(version, ByteRange(span.start, min(span.end, speculative.span.end)), sink)
        except OriginUnavailable:
            raise  # the next try comes after a pause
        except WarmstartError:
            if speculative.delivered:
                raise
            # It was requested before the version was known, so its refusal says little about that version.

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        await self.origin.read_range(version, span, sink)

    def drop(self) -> None:
        """Cancel the read: the fill will not read any more."""
        if self._speculative is not None:
            self._speculative.drop()
            self._speculative = None
