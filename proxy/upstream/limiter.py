"""The adaptive limiter of one origin: how much it takes, shared by all processes of the node. No I/O, no waiting.

How it works. Every request enters and leaves; its outcome moves the limits.
- Concurrency: the number of requests under way, in all processes together. It grows by one after as many successes, and
  is halved when the origin refuses (429, 503): additive increase, multiplicative decrease.
- Rate: it begins at START_RATE and doubles each second until it no longer limits anything, or a request is refused.
  Then the origin gets a little less than it was seen to take, evenly spaced, not in bursts. While nothing is refused,
  the rate grows: quickly up to nearly the rate that was last refused, then slowly, and faster the longer it goes well.
  Each refusal during slow growth doubles the delay before the next growth. A rate that is refused again at once is
  halved.
- Pause: after a refusal, nobody asks until `Retry-After`, or a short pause, is over.
- One refusal counts once: a refusal of a request that had entered before the last cut is no news.
- Bandwidth: bytes are paid for as they arrive, on one clock for all processes.
- In a fleet, the node has a share of what the origin takes from all nodes (`proxy.upstream.sharing` writes it here).
  Then the share alone is the limit. A refusal here is counted and waited out, but cuts nothing: the fleet's plan is
  cut, once. A share expires soon. If no new one comes, this limiter continues alone, from the node's even share.

Each process counts its requests in a slot of its own. What a killed process had under way is returned when another one
sweeps, or when the slot's next holder begins at zero. Changes are made under a lock, which is held for microseconds. A
process that was stopped while holding it must not stop the others: one that fails to get it in a few tries changes the
numbers without it, and at worst loses a count. Times are CLOCK_MONOTONIC, the same for all processes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

SLOT_COUNT = 256
_PAUSE_END, _RATE, _NEXT_AT, _CUTS, _COUNT, _SINCE, _GROWN_AT, _GROW_AT, _HOLD, _CEILING, _CONCURRENCY, _PAID = range(
    12
)
_SERVED_AT = 12
# what the fleet's sharing reads: totals of this run, and when some request last had to wait
ENTERED, SERVED, REFUSED, DENIED_AT, BYTES, LATE_AT, TOLD_END, NAME, BANDWIDTH = range(13, 22)
# and what it writes
SHARED_UNTIL, SHARE_RATE, SHARE_CONCURRENCY, SHARE_BYTES, MEMBERS = range(22, 27)
_STATE_NUMBERS = 32
LIMITER_NUMBERS = _STATE_NUMBERS + SLOT_COUNT

PAUSE_S = 0.1  # after a refusal without Retry-After
SHARED_PAUSE_S = 0.3  # the same in a fleet, until the plan has been cut
RETRY_AFTER_MAX_S = 300.0  # a mistaken header must not cut a node off for a day
RATE_MIN = 1.0  # requests per second
START_RATE = 200.0  # for an unknown origin; 1.6 GB/s of blocks
FREE_RATE = 5000.0  # a node never makes more requests than this: no limit
BELOW_SEEN = 0.95  # of the rate that the origin was seen to take
SEEN_MIN = 10  # requests; fewer say nothing about the rate
STEADY_S, STEADY_CUT = 1.0, 0.8  # a rate that was served for so long can't be much too high
BURST_S = 0.05  # of unused time that may be caught up
FIRST_GROWTH, FAST_GROWTH, SLOW_GROWTH = 1.0, 0.25, 0.01  # of the rate, per second
NEAR_CEILING = 0.9
NEAR_CUT = 0.9  # of the concurrency, if a higher rate was being tried
HOLD_S, HOLD_MAX_S = 2.0, 60.0  # before growth after a cut
QUIET_S = 5.0  # after so long without a refusal, slow growth is four times as fast
FORGET_S = 120.0  # without a refusal, after which old limits are forgotten
CONCURRENCY_MIN = 4
LATER_S = 0.005  # when to look again for the end of other processes' requests


Numbers: TypeAlias = "memoryview[float]"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that has entered. `cuts`: how often the limits had been cut by then."""

    cuts: float


