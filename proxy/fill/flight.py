"""Flights: the one fill of a block that every reader of this process waits for.

How it works.
1. A reader that misses a block looks for its fill progress here, and launches a flight only if there is none. There is
   no await between look-up and launch, so one process never starts two.
2. A flight is a task of its own. A reader that goes away only withdraws its interest. A flight that waits for room and
   has lost all interest is dropped; one that has begun, here or in a predecessor, runs on. If a reader joins between
   the drop and the task's next step, the flight waits for room again.
3. A flight takes its block's writer (the lock between processes) only once there is room: a lock held while waiting
   would look like a filler that is stuck. If another process has the block by then, the claim follows that process.
4. The flight leaves the table in the same step in which the block is published.
5. A fill that only small readers want fetches their bytes first, by a request of their own. If nobody wants more by
   then, it pauses: it leaves the block to the next reader that wants the rest, and calls the claim's `put_off`.
6. A flight that is cancelled or fails leaves the table, settles its last write, gives up the writer, then fails the
   progress. Its readers see the error. Later readers start over. To them, the block of a failing fill looks like
   another worker's: they take it over as soon as its lock is free.
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
    """A flight's access to its block's writer. `held`: it has the writer of a fill that had begun.

    `take` returns None if another process fills the block or has filled it; then `pass_on` follows that one. `prepare`
    reads back what a predecessor wrote. After `first_bytes` bytes the fill checks whether more is wanted, and if not
    calls `put_off`; None: it always continues.
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
        """Release what the claim holds: the flight is over."""
        ...


class Flights:
    """The fill progress of all blocks under way here. `settled(version)` is called when a version's last flight ends.

    `above`: the limiters of flights that wait for other nodes, by level. Each level has its own room, so that the fills
    of two nodes never wait for each other's room. `room_wait_s`: how long a fill waits for room on a full disk.
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
        self._waiting: set[FlightKey] = set()  # for room in the limiter; dropped when nobody wants them
        self._dropped: set[FlightKey] = set()  # of those, the ones cancelled because nobody wanted them
        self._per_version: Counter[bytes] = Counter()
        self.settled: Callable[[ObjectVersion], None] = lambda version: None

    def throttle(self, origin_id: str) -> OriginThrottle:
        """Return the throttle that requests to that origin pass."""
        return self._policy.throttles.of(origin_id)

    def find(self, version: ObjectVersion, index: int) -> FillProgress | None:
        return self._arrivals.get((version.digest, index))

    def count(self) -> int:
        """Return how many blocks are under way, filled here or followed."""
        return len(self._arrivals)

    def under_way(self, version: ObjectVersion) -> bool:
        """Return whether some flight of the version has not ended, so that `settled` is still to be called."""
        return self._per_version[version.digest] > 0

    def finishing(self, version: ObjectVersion) -> list[FillProgress]:
        """Return the progress of the version's fills that have all bytes and are about to be published."""
        arrivals = [arrival for key, arrival in self._arrivals.items() if key[0] == version.digest]
        return [arrival for arrival in arrivals if arrival.complete]

    def follow(self, version: ObjectVersion, index: int, arrival: FillProgress) -> None:
        """Add the progress of a fill that another process runs."""
        assert (version.digest, index) not in self._arrivals
        self._arrivals[version.digest, index] = arrival

    def forget(self, version: ObjectVersion, index: int) -> None:
        """Remove the progress of a followed fill that has ended."""
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
        """Start the fill of bytes `block`. `arrival` is new, or was followed and is taken over."""
        key = (version.digest, index)
        assert key not in self._tasks, "a block has one flight"
        self._arrivals[key] = arrival
        self._per_version[version.digest] += 1
        flight = self._fly(key, origin, version, block, claim, arrival)
        self._tasks[key] = asyncio.get_running_loop().create_task(flight, name=f"fill {version.key!r} {index}")

    def release(self, version: ObjectVersion, index: int, arrival: FillProgress) -> None:
        """Withdraw a reader's interest: it went away, or has what it wanted."""
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
            # Its reader went away before this task's first step. A fill that had begun runs on all the same:
            # otherwise readers that are content with what is there would leave the block unfinished, again and again.
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
        """Pause the fill: small readers have what they wanted, and nobody wants the rest now."""
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
        """Wait for room, and wait again if a reader joined after the drop and before it took effect."""
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
        """Remove the progress from the table, so that nobody joins it from now on."""
        if self._arrivals.get(key) is arrival:
            del self._arrivals[key]

    def _leave(self, key: FlightKey, arrival: FillProgress) -> None:
        self._unlist(key, arrival)
        self._tasks.pop(key, None)
        self._waiting.discard(key)
        self._dropped.discard(key)

    def has_room(self, length_bytes: int) -> bool:
        """Return whether a fill of that length would begin at once."""
        return self._limiter.has_room(length_bytes)

    async def wait_idle(self) -> None:
        """Return when there is little to do: see `FillLimiter.wait_idle`."""
        await self._limiter.wait_idle()

    async def aclose(self) -> None:
        """Cancel all flights and wait until every lock is given up."""
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
    """Return the error that readers see: after a cancelled or broken fill, the origin can be asked again."""
    if isinstance(error, WarmstartError):
        return error
    return OriginUnavailable(f"the fill was broken off ({type(error).__name__})")
