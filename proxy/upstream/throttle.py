"""The throttle of an origin: every request of this process passes it, in order of urgency, as the limiter allows.

How it works. `turn` asks the limiter; mostly the answer is a ticket, at once and without a task. Otherwise the request
waits in one of two queues, urgent ones (metadata, small reads) ahead of bulk, each in order of arrival. While both
wait, every ninth request is bulk, which must not starve. One task per origin asks the limiter again, after the time
that it named or when a request of this process has ended, and lets the first in line go. Requests that cannot succeed
fail fast: if the origin asked for a longer pause than their patience, or if they have waited for that long while the
origin served nothing. Streams past the cache last as long as their readers like, so they hold at most a part of the
tickets (`Streams`). A request's outcome is what it raised: `OriginUnavailable` with `throttled` is a refusal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.errors import OriginUnavailable, Overloaded, WarmstartError
from proxy.metrics import SHED_REQUESTS
from proxy.upstream.hedge import Hedges
from proxy.upstream.limiter import AdaptiveLimiter, Ticket

WAIT_MAX_S = 0.1  # other processes end requests, and a stopped clock starts again: look this often
PATIENCE_S = 30.0
PATIENCE_MIN_S = 1.0  # short pauses are how the rate is kept: no reason to turn a request away
STREAMS_MAX = 64
URGENT_RUN = 8  # urgent requests in a row while bulk waits


@dataclass(frozen=True, slots=True)
class _Waiter:
    turn: asyncio.Future[Ticket]
    patience_s: float
    since_s: float


class Streams:
    """The streams past the cache that may ask one origin at the same time, first come first served."""

    def __init__(self, streams_max: int) -> None:
        self._room = asyncio.Semaphore(streams_max)
        self.waiting = 0
        self.under_way = 0

    @asynccontextmanager
    async def take(self, patience_s: float | None) -> AsyncIterator[None]:
        """Hold one stream. Raise Overloaded if none is free within `patience_s`; None waits."""
        self.waiting += 1
        try:
            async with asyncio.timeout(patience_s):
                await self._room.acquire()
        except TimeoutError:
            SHED_REQUESTS.labels("uncached_reads").inc()
            raise Overloaded("too many clients read past the cache; try again") from None
        finally:
            self.waiting -= 1
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            self._room.release()


class OriginThrottle:
    """The throttle of one origin, for one event loop. `hedge_share` of its requests may be made twice."""

    def __init__(self, limiter: AdaptiveLimiter, hedge_share: float = 0.0, streams_max: int = STREAMS_MAX) -> None:
        self.limiter = limiter
        self.streams = Streams(streams_max)
        self.hedges = Hedges(hedge_share)
        self._urgent: deque[_Waiter] = deque()
        self._bulk: deque[_Waiter] = deque()
        self._urgent_run = 0
        self._pump: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._urgent) + len(self._bulk)

    def try_enter(self) -> Ticket | None:
        """Return a ticket if the request may go at once, else None. The caller with a ticket calls `leave`."""
        if self.waiting:
            return None
        ticket = self.limiter.enter()
        return ticket if isinstance(ticket, Ticket) else None

    def leave(self, ticket: Ticket, error: BaseException | None) -> None:
        """End the request of this ticket, with its error if there was one."""
        if isinstance(error, OriginUnavailable):
            if error.throttled and not error.heard:
                error.heard = True
                self.limiter.refuse(ticket, error.retry_after_s)
            else:
                self.limiter.leave(success=False)
        else:  # a negative answer is an answer, too
            self.limiter.leave(success=error is None or isinstance(error, WarmstartError))
        self._ended.set()

    async def enter(self, *, urgent: bool = False, patience_s: float = PATIENCE_S) -> Ticket:
        """Return a ticket when it is this request's turn; then call `leave`. Raise OriginUnavailable."""
        ticket = self.try_enter()
        if ticket is not None:
            return ticket
        patience_s = max(patience_s, PATIENCE_MIN_S)
        if self.limiter.pause_s > patience_s:
            raise self._turned_away()
        return await self._wait(self._urgent if urgent else self._bulk, patience_s)

    @asynccontextmanager
    async def turn(self, *, urgent: bool = False, patience_s: float = PATIENCE_S) -> AsyncIterator[None]:
        """Hold a turn at the origin while the block runs. What the block raises is the request's outcome."""
        ticket = await self.enter(urgent=urgent, patience_s=patience_s)
        try:
            yield
        except BaseException as error:
            self.leave(ticket, error)
            raise
        self.leave(ticket, None)

    def pay(self, nbytes: int) -> float:
        """See `AdaptiveLimiter.pay`."""
        return self.limiter.pay(nbytes)

    def _turned_away(self) -> OriginUnavailable:
        pause_s = self.limiter.pause_s
        error = OriginUnavailable(
            f"the origin asked for no requests for {pause_s:.0f} s" if pause_s else "the origin serves nobody",
            retry_after_s=pause_s or None,
            throttled=True,
        )
        error.heard = True  # no request was sent
        return error

    async def _wait(self, line: deque[_Waiter], patience_s: float) -> Ticket:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[Ticket] = loop.create_future()
        line.append(_Waiter(turn, patience_s, loop.time()))
        if self._pump is None:
            self._pump = loop.create_task(self._let_in(), name="throttle")
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.limiter.leave(success=False)  # let in and cancelled in the same moment
            raise

    async def _let_in(self) -> None:
        while (line := self._first_line()) is not None:
            entered = self.limiter.enter()
            if isinstance(entered, Ticket):
                line.popleft().turn.set_result(entered)
                self._urgent_run = self._urgent_run + 1 if line is self._urgent else 0
                continue
            self._turn_away()
            self._ended.clear()
            try:
                async with asyncio.timeout(min(entered, WAIT_MAX_S)):
                    await self._ended.wait()
            except TimeoutError:
                pass
        self._pump = None

    def _first_line(self) -> deque[_Waiter] | None:
        """Return the queue whose first request still waits; drop requests that have gone away."""
        lines = (self._urgent, self._bulk) if self._urgent_run < URGENT_RUN else (self._bulk, self._urgent)
        for line in lines:
            while line and line[0].turn.done():
                line.popleft()
            if line:
                return line
        return None

    def _turn_away(self) -> None:
        """Fail the requests that would wait for nothing."""
        pause_s, quiet_s, now_s = self.limiter.pause_s, self.limiter.quiet_s, asyncio.get_running_loop().time()
        for waiter in (*self._urgent, *self._bulk):
            in_vain_s = max(pause_s, min(quiet_s, now_s - waiter.since_s))
            if in_vain_s > waiter.patience_s and not waiter.turn.done():
                waiter.turn.set_exception(self._turned_away())


class OriginThrottles:
    """The throttles of all origins, by their ids; created on first use."""

    def __init__(
        self,
        limiter: Callable[[str], AdaptiveLimiter],
        hedge_share: Callable[[str], float] = lambda origin: 0.0,
        *,
        streams_max: int = STREAMS_MAX,
    ) -> None:
        """Create the table; `streams_max` is for each origin."""
        self._limiter = limiter
        self._streams_max = streams_max
        self._hedge_share = hedge_share
        self._throttles: dict[str, OriginThrottle] = {}

    def of(self, origin_id: str) -> OriginThrottle:
        throttle = self._throttles.get(origin_id)
        if throttle is None:
            throttle = self._throttles[origin_id] = OriginThrottle(
                self._limiter(origin_id), self._hedge_share(origin_id), self._streams_max
            )
        return throttle

    @property
    def all(self) -> Mapping[str, OriginThrottle]:
        return self._throttles
