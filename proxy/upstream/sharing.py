"""The sharing of origins within a fleet: the control process reports what limiters count, and writes their shares.

How it works. Several times a second, each limiter in use is read, its report is exchanged for the fleet's plan, and the
resulting share is written back, where all workers find it: no request waits for Redis. The node that is the planner
makes the next plan from all reports. A share holds for SHARE_S. If Redis is away longer than that, each limiter
continues alone, from the node's even share of what the fleet had; without any Redis, from an even share of what a lone
node begins with. Then the settings' bandwidth for an origin is divided by the number of members.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence

from proxy.fleet.rate_store import RateStore
from proxy.rate_limited_log import RateLimitedLog
from proxy.upstream.limiter import (
    BANDWIDTH,
    BYTES,
    DENIED_AT,
    ENTERED,
    FREE_RATE,
    LATE_AT,
    MEMBERS,
    NAME,
    REFUSED,
    SERVED,
    TOLD_END,
    AdaptiveLimiter,
    Numbers,
)
from proxy.upstream.rate_plan import (
    REPORT_S,
    RatePlan,
    RatePlanner,
    RateReport,
    parse_plan,
    parse_report,
    render,
    share_of,
)

TICK_S = 0.2
SHARE_S = 2.0
ANSWER_S = 1.0
IN_USE_S = 10.0  # after its last request
AVERAGE_S = 0.5  # over which a rate is averaged

_limited_log = RateLimitedLog(logging.getLogger("warmstart.fleet"))


class SharedLimiter:
    """One limiter, as the control process uses it. `clock` is the limiter's; `chance` draws a number from 0 to 1."""

    def __init__(
        self,
        limiter: AdaptiveLimiter,
        numbers: Numbers,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._limiter = limiter
        self._numbers = numbers
        self._clock = clock
        self._read_at_s = clock()
        self._entered = numbers[ENTERED]
        self._bytes = numbers[BYTES]
        self._rate = self._byte_rate = 0.0
        self._used_at_s = -IN_USE_S
        self._cuts = -1
        self._refused_before = numbers[REFUSED]
        self._planner: RatePlanner | None = None
        self._phase = chance()

    @property
    def name(self) -> str:
        """The origin's name, the same on all nodes."""
        return f"{int(self._numbers[NAME]):x}"

    def count_members(self, members: int) -> None:
        self._numbers[MEMBERS] = members

    def report(self) -> RateReport | None:
        """Return this node's report; None: the origin is not in use here."""
        now_s, numbers = self._clock(), self._numbers
        passed_s = max(now_s - self._read_at_s, 1e-3)
        weight = min(1.0, passed_s / AVERAGE_S)
        entered, nbytes = numbers[ENTERED], numbers[BYTES]
        self._rate += weight * ((entered - self._entered) / passed_s - self._rate)
        self._byte_rate += weight * ((nbytes - self._bytes) / passed_s - self._byte_rate)
        hungry, bytes_hungry = (numbers[at] >= self._read_at_s for at in (DENIED_AT, LATE_AT))
        under_way = self._limiter.under_way
        if entered != self._entered or hungry or under_way:
            self._used_at_s = now_s
        self._entered, self._bytes, self._read_at_s = entered, nbytes, now_s
        if not numbers[NAME] or now_s - self._used_at_s > IN_USE_S:
            return None
        return RateReport(
            served=numbers[SERVED],
            refused=numbers[REFUSED] - self._refused_before,
            cuts=self._cuts,
            under_way=under_way,
            rate=self._rate,
            hungry=hungry,
            byte_rate=self._byte_rate,
            bytes_hungry=bytes_hungry,
            pause_s=max(0.0, numbers[TOLD_END] - now_s),
            bytes_per_s=numbers[BANDWIDTH],
        )

    def take(self, plan: RatePlan, own: RateReport, members: int, redis_now_s: float) -> None:
        """Follow the plan from now on."""
        now_s = self._clock()
        is_new = plan.cuts != self._cuts
        share = share_of(plan, own, members, redis_now_s - now_s, phase=self._phase, is_new=is_new)
        if is_new:
            self._cuts, self._refused_before = plan.cuts, self._numbers[REFUSED]
        self._limiter.take_share(share, now_s + SHARE_S)

    def next_plan(self, now_s: float, reports: Mapping[str, RateReport], last: RatePlan | None) -> RatePlan:
        """Return the next plan. A new planner continues from the last plan, or from what it knows itself."""
        if self._planner is None:
            known = min(self._limiter.rate_alone * max(1.0, self._numbers[MEMBERS]), FREE_RATE)
            self._planner = RatePlanner(last.state if last is not None else (), known)
        return self._planner.step(now_s, reports, last)

    def stop_planning(self) -> None:
        self._planner = None


class Sharing:
    """The sharing of all limiters of a node.

    `rates` is None without Redis, whose client raises `errors`. `members` returns the number of all nodes.
    """

    def __init__(
        self,
        shared_limiters: Sequence[SharedLimiter],
        members: Callable[[], int],
        rates: RateStore | None = None,
        errors: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._shared_limiters = shared_limiters
        self._members = members
        self._rates = rates
        self._errors = errors

    async def run(self) -> None:
        """Share the limiters until cancelled."""
        while True:
            for shared in self._shared_limiters:
                shared.count_members(self._members())
            await self.exchange()
            await asyncio.sleep(TICK_S)

    async def exchange(self) -> None:
        """Exchange reports for plans once, for all origins in use."""
        if self._rates is None:
            return
        told = [(shared, report) for shared in self._shared_limiters if (report := shared.report()) is not None]
        await asyncio.gather(*(self._exchange_one(self._rates, shared, report) for shared, report in told))

    async def _exchange_one(self, rates: RateStore, shared: SharedLimiter, own: RateReport) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                swapped = await rates.swap(shared.name, render(own), REPORT_S)
                plan = _read_plan(swapped.plan)
                if swapped.reports is None:
                    shared.stop_planning()
                else:
                    reports = _read_reports(swapped.reports)
                    plan = shared.next_plan(swapped.now_s, reports, plan)
                    await rates.plan(shared.name, render(plan))
        except self._errors as error:
            _limited_log.say(f"the fleet's limits can't be shared by Redis: {error or type(error).__name__}")
            return
        if plan is not None and swapped.now_s - plan.at_s <= SHARE_S:
            shared.take(plan, own, self._members(), swapped.now_s)


def _read_plan(text: bytes | None) -> RatePlan | None:
    """Return the plan; None: there is none, or one of another program version."""
    try:
        return parse_plan(text) if text is not None else None
    except ValueError:
        return None


def _read_reports(texts: Mapping[str, bytes]) -> dict[str, RateReport]:
    found = {}
    for name, text in texts.items():
        try:
            found[name] = parse_report(text)
        except ValueError:
            _limited_log.say(f"{name} reports what this node can't read")
    return found
