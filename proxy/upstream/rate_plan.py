"""The global rate plan: how fast a fleet may use one origin, and each node's share of that. Pure.

How it works. Each node reports what its limiter has counted (`RateReport`). One of them, no matter which, is the
planner and keeps the fleet's limiter: a limiter above all limiters, by the same rules as a node's own. Its rate grows
while requests are served. It is cut once for all refusals under one rate: a report counts only refusals of requests
that had entered since its node learned of the last cut. What it allows is shared by a level (max-min fairness). Nodes
that want less than the level get what they want and a little more; nodes that had to wait get the level. So nothing is
left over while anybody waits. The plan is one small value, however many nodes there are; each node computes its own
share from it.

A node that did not wait has headroom: twice its use, and at least the even share. It may use that at once; if it needs
more, it waits for the next plan.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from proxy.fleet.messages import parse_json
from proxy.upstream.limiter import FREE_RATE, START_RATE, AdaptiveLimiter, RateShare, private_numbers

REPORT_S = 2.0  # an older report's node is gone
HEADROOM = 1.25  # of the use of a node that did not wait
SHARE_BYTES_MAX = 4096
_CONCURRENCY_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class RateReport:
    """One node's report on one origin. `served` counts from the node's start; the rates are per second.

    `cuts`: the last cut that the node has learned of; `refused`: how many requests were refused since. `hungry`,
    `bytes_hungry`: some request had to wait for the limit. `pause_s`: the rest of the pause that the origin has asked
    for. `bytes_per_s`: what the node's settings allow the fleet, 0 for no limit.
    """

    served: float
    refused: float
    cuts: int
    under_way: int
    rate: float
    hungry: bool
    byte_rate: float
    bytes_hungry: bool
    pause_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class RatePlan:
    """What the fleet may ask of an origin. Times are by Redis's clock; infinite levels are no limit.

    `state` is that of the fleet's limiter, so that another node can continue it.
    """

    at_s: float
    nodes: int
    cuts: int
    rate: float
    rate_level: float
    ceiling: float
    concurrency: float
    concurrency_level: float
    bytes_per_s: float
    bytes_level: float
    pause_end_s: float
    state: tuple[float, ...]


def level(total: float, wanted: Sequence[float]) -> float:
    """Return the level at which shares of min(level, wanted) add up to the total.

    Infinite if the total is enough for all.
    """
    left, many = total, len(wanted)
    for amount in sorted(wanted):
        if amount * many >= left:
            return left / many
        left -= amount
        many -= 1
    return math.inf


def part(total: float, level_: float, nodes: int, used: float, *, hungry: bool) -> float:
    """Return one node's share of the total. An infinite level means that nobody had to wait at that moment."""
    if hungry and math.isfinite(level_):
        return level_
    return min(level_, max(2 * used, total / max(nodes, 1)))


