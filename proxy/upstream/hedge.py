"""Hedges: a second request for bytes that are late. The first one to bring them continues, the other is cancelled.

How it works. A request is late when it has brought nothing for longer than nearly all recent first bytes took: all but
the configured share of them. A stall within an answer counts the same, with a longer patience. Then:
1. A second request asks for what has not come yet, if the budget (the same share of all requests) and the origin's
   throttle allow it at once.
2. Each of the two knows its offset in the span. What the other has brought already is dropped, so the sink gets each
   byte once, in order. The first that brings something new has won; the other is cancelled and writes nothing more.
3. The winner is a request like any other: it may fail, stall, and be hedged again.
4. If one fails while the other is under way, its error is ignored. An error that another try can't mend ends both, and
   so does a refusal of the first request, which the throttle must learn of.

Off unless configured: a hedge costs a copy of what it asks for, and more requests do not speed up an overloaded origin.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from proxy.blocks import ByteSink, Later
from proxy.errors import OriginUnavailable, WarmstartError, fresh
from proxy.metrics import ORIGIN_HEDGES

if TYPE_CHECKING:
    from proxy.upstream.throttle import OriginThrottle

SAMPLES = 500  # first bytes remembered
SAMPLES_MIN = 50  # with fewer, it is not known what is late
LATE_MIN_S = 0.01  # a shorter delay is the event loop's
STALL_FACTOR, STALL_MIN_S = 4.0, 1.0  # a stall within an answer is often the link's; a second request only adds load
SAVED_MAX = 10.0  # hedges saved up in quiet times that may be made at once

Ask = Callable[[int, ByteSink], Awaitable[None]]
"""A read of the span's bytes from an offset on, into the sink. It does and raises what `read_range` does."""


class Hedges:
    """What counts as late at one origin, and how many hedges are left. `share` of requests may be hedged; 0: none."""

    def __init__(self, share: float) -> None:
        assert 0 <= share < 1
        self.share = share
        self._saved = 0.0
        self._first_bytes_s: deque[float] = deque(maxlen=SAMPLES)
        self._late_s: float | None = None
        self._unsorted = 0

    def count(self) -> None:
        """Count a request, which earns its share of a hedge."""
        self._saved = min(self._saved + self.share, SAVED_MAX)

    @property
    def left(self) -> bool:
        """Whether the budget allows a hedge."""
        return self._saved >= 1

    def spend(self) -> None:
        """Take a hedge from the budget."""
        assert self.left
        self._saved -= 1

    def observe(self, first_byte_s: float) -> None:
        """Note how long after a request its first byte came."""
        self._first_bytes_s.append(first_byte_s)
        self._unsorted += 1

    def late_s(self) -> float | None:
        """Return how long a request may bring nothing before it is late; None: not known yet."""
        if len(self._first_bytes_s) < SAMPLES_MIN:
            return None
        if self._late_s is None or self._unsorted >= SAMPLES_MIN:
            self._unsorted = 0
            ordered = sorted(self._first_bytes_s)
            self._late_s = max(ordered[int((1 - self.share) * (len(ordered) - 1))], LATE_MIN_S)
        return self._late_s


async def read_hedged(ask: Ask, sink: ByteSink, throttle: OriginThrottle, name: str) -> None:
    """Run `ask(0, ...)`, and a second one beside it while it is late. Return and raise as `ask` does.

    Once this is over, the sink is not called any more. The caller holds the first request's turn at the throttle.
    """
    hedges = throttle.hedges
    hedges.count()
    race = _Race(ask, sink, hedges)
    race.run(None)
    try:
        while True:
            tasks = [runner.task for runner in race.runners]
            done, _ = await asyncio.wait(tasks, timeout=race.patience_s(), return_when=asyncio.FIRST_COMPLETED)
            if race.settle(done):
                return
            if not race.is_late():
                continue
            ticket = throttle.try_enter() if hedges.left else None
            if ticket is None:
                race.look_later()
            else:
                hedges.spend()
                ORIGIN_HEDGES.labels(name).inc()
                race.run(partial(throttle.leave, ticket))
    finally:
        await race.end()


class _Lost(Exception):
    """The error of a request whose bytes the other one has brought first."""


Ended = Callable[[BaseException | None], None]


