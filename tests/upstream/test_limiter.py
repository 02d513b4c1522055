"""The origin's limiter: how its limits move, simulated with a clock of its own."""

from __future__ import annotations

import heapq
import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.shared import LIMITER_WORDS, SharedTables
from proxy.upstream.limiter import (
    BELOW_SEEN,
    CONCURRENCY_MIN,
    FREE_RATE,
    LIMITER_NUMBERS,
    PAUSE_S,
    START_RATE,
    AdaptiveLimiter,
    Ticket,
    private_numbers,
)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def made(clock: Clock, **more: object) -> AdaptiveLimiter:
    return AdaptiveLimiter(private_numbers(), 0, concurrency_max=64, clock=clock, **more)  # type: ignore[arg-type]


def entered(limiter: AdaptiveLimiter) -> Ticket:
    ticket = limiter.enter()
    assert isinstance(ticket, Ticket)
    return ticket


def test_a_new_origin_takes_a_burst_and_then_the_starting_rate(clock: Clock) -> None:
    limiter = made(clock)
    burst = sum(isinstance(limiter.enter(), Ticket) for _ in range(64))
    assert 1 < burst < START_RATE / 10
    assert limiter.enter() == pytest.approx(1 / START_RATE, rel=0.5)


def test_without_a_refusal_the_rate_doubles_each_second_until_it_is_no_limit(clock: Clock) -> None:
    limiter = made(clock)
    for _ in range(1000):
        clock.now_s += 0.01
        if isinstance(limiter.enter(), Ticket):
            limiter.leave(success=True)
    assert limiter.rate >= FREE_RATE


def test_no_more_requests_are_under_way_than_the_concurrency_allows(clock: Clock) -> None:
    limiter = made(clock, start_rate=FREE_RATE)
    assert sum(isinstance(limiter.enter(), Ticket) for _ in range(100)) == 64
    limiter.leave(success=True)
    entered(limiter)


def test_a_refusal_pauses_everybody_halves_the_concurrency_and_counts_once(clock: Clock) -> None:
    numbers = private_numbers()
    one, two = (
        AdaptiveLimiter(numbers, slot, concurrency_max=64, clock=clock, start_rate=FREE_RATE) for slot in (0, 1)
    )
    tickets = [entered(one) for _ in range(20)] + [entered(two) for _ in range(20)]
    one.refuse(tickets[0], None)
    assert one.concurrency == two.concurrency == 20
    rate = one.rate
    two.refuse(tickets[30], None)
    assert (one.concurrency, one.rate) == (20, rate), "they had all left before the cut"
    wait_s = two.enter()
    assert not isinstance(wait_s, Ticket)
    assert 0 < wait_s <= PAUSE_S + 1e-6


def test_retry_after_holds_for_every_process(clock: Clock) -> None:
    numbers = private_numbers()
    one, two = (AdaptiveLimiter(numbers, slot, concurrency_max=64, clock=clock) for slot in (0, 1))
    one.refuse(entered(one), 7.0)
    assert two.enter() == pytest.approx(7.0)
    clock.now_s += 6.9
    assert not isinstance(two.enter(), Ticket)
    clock.now_s += 0.2
    entered(two)


def test_the_share_of_a_killed_process_comes_back_with_its_successor(clock: Clock) -> None:
    numbers = private_numbers()
    dead = AdaptiveLimiter(numbers, 0, concurrency_max=8, clock=clock, start_rate=FREE_RATE)
    other = AdaptiveLimiter(numbers, 1, concurrency_max=8, clock=clock, start_rate=FREE_RATE)
    for _ in range(8):
        entered(dead)
    assert not isinstance(other.enter(), Ticket)
    AdaptiveLimiter(numbers, 0, concurrency_max=8, clock=clock, start_rate=FREE_RATE)
    entered(other)


def test_the_share_of_a_killed_process_comes_back_when_another_one_sweeps(clock: Clock) -> None:
    tables = SharedTables.create()
    doomed, other = SharedTables.attach(tables.fd), SharedTables.attach(tables.fd)
    assert [doomed.locks.take_slot(8), other.locks.take_slot(8)] == [0, 1]
    numbers, dead_slot = other.limiter(0), other.locks.dead_slot
    limiter = AdaptiveLimiter(numbers, 1, concurrency_max=8, clock=clock, start_rate=FREE_RATE, dead=dead_slot)
    dead = AdaptiveLimiter(doomed.limiter(0), 0, concurrency_max=8, clock=clock, start_rate=FREE_RATE)
    entered(limiter)
    for _ in range(7):
        entered(dead)
    limiter.sweep()
    assert limiter.under_way == 8, "it lives"
    del dead
    doomed.close()
    limiter.sweep()
    assert limiter.under_way == 1
    limiter.leave(success=True)
    del limiter, numbers
    other.close()
    tables.close()


def test_concurrency_grows_back_by_successes(clock: Clock) -> None:
    limiter = made(clock, start_rate=FREE_RATE)
    limiter.refuse(entered(limiter), None)
    assert limiter.concurrency == CONCURRENCY_MIN
    for _ in range(2000):
        clock.now_s += 0.05
        if isinstance(limiter.enter(), Ticket):
            limiter.leave(success=True)
    assert limiter.concurrency > 30


def test_bandwidth_is_paid_on_one_clock(clock: Clock) -> None:
    numbers = private_numbers()
    limiters = [AdaptiveLimiter(numbers, slot, concurrency_max=8, bytes_per_s=1e6, clock=clock) for slot in (0, 1)]
    began_s = clock.now_s
    for number in range(100):
        clock.now_s += limiters[number % 2].pay(100_000)
    assert clock.now_s - began_s == pytest.approx(10.0, rel=0.02)
    assert made(clock).pay(10**9) == 0.0