class RatePlanner:
    """The fleet's limiter for one origin, kept by one node.

    `state` is the last plan's. Without one, it begins with `start_rate` requests per second.
    """

    def __init__(self, state: Sequence[float] = (), start_rate: float = START_RATE) -> None:
        self._now_s = 0.0
        self._limiter = AdaptiveLimiter(
            private_numbers(), 0, concurrency_max=_CONCURRENCY_MAX, start_rate=start_rate, clock=lambda: self._now_s
        )
        self._limiter.state = state
        self._served: dict[str, float] = {}
        self._pause_end_s = 0.0

    def step(self, now_s: float, reports: Mapping[str, RateReport], last: RatePlan | None = None) -> RatePlan:
        """Return the plan that follows from the nodes' reports. `last`: the plan before it."""
        self._now_s = now_s
        limiter = self._limiter
        found = list(reports.values())
        known = self._served
        served = sum(max(0.0, report.served - known.get(name, report.served)) for name, report in reports.items())
        self._served = {name: report.served for name, report in reports.items()}
        refused = any(report.refused > 0 and report.cuts == limiter.cuts for report in found)
        pause_s = max((report.pause_s for report in found), default=0.0)
        under_way = sum(report.under_way for report in found)
        limiter.observe(served, under_way, refused=refused, pause_s=pause_s)
        self._pause_end_s = max(
            self._pause_end_s, last.pause_end_s if last is not None else 0.0, now_s + pause_s if pause_s > 0 else 0.0
        )
        rate = limiter.rate if limiter.rate < FREE_RATE else math.inf
        concurrency = float(limiter.concurrency) if limiter.concurrency < _CONCURRENCY_MAX else math.inf
        bytes_per_s = min((report.bytes_per_s for report in found if report.bytes_per_s), default=math.inf)
        return RatePlan(
            at_s=now_s,
            nodes=len(found),
            cuts=limiter.cuts,
            rate=rate,
            rate_level=level(rate, [_wanted(report.rate, hungry=report.hungry) for report in found]),
            ceiling=limiter.ceiling,
            concurrency=concurrency,
            concurrency_level=level(concurrency, [_wanted(report.under_way, hungry=report.hungry) for report in found]),
            bytes_per_s=bytes_per_s,
            bytes_level=level(bytes_per_s, [_wanted(report.byte_rate, hungry=report.bytes_hungry) for report in found]),
            pause_end_s=self._pause_end_s,
            state=limiter.state,
        )


def share_of(plan: RatePlan, own: RateReport, members: int, ahead_s: float, *, phase: float, is_new: bool) -> RateShare:
    """Return the share that the plan gives this node. `ahead_s`: how far Redis's clock is ahead of the limiter's."""
    many, nodes = max(members, plan.nodes, 1), max(plan.nodes, 1)
    concurrency = part(plan.concurrency, plan.concurrency_level, nodes, own.under_way, hungry=own.hungry)
    return RateShare(
        rate=part(plan.rate, plan.rate_level, nodes, own.rate, hungry=own.hungry),
        concurrency=max(1, int(concurrency)) if math.isfinite(concurrency) else 0,
        bytes_per_s=part(plan.bytes_per_s, plan.bytes_level, nodes, own.byte_rate, hungry=own.bytes_hungry),
        even_rate=plan.rate / many,
        even_ceiling=plan.ceiling / many,
        even_concurrency=max(1.0, plan.concurrency / many) if math.isfinite(plan.concurrency) else 0.0,
        pause_end_s=plan.pause_end_s - ahead_s if plan.pause_end_s else 0.0,
        phase=phase,
        is_new=is_new,
    )


def render(value: RateReport | RatePlan) -> str:
    return json.dumps(asdict(value))


def parse_report(text: bytes) -> RateReport:
    """Return the report. Raise ValueError."""
    return RateReport(**_fields(text, RateReport))


def parse_plan(text: bytes) -> RatePlan:
    """Return the plan. Raise ValueError."""
    values = _fields(text, RatePlan)
    state = values["state"]
    if not isinstance(state, list) or not all(isinstance(each, int | float) for each in state):
        raise ValueError("the state of a pace is numbers")
    return RatePlan(**values | {"state": tuple(float(number) for number in state)})


def _fields(text: bytes, kind: type[RateReport | RatePlan]) -> dict[str, Any]:
    values = parse_json(text, bytes_max=SHARE_BYTES_MAX)
    names = kind.__dataclass_fields__
    if not isinstance(values, dict) or any(name not in values for name in names):
        raise ValueError(f"not a {kind.__name__.lower()}")
    found = {name: values[name] for name in names}
    numbers = [value for name, value in found.items() if name != "state"]
    if not all(isinstance(value, int | float) and not math.isnan(value) for value in numbers):
        raise ValueError("not numbers")
    return found


def _wanted(used: float, *, hungry: bool) -> float:
    return math.inf if hungry else HEADROOM * used