class _Runner:
    """One of the requests. `at`: its next byte's offset in the span. `ended` is called when a second request ends."""

    def __init__(self, race: _Race, at: int, ended: Ended | None) -> None:
        loop = asyncio.get_running_loop()
        self._race = race
        self._began_s: float | None = loop.time()  # until its first byte
        self.at = at
        self.is_first = ended is None
        self._ended = ended
        self.task = loop.create_task(self._run(at))
        self.task.add_done_callback(lambda task: self.settle())

    async def _run(self, at: int) -> None:
        await self._race.ask(at, self)

    def settle(self) -> None:
        """Give up the turn at the throttle: the task is done, maybe cancelled before its first step."""
        error, ended, self._ended = _error_of(self.task), self._ended, None
        if ended is not None:
            ended(error)

    def write(self, data: memoryview) -> Awaitable[None] | None:
        self.observe()
        begin, self.at = self.at, self.at + len(data)
        return self._race.take(self, begin, data)

    def observe(self) -> None:
        """Note how long its first byte took, or has taken at least."""
        if self._began_s is not None:
            self._race.hedges.observe(asyncio.get_running_loop().time() - self._began_s)
            self._began_s = None

    def cancel(self) -> None:
        self.observe()
        self.task.cancel()


class _Race:
    """The requests for one span that are under way, and how far the span has come."""

    def __init__(self, ask: Ask, sink: ByteSink, hedges: Hedges) -> None:
        self.ask = ask
        self.hedges = hedges
        self.runners: list[_Runner] = []
        self._beaten: list[_Runner] = []
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._taken = 0
        self._writing = False
        self._quiet_since_s = 0.0
        self._failure: OriginUnavailable | None = None

    def run(self, ended: Ended | None) -> None:
        """Begin a request for what has not come."""
        self._quiet_since_s = self._loop.time()
        self.runners.append(_Runner(self, self._taken, ended))

    def patience_s(self) -> float | None:
        """Return how long to wait for a request before a look at the clock; None: for as long as it takes."""
        limit_s = self._limit_s()
        if limit_s is None:
            return None
        return max(LATE_MIN_S, self._quiet_since_s + limit_s - self._loop.time())

    def is_late(self) -> bool:
        limit_s = self._limit_s()
        return limit_s is not None and not self._writing and self._loop.time() - self._quiet_since_s >= limit_s

    def look_later(self) -> None:
        """Restart the clock: no second request can be made now."""
        self._quiet_since_s = self._loop.time()

    def _limit_s(self) -> float | None:
        """Return how long a single request may bring nothing."""
        late_s = self.hedges.late_s() if len(self.runners) == 1 else None
        if late_s is None or not self._taken:
            return late_s
        return max(STALL_MIN_S, STALL_FACTOR * late_s)

    def take(self, runner: _Runner, begin: int, data: memoryview) -> Awaitable[None] | None:
        """Pass on what is new of `data`, which begins at offset `begin`."""
        if runner not in self.runners:
            raise _Lost
        if runner.at <= self._taken:
            return None
        if len(self.runners) > 1:
            self._crown(runner)
        fresh = data[self._taken - begin :]
        self._taken = runner.at
        self._quiet_since_s = self._loop.time()
        pending = self._sink.write(fresh)
        return Later(self._finish, pending) if pending is not None else None

    def _crown(self, winner: _Runner) -> None:
        for runner in self.runners:
            if runner is not winner:
                runner.cancel()
                self._beaten.append(runner)
        self.runners = [winner]

    async def _finish(self, pending: Awaitable[None]) -> None:
        """Wait for the sink without counting its time as the origin's."""
        self._writing = True
        try:
            await pending
        finally:
            self._writing = False
            self._quiet_since_s = self._loop.time()

    def settle(self, done: set[asyncio.Task[None]]) -> bool:
        """Check the requests that have ended. Return whether one has brought all. Raise the error that ends all."""
        for runner in [runner for runner in self.runners if runner.task in done]:
            self.runners.remove(runner)
            runner.settle()
            error = _error_of(runner.task)
            if error is None:
                return True
            if not isinstance(error, OriginUnavailable) or (error.throttled and runner.is_first):
                raise fresh(error) if isinstance(error, WarmstartError) else error
            self._failure = self._failure or error
        if not self.runners:
            assert self._failure is not None
            raise fresh(self._failure)
        return False

    async def end(self) -> None:
        """Return when no request is under way any more."""
        runners = (*self.runners, *self._beaten)
        self.runners.clear()
        for runner in runners:
            runner.task.cancel()
        cancelled = False
        while waiting := [runner.task for runner in runners if not runner.task.done()]:
            try:
                await asyncio.wait(waiting)
            except asyncio.CancelledError:
                cancelled = True
        for runner in runners:
            runner.settle()
        del self._sink  # a failed task's frames hold the task and this race; they must not hold the block, too
        if cancelled:
            raise asyncio.CancelledError


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    """Return the error of an ended request. It is cancelled from within if it waited for a dropped speculative read."""
    return OriginUnavailable("the request was broken off") if task.cancelled() else task.exception()
