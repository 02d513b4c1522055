"""What an origin takes is shared out among a fleet's nodes: fairly, in full, and cut once for all."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.limiter import FREE_RATE, AdaptiveLimiter, name_number, private_numbers
from proxy.upstream.rate_plan import (
    RatePlan,
    RatePlanner,
    RateReport,
    level,
    parse_plan,
    parse_report,
    part,
    render,
    share_of,
)
from proxy.upstream.sharing import IN_USE_S, SHARE_S, SharedLimiter
from tests.upstream.simulated_fleet import Bucket, SimulatedFleet

AMOUNTS = st.floats(0, 1e6) | st.just(math.inf)
REPORT = RateReport(0.0, 0.0, 0, 0, 0.0, False, 0.0, False, 0.0, 0.0)


def given_to(total: float, wanted: list[float]) -> list[float]:
    found = level(total, wanted)
    return [min(amount, found) for amount in wanted]


@given(st.floats(0.1, 1e6), st.lists(AMOUNTS, min_size=1, max_size=50))
def test_nobody_gets_more_than_is_wanted_and_all_together_no_more_than_there_is(
    total: float, wanted: list[float]
) -> None:
    given_ = given_to(total, wanted)
    assert all(got <= amount for got, amount in zip(given_, wanted, strict=True))
    assert sum(given_) <= total * (1 + 1e-9)


@given(st.floats(0.1, 1e6), st.lists(AMOUNTS, min_size=1, max_size=50))
def test_nothing_is_left_over_while_anybody_wants_more(total: float, wanted: list[float]) -> None:
    given_ = given_to(total, wanted)
    if any(got < amount for got, amount in zip(given_, wanted, strict=True)):
        assert sum(given_) == pytest.approx(total)


@given(st.floats(0.1, 1e6), st.lists(AMOUNTS, min_size=2, max_size=50))
def test_who_gets_less_than_wanted_gets_as_much_as_anybody(total: float, wanted: list[float]) -> None:
    given_ = given_to(total, wanted)
    short = [got for got, amount in zip(given_, wanted, strict=True) if got < amount]
    assert all(got == pytest.approx(max(given_)) for got in short)


@given(st.floats(1, 1e6), st.lists(st.tuples(st.floats(0, 1e5), st.booleans()), min_size=1, max_size=20))
def test_shares_are_at_most_twice_the_total_and_just_the_total_when_all_are_hungry(
    total: float, nodes: list[tuple[float, bool]]
) -> None:
    found = level(total, [math.inf if hungry else 1.25 * used for used, hungry in nodes])
    shares = [part(total, found, len(nodes), used, hungry=hungry) for used, hungry in nodes]
    if all(hungry for _, hungry in nodes):
        assert sum(shares) == pytest.approx(total)
    elif any(hungry for _, hungry in nodes):
        assert sum(shares) <= 3 * total + 1e-6


def test_a_refusal_cuts_the_fleet_once_however_many_nodes_tell_of_it() -> None:
    pace = RatePlanner()
    reports = {str(number): replace(REPORT, under_way=10) for number in range(5)}
    before = pace.step(1000.0, reports)
    refused = {name: replace(report, refused=4) for name, report in reports.items()}
    cut = pace.step(1000.2, refused)
    assert cut.cuts == before.cuts + 1
    assert cut.rate == pytest.approx(before.rate / 2, rel=0.1)
    again = pace.step(1000.4, refused)  # of the pace before
    assert (again.cuts, again.rate) == (cut.cuts, cut.rate)
    learnt = {name: replace(report, cuts=cut.cuts) for name, report in refused.items()}
    assert pace.step(1000.6, learnt).cuts == cut.cuts + 1


def test_another_planner_goes_on_with_the_same_pace() -> None:
    pace = RatePlanner()
    pace.step(1000.0, {"a": REPORT})
    plan = pace.step(1000.2, {"a": replace(REPORT, refused=1, under_way=9, pause_s=7.0)})
    other = RatePlanner(parse_plan(render(plan).encode()).state)
    following = other.step(1000.4, {"a": replace(REPORT, cuts=plan.cuts)}, plan)
    assert (following.rate, following.cuts, following.concurrency) == (plan.rate, plan.cuts, plan.concurrency)
    assert following.pause_end_s == plan.pause_end_s == 1007.2


def test_a_planner_without_a_last_plan_begins_with_what_it_knows() -> None:
    fleet = SimulatedFleet(Bucket(1e6, 1e6), [32] * 3)
    fleet.run(15)
    assert all(node.limiter.rate >= FREE_RATE for node in fleet.nodes)
    fleet.redis = False
    fleet.run(SHARE_S + 1)
    fleet.plan = fleet.planner = None
    fleet.redis = True
    fleet.run(0.5)
    assert all(node.limiter.rate >= FREE_RATE for node in fleet.nodes)


def test_reports_read_back_as_they_were_written() -> None:
    report = RateReport(1.0, 2.0, 3, 4, 5.5, True, 6.5, False, 7.0, math.inf)
    assert parse_report(render(report).encode()) == report


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"at_s": 1}', b"\xff"])
def test_what_is_no_plan_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_plan(text)
    with pytest.raises(ValueError):
        parse_report(text)


@pytest.mark.parametrize("nodes", [3, 10])
@pytest.mark.parametrize("allowed", [100.0, 300.0])
@pytest.mark.parametrize("retry_after_s", [None, 1.0])
def test_a_fleet_finds_the_rate_of_an_origin_and_shares_it_evenly(
    nodes: int, allowed: float, retry_after_s: float | None
) -> None:
    fleet = SimulatedFleet(Bucket(allowed, allowed, retry_after_s=retry_after_s), [32] * nodes)
    fleet.run(30)
    assert fleet.served - allowed >= 0.8 * allowed * 30
    assert fleet.refused <= 0.02 * fleet.served
    served = [node.served for node in fleet.nodes]
    assert max(served) <= 1.3 * min(served)


def test_who_wants_little_gets_it_and_the_others_share_the_rest() -> None:
    fleet = SimulatedFleet(Bucket(300, 300), [32, 32, 1])  # the third one request at a time: 20 a second
    fleet.run(10)
    fleet.count()
    fleet.run(20)
    little = fleet.nodes[2].served
    assert little > 0.7 * 20 * 20
    assert fleet.nodes[0].served == pytest.approx(fleet.nodes[1].served, rel=0.2)
    assert fleet.served >= 0.8 * 300 * 20


def test_a_node_that_wakes_up_gets_its_share_within_a_second() -> None:
    fleet = SimulatedFleet(Bucket(300, 300), [32, 0, 0])
    fleet.run(20)
    assert fleet.served >= 0.8 * 300 * 20
    fleet.wake(fleet.nodes[1], 32)
    fleet.run(1)
    fleet.count()
    fleet.run(10)
    assert fleet.nodes[1].served == pytest.approx(fleet.nodes[0].served, rel=0.3)
    assert fleet.refused <= 0.03 * fleet.served


def test_a_retry_after_that_one_node_hears_pauses_all() -> None:
    fleet = SimulatedFleet(Bucket(1000, 1000), [4] * 3)
    fleet.run(3)
    node = fleet.nodes[0]
    entry = node.limiter.enter()
    while isinstance(entry, float):
        fleet.run(0.01)
        entry = node.limiter.enter()
    node.limiter.refuse(entry, 5.0)
    fleet.run(0.5)
    assert all(4 < each.limiter.pause_s <= 5 for each in fleet.nodes)
    fleet.count()
    fleet.run(4)
    assert fleet.served == 0
    fleet.run(3)
    assert all(each.served for each in fleet.nodes)


def test_when_the_planner_is_gone_another_one_plans() -> None:
    fleet = SimulatedFleet(Bucket(300, 300), [32] * 3)
    fleet.run(10)
    assert fleet.planner is not None
    gone = fleet.planner[0]
    fleet.stopped.add(gone)
    fleet.run(5)
    assert fleet.planner[0] != gone
    fleet.count()
    fleet.run(10)
    assert sum(node.limiter.is_shared for node in fleet.nodes) == 2
    assert fleet.refused <= 0.1 * fleet.served


def test_without_redis_each_node_goes_on_from_its_even_part() -> None:
    fleet = SimulatedFleet(Bucket(300, 300), [32] * 3)
    fleet.run(15)
    shared = [node.limiter.rate for node in fleet.nodes]
    fleet.redis = False
    fleet.run(SHARE_S + 0.1)
    assert not any(node.limiter.is_shared for node in fleet.nodes)
    assert [node.limiter.rate for node in fleet.nodes] == pytest.approx(shared, rel=0.35)
    fleet.count()
    fleet.run(30)
    assert fleet.served >= 0.7 * 300 * 30
    assert fleet.refused <= 0.05 * fleet.served
    fleet.redis = True
    fleet.run(1)
    assert all(node.limiter.is_shared for node in fleet.nodes)


def test_bytes_are_shared_as_requests_are() -> None:
    reports = {
        "a": replace(REPORT, byte_rate=10e6, bytes_hungry=True, bytes_per_s=100e6),
        "b": replace(REPORT, byte_rate=10e6, bytes_hungry=True, bytes_per_s=100e6),
        "c": replace(REPORT, byte_rate=8e6, bytes_per_s=100e6),
    }
    plan = RatePlanner().step(1000.0, reports)
    shares = {name: share_of(plan, report, 3, 0.0, phase=0.0, is_new=False) for name, report in reports.items()}
    assert shares["a"].bytes_per_s == shares["b"].bytes_per_s == pytest.approx(45e6)
    assert 8e6 < shares["c"].bytes_per_s <= 45e6


def test_without_a_plan_the_bandwidth_and_the_first_rate_are_divided_by_the_members() -> None:
    clock = [1000.0]
    numbers = private_numbers()
    limiter = AdaptiveLimiter(
        numbers, 0, concurrency_max=8, bytes_per_s=1e6, name="s3://origin", clock=lambda: clock[0]
    )
    alone = limiter.rate
    SharedLimiter(limiter, numbers, lambda: clock[0]).count_members(4)
    assert limiter.rate == alone / 4
    for _ in range(20):
        clock[0] += limiter.pay(50_000)
    assert clock[0] - 1000.0 == pytest.approx(4.0, rel=0.06)


def test_an_origin_that_nobody_uses_is_not_reported() -> None:
    clock = [1000.0]
    numbers = private_numbers()
    limiter = AdaptiveLimiter(numbers, 0, concurrency_max=8, name="s3://origin", clock=lambda: clock[0])
    limits = SharedLimiter(limiter, numbers, lambda: clock[0])
    assert limits.name == f"{int(name_number('s3://origin')):x}"
    clock[0] += 1
    assert limits.report() is None
    limiter.enter()
    limiter.leave(success=True)
    clock[0] += 0.2
    report = limits.report()
    assert report is not None
    assert (report.served, report.under_way) == (1.0, 0)
    clock[0] += IN_USE_S + 1
    assert limits.report() is None


def test_a_plan_without_limits_gives_none() -> None:
    plan = RatePlan(0.0, 3, 0, math.inf, math.inf, 0.0, math.inf, math.inf, math.inf, math.inf, 0.0, ())
    share = share_of(plan, replace(REPORT, hungry=True, bytes_hungry=True), 3, 0.0, phase=0.5, is_new=False)
    assert share.rate >= FREE_RATE
    assert share.concurrency == 0
    assert parse_plan(render(plan).encode()) == plan