@dataclass(frozen=True, slots=True)
class RateShare:
    """A node's share of what a fleet may ask of an origin. Rates are per second; concurrency 0 is no limit.

    `is_new`: the fleet's limits have been cut since the last share. `even_*`: the limits of the node if no new share
    comes. `pause_end_s`: nobody asks before that, by the limiter's clock. This node then waits for `phase` (0 to 1) of
    the time between two requests, so that nodes do not all begin at once.
    """

    rate: float
    concurrency: int
    bytes_per_s: float
    even_rate: float
    even_ceiling: float
    even_concurrency: float
    pause_end_s: float
    phase: float
    is_new: bool


class AdaptiveLimiter:
    """One origin's limiter. `numbers`: LIMITER_NUMBERS doubles, shared by all processes, zero at first. Not for
    threads.

    `start_rate`: requests per second at first, of all nodes. `bytes_per_s`: of all nodes; None is no limit. `name` is
    the origin's id: nodes with the same id share the origin. `dead` returns whether a slot's process is dead, and keeps
    others from taking the slot meanwhile.
    """

    def __init__(
        self,
        numbers: Numbers,
        slot: int,
        *,
        concurrency_max: int,
        bytes_per_s: float | None = None,
        name: str = "",
        start_rate: float = START_RATE,
        lock: Callable[[], AbstractContextManager[object]] = nullcontext,
        dead: Callable[[int], AbstractContextManager[bool]] = lambda slot: nullcontext(False),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert numbers.format == "d"
        assert len(numbers) == LIMITER_NUMBERS
        assert 0 <= slot < SLOT_COUNT
        self._numbers = numbers
        self._own = _STATE_NUMBERS + slot
        self._concurrency_max = concurrency_max
        self._bytes_per_s = bytes_per_s
        self._start_rate = start_rate
        self._lock = lock
        self._dead = dead
        self._clock = clock
        numbers[self._own] = 0.0
        if name:
            numbers[NAME], numbers[BANDWIDTH] = name_number(name), bytes_per_s or 0.0

    @property
    def under_way(self) -> int:
        """How many requests are under way, in all processes."""
        return int(sum(self._numbers[_STATE_NUMBERS:]))

    def sweep(self) -> None:
        """Give back what dead processes had under way."""
        for at in range(_STATE_NUMBERS, LIMITER_NUMBERS):
            if self._numbers[at] and at != self._own:
                with self._dead(at - _STATE_NUMBERS) as dead:
                    if dead:
                        self._numbers[at] = 0.0

    @property
    def rate(self) -> float:
        """Upper bound on requests per second to the origin; from FREE_RATE on it is no limit."""
        return self._rate(shared=self.is_shared)

    @property
    def rate_alone(self) -> float:
        """The same without a share."""
        return self._rate(shared=False)

    @property
    def is_shared(self) -> bool:
        """Whether the limit is the node's share of the fleet's plan."""
        return self._clock() < self._numbers[SHARED_UNTIL]

    @property
    def concurrency(self) -> int:
        """Upper bound on requests under way, in all processes."""
        return self._concurrency(shared=self.is_shared)

    @property
    def pause_s(self) -> float:
        """How long from now on nobody may ask."""
        return max(0.0, self._numbers[_PAUSE_END] - self._clock())

    @property
    def quiet_s(self) -> float:
        """How long the origin has served nothing on this node: no request, and no byte of one."""
        return self._clock() - self._numbers[_SERVED_AT]

    def enter(self) -> Ticket | float:
        """Return a ticket if the request may go, else the seconds after which to ask again."""
        now_s, numbers = self._clock(), self._numbers
        with self._lock():
            shared = now_s < numbers[SHARED_UNTIL]
            if shared:
                numbers[_GROWN_AT] = now_s
            else:
                self._grow(now_s)
            if now_s < numbers[_PAUSE_END]:
                numbers[DENIED_AT] = now_s
                return numbers[_PAUSE_END] - now_s
            if self.under_way >= self._concurrency(shared=shared):
                numbers[DENIED_AT] = now_s
                return LATER_S
            rate = self._rate(shared=shared)
            if rate < FREE_RATE:
                next_s = max(numbers[_NEXT_AT], now_s - BURST_S)
                if next_s > now_s:
                    numbers[DENIED_AT] = now_s
                    return next_s - now_s
                numbers[_NEXT_AT] = next_s + 1 / rate
            numbers[self._own] += 1
            numbers[ENTERED] += 1
            return Ticket(numbers[_CUTS])

    def leave(self, *, success: bool) -> None:
        """End the request of a ticket, which was not refused. `success`: the origin has served it."""
        numbers = self._numbers
        with self._lock():
            numbers[self._own] -= 1
            if success:
                numbers[_SERVED_AT] = self._clock()
                numbers[_COUNT] += 1
                numbers[SERVED] += 1
                if numbers[_CONCURRENCY]:
                    grown = numbers[_CONCURRENCY] + 1 / numbers[_CONCURRENCY]
                    numbers[_CONCURRENCY] = min(grown, float(self._concurrency_max))

    def refuse(self, ticket: Ticket, retry_after_s: float | None) -> None:
        """End a request that the origin refused as one too many."""
        now_s, numbers = self._clock(), self._numbers
        with self._lock():
            under_way = self.under_way
            numbers[self._own] -= 1
            shared = self.is_shared
            wait_s = SHARED_PAUSE_S if shared else PAUSE_S
            if retry_after_s is not None:
                wait_s = min(retry_after_s, RETRY_AFTER_MAX_S)
                numbers[TOLD_END] = max(numbers[TOLD_END], now_s + wait_s)
            if ticket.cuts == numbers[_CUTS]:
                if shared:
                    numbers[REFUSED] += 1
                else:
                    self._cut(now_s, under_way)
                numbers[_PAUSE_END] = max(numbers[_PAUSE_END], now_s + wait_s)
            elif retry_after_s is not None:
                numbers[_PAUSE_END] = max(numbers[_PAUSE_END], now_s + wait_s)
            numbers[_NEXT_AT] = max(numbers[_NEXT_AT], numbers[_PAUSE_END])
            numbers[_SINCE], numbers[_COUNT] = now_s, 0.0

    def pay(self, nbytes: int) -> float:
        """Count bytes that have arrived. Return the seconds to wait before taking more."""
        now_s, numbers = self._clock(), self._numbers
        numbers[_SERVED_AT] = now_s
        if self._bytes_per_s is None:
            return 0.0
        with self._lock():
            bytes_per_s = numbers[SHARE_BYTES] if self.is_shared else self._bytes_per_s / max(1.0, numbers[MEMBERS])
            numbers[_PAID] = max(numbers[_PAID], now_s - BURST_S) + nbytes / bytes_per_s
            numbers[BYTES] += nbytes
            if numbers[_PAID] > now_s:
                numbers[LATE_AT] = now_s
            return max(0.0, numbers[_PAID] - now_s)

    def observe(self, served: float, under_way: int, *, refused: bool, pause_s: float) -> None:
        """Count what a fleet's limiters have reported since the last time, as the limiter above them.

        `refused`: a request was refused that had entered since the last cut. `pause_s`: what the origin asked for.
        """
        now_s, numbers = self._clock(), self._numbers
        if served > 0 or not numbers[_RATE]:
            self._grow(now_s)
        if served > 0:
            numbers[_SERVED_AT] = now_s
            numbers[_COUNT] += served
            if numbers[_CONCURRENCY]:
                grown = numbers[_CONCURRENCY] + served / numbers[_CONCURRENCY]
                numbers[_CONCURRENCY] = min(grown, float(self._concurrency_max))
        if refused:
            self._cut(now_s, under_way)
            numbers[_PAUSE_END] = max(numbers[_PAUSE_END], now_s + max(pause_s, PAUSE_S))
            numbers[_SINCE], numbers[_COUNT] = now_s, 0.0

    @property
    def ceiling(self) -> float:
        """The rate that was last refused; 0: none, or too long ago."""
        return self._numbers[_CEILING]

    @property
    def cuts(self) -> int:
        """How often the limits have been cut."""
        return int(self._numbers[_CUTS])

    @property
    def state(self) -> tuple[float, ...]:
        """What another limiter needs to continue from here; its clock must be the same."""
        return tuple(self._numbers[:ENTERED])

    @state.setter
    def state(self, state: Sequence[float]) -> None:
        for at, number in enumerate(state[:ENTERED]):
            self._numbers[at] = number

    def take_share(self, share: RateShare, until_s: float) -> None:
        """Use this share until `until_s`. After a cut, the refusal of a request under way is no news."""
        numbers = self._numbers
        with self._lock():
            if share.is_new:
                numbers[_CUTS] += 1
            numbers[SHARE_RATE], numbers[SHARE_CONCURRENCY] = share.rate, share.concurrency
            numbers[SHARE_BYTES] = share.bytes_per_s
            numbers[SHARED_UNTIL] = until_s
            numbers[_RATE], numbers[_CONCURRENCY] = max(share.even_rate, RATE_MIN), share.even_concurrency
            numbers[_CEILING] = share.even_ceiling
            numbers[_GROWN_AT] = numbers[_GROW_AT] = self._clock()
            if share.pause_end_s > self._clock():
                numbers[_PAUSE_END] = max(numbers[_PAUSE_END], share.pause_end_s)
                numbers[_NEXT_AT] = max(numbers[_NEXT_AT], share.pause_end_s + share.phase / share.rate)

    def _rate(self, *, shared: bool) -> float:
        numbers = self._numbers
        if shared:
            return numbers[SHARE_RATE]
        return numbers[_RATE] or max(self._start_rate / max(1.0, numbers[MEMBERS]), RATE_MIN)

    def _concurrency(self, *, shared: bool) -> int:
        """Return the limit on requests under way. A fleet's share is at least one request."""
        learnt = int(self._numbers[SHARE_CONCURRENCY if shared else _CONCURRENCY])
        return min(learnt or self._concurrency_max, self._concurrency_max)

    def _cut(self, now_s: float, under_way: int) -> None:
        numbers = self._numbers
        numbers[_CUTS] += 1
        rate = min(numbers[_RATE], FREE_RATE)
        seen = self._seen(now_s, rate)
        near = self._is_near()
        numbers[_HOLD] = min(numbers[_HOLD] * 2, HOLD_MAX_S) if near else HOLD_S
        numbers[_CEILING] = seen or rate
        numbers[_RATE] = max(seen * BELOW_SEEN if seen else rate / 2, RATE_MIN)
        numbers[_CONCURRENCY] = max(CONCURRENCY_MIN, under_way * (NEAR_CUT if near else 0.5))
        numbers[_GROWN_AT] = numbers[_GROW_AT] = now_s + (numbers[_HOLD] if seen else PAUSE_S)

    def _seen(self, now_s: float, rate: float) -> float:
        """Return the rate that the origin takes, as far as this refusal shows; 0: it does not.

        At two refusals in a row an origin's allowance was used up, so what it served in between is what it allows. But
        during a long Retry-After it may have allowed more than it can save up; hence a steady rate is not cut deeply.
        """
        numbers = self._numbers
        since_s = now_s - numbers[_SINCE]
        if not numbers[_SINCE] or since_s > FORGET_S or numbers[_COUNT] < SEEN_MIN:
            return 0.0
        held_s = now_s - max(numbers[_PAUSE_END], numbers[_SINCE])
        floor = STEADY_CUT if held_s >= STEADY_S else 0.5
        return max(min(numbers[_COUNT] / since_s, rate), rate * floor)

    def _is_near(self) -> bool:
        """Return whether the rate is close to the one that was last refused."""
        return self._numbers[_RATE] >= NEAR_CEILING * self._numbers[_CEILING] > 0

    def _grow(self, now_s: float) -> None:
        numbers = self._numbers
        if not numbers[_RATE]:
            numbers[_RATE], numbers[_GROWN_AT] = self._rate(shared=False), now_s
        if numbers[_RATE] >= FREE_RATE or now_s <= numbers[_GROWN_AT]:
            return
        if not numbers[_CEILING]:
            growth = FIRST_GROWTH
        elif now_s - numbers[_GROW_AT] > FORGET_S:
            numbers[_CEILING] = numbers[_HOLD] = 0.0
            growth = FIRST_GROWTH
        else:
            growth = FAST_GROWTH
            if self._is_near():
                quiet_s = now_s - numbers[_GROW_AT]
                growth = min(SLOW_GROWTH * (1 + quiet_s / QUIET_S) ** 2, FAST_GROWTH)
        numbers[_RATE] *= 1 + growth * min(now_s - numbers[_GROWN_AT], 1.0)
        numbers[_GROWN_AT] = now_s


def name_number(name: str) -> float:
    """Return an origin's id as a whole number that a double holds; never 0."""
    return float(1 + int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:6], "big"))


def private_numbers() -> Numbers:
    """Return memory for a limiter that only this process uses."""
    return memoryview(bytearray(8 * LIMITER_NUMBERS)).cast("d")
