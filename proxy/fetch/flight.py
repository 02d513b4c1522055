"""Flights: the one fill of a block that every reader of this process waits for.

How it works.
1. Whoever misses a block looks for its arrival here first; only when there is none it reserves a writer from the
   store (that is the lock between processes) and launches a flight. Look-up, reserving and launching happen with no
   await between them, so one process never starts two.
2. A flight is a task of its own. A reader that goes away only takes back its interest. A flight that waits for room
   and has lost all interest is dropped; one that has begun, here or in a predecessor, runs on. A reader may
   join between the drop and the task's next step: then the flight waits for room again.
3. The flight leaves the table when the block is published, in the same step.
4. Cancelled or failed, it settles its last write, gives the writer up, then fails the arrival. Readers see the error;
   the next one to ask starts over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from proxy.blocks import BlockWriter, Origin
from proxy.errors import OriginUnavailable, WarmstartError
from proxy.fetch.arrival import Arrival
from proxy.fetch.attempts import RetryPolicy
from proxy.fetch.fill import WriterSink, fill_block
from proxy.fetch.limiter import FillLimiter
from proxy.metrics import FILLS
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange

log = logging.getLogger(__name__)

FlightKey = tuple[bytes, int]  # the version's digest, the block's index


class Flights:
    """All arrivals of this process. `settled(version)` is called when no flight of a version is left."""

    def __init__(self, limiter: FillLimiter, policy: RetryPolicy) -> None:
        self._limiter = limiter
        self._policy = policy
        self._arrivals: dict[FlightKey, Arrival] = {}
        self._tasks: dict[FlightKey, asyncio.Task[None]] = {}
        self._waiting: set[FlightKey] = set()  # for room in the limiter, and dropped when nobody wants them
        self._dropped: set[FlightKey] = set()  # of those, the ones that were cancelled for want of interest
        self._per_version: Counter[bytes] = Counter()
        self.settled: Callable[[ObjectVersion], None] = lambda version: None

    def find(self, version: ObjectVersion, index: int) -> Arrival | None:
        return self._arrivals.get((version.digest, index))

    def count(self) -> int:
        """How many blocks are on their way, here or followed."""
        return len(self._arrivals)

    def finishing(self, version: ObjectVersion) -> list[Arrival]:
        """Arrivals of a version whose bytes are all there and which are about to be published."""
        arrivals = [arrival for key, arrival in self._arrivals.items() if key[0] == version.digest]
        return [arrival for arrival in arrivals if arrival.complete]

    def follow(self, version: ObjectVersion, index: int, arrival: Arrival) -> None:
        """Enters an arrival that another process fills."""
        assert (version.digest, index) not in self._arrivals
        self._arrivals[version.digest, index] = arrival

    def forget(self, version: ObjectVersion, index: int) -> None:
        """Removes a followed arrival that has ended."""
        self._arrivals.pop((version.digest, index), None)

    def launch(
        self,
        origin: Origin,
        version: ObjectVersion,
        index: int,
        block: ByteRange,
        writer: BlockWriter,
        arrival: Arrival | None = None,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> Arrival:
        """Starts the fill. `arrival` is given when a followed one is taken over; `prepare` reads back its progress."""
        key = (version.digest, index)
        assert key not in self._tasks, "a block has one flight"
        if arrival is None:
            arrival = Arrival(writer.length)
        arrival.move(writer.start, writer.progress)
        self._arrivals[key] = arrival
        self._per_version[version.digest] += 1
        flight = self._fly(key, origin, version, block, writer, arrival, prepare)
        self._tasks[key] = asyncio.get_running_loop().create_task(flight, name=f"fill {version.key!r} {index}")
        return arrival

    def release(self, version: ObjectVersion, index: int, arrival: Arrival) -> None:
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
        origin: Origin,
        version: ObjectVersion,
        block: ByteRange,
        writer: BlockWriter,
        arrival: Arrival,
        prepare: Callable[[], Awaitable[None]] | None,
    ) -> None:
        sink = WriterSink(writer, arrival.move)
        try:
            # Its reader went away before this task's first step. A fill that had begun already goes on all the same:
            # else a reader that is content with what is there would leave its block unfinished, again and again.
            if arrival.interest == 0 and writer.progress == 0:
                raise asyncio.CancelledError
            async with AsyncExitStack() as room:
                await self._enter(room, key, arrival, droppable=writer.progress == 0)
                if prepare is not None:
                    await prepare()
                    FILLS.labels("taken_over").inc()
                await fill_block(origin, version.origin, version, block, writer, sink, self._policy)
            self._leave(key)
            writer.commit()
            arrival.publish()
            FILLS.labels("done").inc()
        except BaseException as error:
            await sink.settle()
            self._leave(key)
            if isinstance(error, OriginUnavailable | asyncio.CancelledError):
                writer.leave()  # nothing is wrong with the bytes: the next fill goes on from here
            else:
                writer.abandon()
            arrival.fail(_shown(error))
            FILLS.labels("cancelled" if isinstance(error, asyncio.CancelledError) else "failed").inc()
            if not isinstance(error, WarmstartError | asyncio.CancelledError):
                log.exception("fill of %s block %d failed", version.key, key[1])
        finally:
            self._per_version[version.digest] -= 1
            if not self._per_version[version.digest]:
                del self._per_version[version.digest]
                self.settled(version)

    async def _enter(self, room: AsyncExitStack, key: FlightKey, arrival: Arrival, *, droppable: bool) -> None:
        """Waits for room, and again where a reader joined after the drop and before it took effect."""
        if droppable:
            self._waiting.add(key)
        while True:
            try:
                await room.enter_async_context(self._limiter.room(key[0], arrival.length))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                if arrival.interest == 0 or key not in self._dropped or task.uncancel() > 0:
                    raise
                self._dropped.discard(key)
            else:
                self._waiting.discard(key)
                return

    def _leave(self, key: FlightKey) -> None:
        del self._arrivals[key]
        del self._tasks[key]
        self._waiting.discard(key)
        self._dropped.discard(key)

    async def aclose(self) -> None:
        """Cancels what flies and waits until every lock is given up."""
        await asyncio.sleep(0)  # a task cancelled before its first step would never give up its lock
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _shown(error: BaseException) -> BaseException:
    """What readers are told: a cancelled or broken fill is an origin that can be asked again."""
    if isinstance(error, WarmstartError):
        return error
    return OriginUnavailable(f"the fill was broken off ({type(error).__name__})")
