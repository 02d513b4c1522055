"""Retries of origin requests: back-off with jitter under a deadline, `Retry-After` honoured.

The deadline counts time without progress, so a slow but moving transfer lives as long as it moves, and a dead origin
fails a read in bounded time. If some readers of a failing fill came later than others, the fill continues for them:
each reader has the whole deadline (`RetryPolicy.outlast`).
The wire abandons a silent connection after seconds (`proxy.wire.patience`). The fault is mostly that one connection, so
the first such try is followed at once by another one, which no budget counts. Further ones back off.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from proxy.errors import OriginUnavailable
from proxy.metrics import ORIGIN_RETRIES
from proxy.origin.watched import WatchedOrigin
from proxy.upstream.limiter import FREE_RATE, AdaptiveLimiter, private_numbers
from proxy.upstream.throttle import OriginThrottle, OriginThrottles

Result = TypeVar("Result")


def _private_limiter(origin_id: str) -> AdaptiveLimiter:
    del origin_id
    return AdaptiveLimiter(private_numbers(), 0, concurrency_max=256, start_rate=FREE_RATE)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The rules for asking origins again. `deadline_s`: how long without progress until the last error is final.

    Pauses double from first to longest. Every request passes `throttles`. `reader_pace`: bytes per second that the
    reader of a stream must take to keep its turn at the origin; 0: any. `outlast(error, since_s)` is called at the
    deadline: it ends the wait of readers that have waited since before then, and returns whether there are others.
    """

    deadline_s: float = 30.0
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    reader_pace: int = 256 << 10
    throttles: OriginThrottles = field(default_factory=lambda: OriginThrottles(_private_limiter), compare=False)
    outlast: Callable[[OriginUnavailable, float], bool] = field(default=lambda error, since_s: False, compare=False)


class HasName(Protocol):
    """An origin, reduced to its name."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class OriginCall:
    """A request and its origin; a watched origin learns when the tries for it are given up."""

    origin: HasName
    bucket: str
    key: str

    @property
    def name(self) -> str:
        return self.origin.name

    def gave_up(self, error: OriginUnavailable, tries: int, after_s: float) -> None:
        if isinstance(self.origin, WatchedOrigin):
            self.origin.incidents.gave_up(error, self.bucket, self.key, tries, after_s)


class Attempts:
    """One operation's tries. After each failure, `again` sleeps before the next try, or returns False: time is up."""

    def __init__(self, policy: RetryPolicy, asked: OriginCall, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._asked = asked
        self._clock = clock
        self._tries = 1
        self._began_s = clock()
        self.progressed()

    def waited(self, seconds: float) -> None:
        """Extend the deadline by time in line for an origin that serves others: it says nothing about its health."""
        self._give_up_at += seconds

    def progressed(self) -> None:
        self._was_silent = False
        self._pause_s = self._policy.first_pause_s
        self._give_up_at = self._clock() + self._policy.deadline_s

    async def again(self, error: OriginUnavailable) -> bool:
        """Return whether to try again, after the pause. False: the caller that caught the error raises it.

        (Raised here, the error would hold this frame, and the frame the error: a cycle that holds all that the callers'
        frames hold.)
        """
        at_once, self._was_silent = error.silent and not self._was_silent, self._was_silent or error.silent
        pause_s = 0.0 if at_once else self._pause_s * random.uniform(0.5, 1.0)
        if error.retry_after_s is not None:
            pause_s = max(pause_s, error.retry_after_s)
        if error.lasting:
            return False
        now_s = self._clock()
        waits_from_s = now_s + (error.retry_after_s or 0.0) - self._policy.deadline_s
        if now_s + pause_s >= self._give_up_at and not self._policy.outlast(error, waits_from_s):
            self._asked.gave_up(error, self._tries, now_s - self._began_s)
            return False
        self._tries += 1
        ORIGIN_RETRIES.labels(self._asked.name).inc()
        if not at_once:
            self._pause_s = min(self._pause_s * 2, self._policy.longest_pause_s)
            await asyncio.sleep(pause_s)
        return True


@asynccontextmanager
async def turn(policy: RetryPolicy, origin: str, attempts: Attempts, *, urgent: bool) -> AsyncIterator[OriginThrottle]:
    """Hold one attempt's turn at the origin, and yield the throttle."""
    throttle = policy.throttles.of(origin)
    began_s = time.monotonic()
    async with throttle.turn(urgent=urgent, patience_s=policy.deadline_s):
        if throttle.limiter.quiet_s < policy.deadline_s:
            attempts.waited(time.monotonic() - began_s)
        yield throttle


async def with_attempts(
    policy: RetryPolicy, origin_id: str, asked: OriginCall, call: Callable[[], Awaitable[Result]]
) -> Result:
    """Return the call's result. Try again while the origin is unavailable and the deadline allows."""
    attempts = Attempts(policy, asked)
    while True:
        try:
            async with turn(policy, origin_id, attempts, urgent=True):
                return await call()
        except OriginUnavailable as error:
            if not await attempts.again(error):
                raise
