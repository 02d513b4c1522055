"""Flights: the one fill of a block that every reader of this process waits for.

How it works.
1. Whoever misses a block looks for its arrival here first; only when there is none it launches a flight. Look-up and
   launching happen with no await between them, so one process never starts two.
2. A flight is a task of its own. A reader that goes away only takes back its interest. A flight that waits for room
   and has lost all interest is dropped; one that has begun, here or in a predecessor, runs on. A reader may
   join between the drop and the task's next step: then the flight waits for room again.
3. Only when there is room the flight claims its block's writer (that is the lock between processes): a lock held
   while waiting would look like a filler that stands still. Where another process has the block by then, the
   claim passes the arrival on to following that one.
4. The flight leaves the table when the block is published, in the same step.
5. A fill that only small readers want brings their bytes first, by a request of their own. When nobody wants more by
   then, it steps back: it leaves the block to whoever wants the rest, and tells its claim.
6. Cancelled or failed, it leaves the table, settles its last write, gives the writer up, then fails the arrival.
   Readers see the error; whoever asks from that moment on starts over, and finds a dying fill's block like another
   worker's: it is taken over as soon as its lock is free.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Protocol

from proxy.blocks import BlockWriter, RangeSource
from proxy.errors import OriginUnavailable, WarmstartError
from proxy.fill.limiter import FillLimiter
from proxy.fill.progress import FillPaused, FillProgress
from proxy.fill.room import with_room
from proxy.metrics import FILLS
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange
from proxy.upstream.deliver import Brings, WriterSink, fill_block
from proxy.upstream.retry import RetryPolicy
from proxy.upstream.speculative import SpeculativeSource
from proxy.upstream.throttle import OriginThrottle

log = logging.getLogger(__name__)

FlightKey = tuple[bytes, int]  # the version's digest, the block's index


class FlightClaim(Protocol):
    """How a flight comes by its block's writer. `held`: it has it already, taken over from a fill that had begun.

    `take` gives None where another process fills the block, or has; `pass_on` then sees to the arrival. `prepare`
    reads back what a predecessor wrote. `first_bytes`: after so many the fill looks whether more is wanted, and if not
    calls `put_off`; None: it always goes on.
    """

    @property
    def first_bytes(self) -> int | None: ...

    def put_off(self) -> None: ...

    @property
    def held(self) -> bool: ...

    def take(self) -> BlockWriter | None: ...

    async def prepare(self, writer: BlockWriter) -> None: ...

    def pass_on(self) -> None: ...

    def end(self) -> None:
        """The flight is over."""
        ...


class Flights:
    """All arrivals of this process. `settled(version)` is called when no flight of a version is left.

    `above` has the room of flights by their level, for those that wait for other nodes: each level its own, so that the
    fills of two nodes never wait for each other's room. `room_wait_s`: how long a fill waits for room on a full disk.
    """

    def __init__(
        self,
        limiter: FillLimiter,
        policy: RetryPolicy,
        above: Mapping[int, FillLimiter] | None = None,
        room_wait_s: float = 0.0,
    ) -> None:
        self.room_wait_s = room_wait_s
        self._limiter = limiter
        self._above = dict(above or {})
        self._policy = policy
        self._arrivals: dict[FlightKey, FillProgress] = {}
        self._tasks: dict[FlightKey, asyncio.Task[None]] = {}
        self._waiting: set[FlightKey] = set()  # for room in the limiter, and dropped when nobody wants them
        self._dropped: set[FlightKey] = set()  # of those, the ones that were cancelled for want of interest
        self._per_version: Counter[bytes] = Counter()
        self.settled: Callable[[ObjectVersion], None] = lambda version: None

    def throttle(self, origin_id: str) -> OriginThrottle:
        """What requests to that origin pass."""
        return self._policy.throttles.of(origin_id)

    def find(self, version: ObjectVersion, index: int) -> FillProgress | None:
        return self._arrivals.get((version.digest, index))

    def count(self) -> int:
        """How many blocks are on their way, here or followed."""
        return len(self._arrivals)

    def under_way(self, version: ObjectVersion) -> bool:
        """Whether some flight of the version has not ended: `settled` is still to be called."""
        return self._per_version[version.digest] > 0

    def finishing(self, version: ObjectVersion) -> list[FillProgress]:
        """Arrivals of a version whose bytes are all there and which are about to be published."""
        arrivals = [arrival for key, arrival in self._arrivals.items() if key[0] == version.digest]
        return [arrival for arrival in arrivals if arrival.complete]

    def follow(self, version: ObjectVersion, index: int, arrival: FillProgress) -> None:
        """Enters an arrival that another process fills."""
        assert (version.digest, index) not in self._arrivals
        self._arrivals[version.digest, index] = arrival

    def forget(self, version: ObjectVersion, index: int) -> None:
        """Removes a followed arrival that has ended."""
        self._arrivals.pop((version.digest, index), None)

    def launch(
        self,
        origin: RangeSource | Brings,
        version: ObjectVersion,
        index: int,
        block: ByteRange,
        claim: FlightClaim,
        arrival: FillProgress,
    ) -> None:
        """Starts the fill of bytes `block`. The arrival is a new one, or one that was followed and is taken over."""
        key = (version.digest, index)
        assert key not in self._tasks, "a block has one flight"
        self._arrivals[key] = arrival
        self._per_version[version.digest] += 1
        flight = self._fly(key, origin, version, block, claim, arrival)
        self._tasks[key] = asyncio.get_running_loop().create_task(flight, name=f"fill {version.key!r} {index}")

    def release(self, version: ObjectVersion, index: int, arrival: FillProgress) -> None:
        """A reader goes away (or has what it wanted)."""
        arrival.interest -= 1
        assert arrival.interest >= 0
        key = (version.digest, index)
        task = self._tasks.get(key)
        if arrival.interest == 0 and task is not None and key in self._waiting and key not in self._dropped:
            self._dropped.add(key)
            task.cancel()

    async def _fly(
        self,
        key: FlightKey,
        origin: RangeSource | Brings,
        version: ObjectVersion,
        block: ByteRange,
        claim: FlightClaim,
        arrival: FillProgress,
    ) -> None:
        fill = _Fill(arrival)
        source = origin if isinstance(origin, Brings) else None
        limiter = self._above.get(source.level, self._limiter) if source is not None else self._limiter
        policy = replace(self._policy, outlast=arrival.outlast)
        writer = claim.take() if claim.held else None
        if writer is not None:
            fill.begin(writer)
        try:
            # Its reader went away before this task's first step. A fill that had begun already goes on all the same:
            # else a reader that is content with what is there would leave its block unfinished, again and again.
            if arrival.interest == 0 and writer is None:
                raise asyncio.CancelledError
            async with AsyncExitStack() as room:
                urgent = claim.first_bytes is not None
                await self._enter(limiter, room, key, arrival, droppable=writer is None, urgent=urgent)
                writer = writer or await with_room(partial(_take, claim), self.room_wait_s)
                if writer is None:
                    self._leave(key, arrival)
                    claim.pass_on()
                    return
                sink = fill.begin(writer)
                if source is not None:
                    source.begin(writer)
                if writer.progress:
                    await claim.prepare(writer)
                    FILLS.labels("taken_over").inc()
                if not isinstance(origin, SpeculativeSource):
                    arrival.asked()
                for until in (claim.first_bytes, None):
                    await fill_block(origin, version.origin, version, block, writer, sink, policy, until)
                    if writer.progress < writer.length and not arrival.wanted:
                        self._step_back(key, writer, claim, arrival)
                        return
                if source is not None:
                    await source.settle(policy)
            self._publish(key, writer, arrival)
            if source is not None:
                source.end(done=True)
        except BaseException as error:
            await self._fail(key, fill, arrival, error)
            if not isinstance(error, WarmstartError | asyncio.CancelledError):
                log.exception("fill of %s block %d failed", version.key, key[1])
        finally:
            claim.end()
            if source is not None:
                source.end(done=False)
            self._end(version)

    def _publish(self, key: FlightKey, writer: BlockWriter, arrival: FillProgress) -> None:
        self._leave(key, arrival)
        writer.commit()
        arrival.publish()
        FILLS.labels("done").inc()

    async def _fail(self, key: FlightKey, fill: _Fill, arrival: FillProgress, error: BaseException) -> None:
        self._unlist(key, arrival)
        await fill.settle()
        self._leave(key, arrival)
        fill.give_up(error)
        arrival.fail(_shown(error))
        FILLS.labels("cancelled" if isinstance(error, asyncio.CancelledError) else "failed").inc()

    def _end(self, version: ObjectVersion) -> None:
        self._per_version[version.digest] -= 1
        if not self._per_version[version.digest]:
            del self._per_version[version.digest]
            self.settled(version)

    def _step_back(self, key: FlightKey, writer: BlockWriter, claim: FlightClaim, arrival: FillProgress) -> None:
        """Small readers have what they wanted, and nobody wants the rest now."""
        self._leave(key, arrival)
        writer.leave()
        arrival.fail(FillPaused())
        FILLS.labels("put_off").inc()
        claim.put_off()

    async def _enter(
        self,
        limiter: FillLimiter,
        room: AsyncExitStack,
        key: FlightKey,
        arrival: FillProgress,
        *,
        droppable: bool,
        urgent: bool,
    ) -> None:
        """Waits for room, and again where a reader joined after the drop and before it took effect."""
        if droppable:
            self._waiting.add(key)
        while True:
            try:
                await room.enter_async_context(limiter.room(key[0], arrival.length, urgent=urgent))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                if arrival.interest == 0 or key not in self._dropped or task.uncancel() > 0:
                    raise
                self._dropped.discard(key)
            else:
                self._waiting.discard(key)
                return

    def _unlist(self, key: FlightKey, arrival: FillProgress) -> None:
        """Nobody joins it from now on."""
        if self._arrivals.get(key) is arrival:
            del self._arrivals[key]

    def _leave(self, key: FlightKey, arrival: FillProgress) -> None:
        self._unlist(key, arrival)
        self._tasks.pop(key, None)
        self._waiting.discard(key)
        self._dropped.discard(key)

    def has_room(self, length_bytes: int) -> bool:
        """Whether a fill of that length would begin at once."""
        return self._limiter.has_room(length_bytes)

    async def wait_idle(self) -> None:
        """Returns when there is little to do: see `FillLimiter.wait_idle`."""
        await self._limiter.wait_idle()

    async def aclose(self) -> None:
        """Cancels what flies and waits until every lock is given up."""
        await asyncio.sleep(0)  # a task cancelled before its first step would never give up its lock
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _take(claim: FlightClaim) -> BlockWriter | None:
    return claim.take()


class _Fill:
    """The writer of a flight, from the moment it has one."""

    def __init__(self, arrival: FillProgress) -> None:
        self._arrival = arrival
        self._writer: BlockWriter | None = None
        self._sink: WriterSink | None = None

    def begin(self, writer: BlockWriter) -> WriterSink:
        self._writer = writer
        self._sink = WriterSink(writer, self._arrival.move)
        self._arrival.move(writer.start, writer.progress)
        return self._sink

    async def settle(self) -> None:
        if self._sink is not None:
            await self._sink.settle()

    def give_up(self, error: BaseException) -> None:
        if self._writer is None:
            return
        if isinstance(error, OriginUnavailable | asyncio.CancelledError):
            self._writer.leave()  # nothing is wrong with the bytes: the next fill goes on from here
        else:
            self._writer.abandon()


def _shown(error: BaseException) -> BaseException:
    """What readers are told: a cancelled or broken fill is an origin that can be asked again."""
    if isinstance(error, WarmstartError):
        return error
    return OriginUnavailable(f"the fill was broken off ({type(error).__name__})")
