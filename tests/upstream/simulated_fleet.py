"""A fleet of limiters at one origin that allows so many requests a second, simulated: every part but Redis is real."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.upstream.limiter import AdaptiveLimiter, Ticket, private_numbers
from proxy.upstream.rate_plan import REPORT_S, parse_plan, parse_report, render
from proxy.upstream.sharing import SHARE_S, TICK_S, SharedLimiter

LOOK_AGAIN_S = 0.1  # the throttle's
REDIS_AHEAD_S = 5000.0


@dataclass
class Bucket:
    """The origin's: `burst` requests at once, `allowed` a second."""

    allowed: float
    burst: float
    took_s: float = 0.05
    retry_after_s: float | None = None
    tokens: float = field(init=False)
    filled_s: float = 0.0

    def __post_init__(self) -> None:
        self.tokens = self.burst

    def take(self, now_s: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now_s - self.filled_s) * self.allowed)
        self.filled_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class SimulatedNode:
    """`places`: how many requests it would have under way at once."""

    def __init__(self, name: str, places: int, members: int, clock: Callable[[], float], chance: random.Random) -> None:
        self.name, self.places = name, places
        numbers = private_numbers()
        self.limiter = AdaptiveLimiter(numbers, 0, concurrency_max=128, name="s3://origin", clock=clock)
        self.shared = SharedLimiter(self.limiter, numbers, clock, chance.random)
        self.shared.count_members(members)
        self.free, self.trying = places, False
        self.sent = self.served = self.refused = 0


class SimulatedFleet:
    """Runs for as long as it is told. `redis`: whether plans can be made; a planner may be `stopped`."""

    def __init__(self, bucket: Bucket, places: list[int], seed: int = 1) -> None:
        self.now_s = 1000.0
        self.bucket = bucket
        bucket.filled_s = self.now_s
        self._chance = random.Random(seed)
        self.nodes = [
            SimulatedNode(str(number), each, len(places), lambda: self.now_s, self._chance)
            for number, each in enumerate(places)
        ]
        self.redis = True
        self.stopped: set[str] = set()
        self.reports: dict[str, tuple[float, bytes]] = {}
        self.plan: bytes | None = None
        self.planner: tuple[str, float] | None = None
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, SimulatedNode, Ticket | None]] = []
        for number, node in enumerate(self.nodes):
            self._later(TICK_S * number / len(places), "exchange", node)
            self._later(0.0, "try", node)
            node.trying = True

    def run(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self._events[0][0] < until_s:
            at_s, _, kind, node, ticket = heapq.heappop(self._events)
            self.now_s = max(self.now_s, at_s)
            if kind == "exchange":
                self._exchange(node)
                self._later(TICK_S, "exchange", node)
                continue
            if ticket is not None:
                node.free += 1
                if kind == "served":
                    node.limiter.leave(success=True)
                else:
                    node.limiter.refuse(ticket, self.bucket.retry_after_s)
                if node.trying:
                    continue
            self._try(node)
        self.now_s = until_s

    def count(self) -> None:
        """From now on."""
        for node in self.nodes:
            node.sent = node.served = node.refused = 0

    @property
    def served(self) -> int:
        return sum(node.served for node in self.nodes)

    @property
    def refused(self) -> int:
        return sum(node.refused for node in self.nodes)

    def wake(self, node: SimulatedNode, places: int) -> None:
        """From now on it would have so many under way."""
        node.free += places - node.places
        node.places = places
        if not node.trying:
            node.trying = True
            self._later(0.0, "try", node)

    def _later(self, seconds: float, kind: str, node: SimulatedNode, ticket: Ticket | None = None) -> None:
        heapq.heappush(self._events, (self.now_s + seconds, next(self._order), kind, node, ticket))

    def _try(self, node: SimulatedNode) -> None:
        node.trying = False
        while node.free > 0:
            entry = node.limiter.enter()
            if not isinstance(entry, Ticket):
                node.trying = True
                self._later(min(entry, LOOK_AGAIN_S) + 1e-6, "try", node)
                return
            node.sent, node.free = node.sent + 1, node.free - 1
            if self.bucket.take(self.now_s):
                node.served += 1
                self._later(self.bucket.took_s * self._chance.uniform(0.8, 1.2), "served", node, entry)
            else:
                node.refused += 1
                self._later(0.002, "refused", node, entry)

    def _exchange(self, node: SimulatedNode) -> None:
        """As `Sharing` and `LimitBoard` do it."""
        report = node.shared.report()
        if report is None or not self.redis or node.name in self.stopped:
            return
        now_s = self.now_s + REDIS_AHEAD_S
        self.reports[node.name] = now_s, render(report).encode()
        plan = parse_plan(self.plan) if self.plan is not None else None
        if self.planner is None or self.planner[1] < now_s or self.planner[0] == node.name:
            self.planner = node.name, now_s + 1.0
            fresh = {name: text for name, (at_s, text) in self.reports.items() if now_s - at_s <= REPORT_S}
            plan = node.shared.next_plan(now_s, {name: parse_report(text) for name, text in fresh.items()}, plan)
            self.plan = render(plan).encode()
        else:
            node.shared.stop_planning()
        if plan is not None and now_s - plan.at_s <= SHARE_S:
            node.shared.take(plan, report, len(self.nodes), now_s)