@given(st.lists(st.sampled_from(["enter", "ok", "lost", "refuse", "refuse later", "wait"]), max_size=200))
def test_whatever_happens_the_counts_add_up_and_the_limits_stay_sane(steps: list[str]) -> None:
    clock = Clock()
    limiter, tickets = made(clock), []
    for step in steps:
        if step == "enter":
            ticket = limiter.enter()
            if isinstance(ticket, Ticket):
                tickets.append(ticket)
            else:
                assert ticket > 0
        elif step == "wait":
            clock.now_s += 0.3
        elif tickets:
            ticket = tickets.pop()
            if step.startswith("refuse"):
                limiter.refuse(ticket, 2.0 if step == "refuse later" else None)
            else:
                limiter.leave(success=step == "ok")
        assert limiter.under_way == len(tickets)
        assert 1 <= limiter.concurrency <= 64
        assert limiter.rate >= 1


def simulate(allowed: float, burst: float, took_s: float, retry_after_s: float | None) -> tuple[float, float]:
    """Two processes with 64 places each load from an origin that allows so many requests a second.

    How much longer than ideal it took, and the share of refused requests.
    """
    clock, numbers, chance = Clock(), private_numbers(), random.Random(1)
    limiters = [AdaptiveLimiter(numbers, slot, concurrency_max=128, clock=clock) for slot in range(2)]
    jobs = int(allowed * 30 + burst)
    left, done, sent, refused, tokens, filled_s = jobs, 0, 0, 0, burst, clock.now_s
    free, order, began_s = [64, 64], itertools.count(), clock.now_s
    events: list[tuple[float, int, str, int, Ticket | None]] = [(began_s, next(order), "try", n, None) for n in (0, 1)]
    trying = [True, True]
    while done < jobs:
        at_s, _, kind, number, ticket = heapq.heappop(events)
        clock.now_s = max(clock.now_s, at_s)
        limiter = limiters[number]
        if ticket is not None:
            free[number] += 1
            if kind == "served":
                limiter.leave(success=True)
                done += 1
            else:
                limiter.refuse(ticket, retry_after_s)
                left += 1
            if trying[number]:
                continue
        trying[number] = False
        while left and free[number]:
            entry = limiter.enter()
            if not isinstance(entry, Ticket):
                trying[number] = True
                heapq.heappush(events, (clock.now_s + min(entry, 0.1) + 1e-6, next(order), "try", number, None))
                break
            left, sent, free[number] = left - 1, sent + 1, free[number] - 1
            tokens = min(burst, tokens + (clock.now_s - filled_s) * allowed)
            filled_s = clock.now_s
            if tokens >= 1:
                tokens -= 1
                ends_s, kind = clock.now_s + took_s * chance.uniform(0.8, 1.2), "served"
            else:
                refused += 1
                ends_s, kind = clock.now_s + 0.002, "refused"
            heapq.heappush(events, (ends_s, next(order), kind, number, entry))
    return (clock.now_s - began_s) / ((jobs - burst) / allowed), refused / sent


@pytest.mark.parametrize("allowed", [50.0, 300.0])
@pytest.mark.parametrize("took_s", [0.005, 0.1])
@pytest.mark.parametrize("retry_after_s", [None, 1.0])
def test_an_origin_that_allows_so_many_a_second_is_found(
    allowed: float, took_s: float, retry_after_s: float | None
) -> None:
    longer, refused = simulate(allowed, allowed, took_s, retry_after_s)
    assert longer <= 1.2
    assert refused <= 0.02


@pytest.mark.parametrize("allowed", [100.0, 300.0, 1000.0])
@pytest.mark.parametrize("saved_s", [0.25, 1.0, 3.0])
def test_it_is_found_whatever_burst_the_origin_allows(allowed: float, saved_s: float) -> None:
    longer, refused = simulate(allowed, allowed * saved_s, 0.05, None)
    assert longer <= 1.2
    assert refused <= 0.02


def test_what_was_served_between_two_refusals_is_the_rate(clock: Clock) -> None:
    limiter = made(clock)
    limiter.refuse(entered(limiter), None)
    served = 0
    for _ in range(90):
        clock.now_s += 0.01
        if served < 70 and isinstance(limiter.enter(), Ticket):
            limiter.leave(success=True)
            served += 1
    assert served == 70
    limiter.refuse(entered(limiter), None)
    assert limiter.rate == pytest.approx(70 / 0.9 * BELOW_SEEN, rel=0.01)


def test_an_origin_that_relaxes_is_asked_more_again(clock: Clock) -> None:
    limiter = made(clock)
    limiter.refuse(entered(limiter), None)
    cut = limiter.rate
    for _ in range(6000):
        clock.now_s += 0.01
        if isinstance(limiter.enter(), Ticket):
            limiter.leave(success=True)
    assert limiter.rate > 2 * cut


def test_its_numbers_fit_the_shared_tables() -> None:
    assert LIMITER_WORDS == LIMITER_NUMBERS
    tables = SharedTables.create()
    other = SharedTables.attach(tables.fd)
    one, two = (
        AdaptiveLimiter(tables.limiter(3), 0, concurrency_max=9),
        AdaptiveLimiter(other.limiter(3), 1, concurrency_max=9),
    )
    entered(one)
    assert two.under_way == 1
    assert tables.locks.take_slot(8) == 0
    assert other.locks.take_slot(8) == 1
    with tables.locks.limiter(3), other.locks.limiter(3):
        pass  # a stopped holder stops nobody
    del one, two
    other.close()
    tables.close()
