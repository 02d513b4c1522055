"""Which nodes are slow: judged by rates of the same moment, by all alike, and with patience."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.members.slowness import FADE, FORGET_S, ROUNDS, ReceiveRate, Slowness


def rate_of(samples: list[tuple[float, float, bool]]) -> float | None:
    rate = ReceiveRate()
    found = None
    for now_s, received_bytes, busy in samples:
        found = rate.note(now_s, received_bytes, busy)
    return found


def test_a_rate_is_known_after_three_busy_seconds() -> None:
    samples = [(float(second), 100.0 * second, True) for second in range(4)]
    assert rate_of(samples) == 100.0
    assert rate_of(samples[:-1]) is None


def test_time_in_which_nothing_was_waited_for_does_not_count() -> None:
    samples = [(0.0, 0.0, True), (1.0, 100.0, True), (2.0, 200.0, True), (3.0, 300.0, True)]
    idle = [(4.0, 310.0, False), (9.0, 320.0, False), (10.0, 330.0, True)]
    assert rate_of(samples + idle) == 100.0


def test_a_rate_of_long_ago_is_forgotten() -> None:
    samples = [(float(second), 100.0 * second, True) for second in range(4)]
    assert rate_of([*samples, (3.0 + FORGET_S, 300.0, False)]) == 100.0
    assert rate_of([*samples, (3.5 + FORGET_S, 300.0, False)]) is None


def test_seconds_in_which_others_held_a_node_up_leave_its_rate() -> None:
    held_up = [(float(second), 100.0 * min(second, 4), True) for second in range(8)]
    assert rate_of(held_up) == pytest.approx(100.0 * FADE**3)


def test_a_link_that_has_become_slow_is_known_for_it_within_half_a_minute() -> None:
    became_slow = [(float(second), 100.0 * min(second, 10) + 20.0 * max(0, second - 10), True) for second in range(40)]
    found = rate_of(became_slow)
    assert found is not None
    assert 20.0 <= found < 50.0
    assert rate_of([*became_slow, (40.0, became_slow[-1][1] + 100.0, True)]) == 100.0


def test_a_worker_that_died_makes_no_negative_rate() -> None:
    assert rate_of([(0.0, 900.0, True), (1.0, 0.0, True), (2.0, 0.0, True), (3.0, 0.0, True)]) == 0.0


def judged(own: float | None, others: list[float], rounds: int, slow: bool = False) -> bool:
    judge = Slowness()
    judge.slow = slow
    found = slow
    for _ in range(rounds):
        found = judge.judge(own, others)
    return found


def test_less_than_half_of_the_median_is_slow_after_a_few_rounds() -> None:
    assert not judged(49, [100, 100, 100], ROUNDS - 1)
    assert judged(49, [100, 100, 100], ROUNDS)
    assert not judged(51, [100, 100, 100], 10 * ROUNDS)


def test_two_nodes_are_too_few_to_tell_who_is_slow() -> None:
    assert not judged(1, [100], 10 * ROUNDS)
    assert judged(1, [100, 100], ROUNDS)


def test_a_slow_node_is_well_again_when_it_brings_clearly_more_or_nothing_is_known() -> None:
    assert judged(60, [100, 100], 10 * ROUNDS, slow=True)
    assert not judged(71, [100, 100], ROUNDS, slow=True)
    assert not judged(None, [100, 100], ROUNDS, slow=True)
    assert judged(None, [100, 100], ROUNDS - 1, slow=True)


def test_one_round_that_says_otherwise_starts_the_count_anew() -> None:
    judge = Slowness()
    for own in [10.0, 10.0, 100.0] * 5:
        assert not judge.judge(own, [100.0, 100.0])


@given(st.lists(st.floats(1, 1e12), min_size=3, max_size=30))
def test_fewer_than_half_of_the_nodes_are_ever_slow(rates: list[float]) -> None:
    slow = [judged(rate, [*rates[:place], *rates[place + 1 :]], ROUNDS) for place, rate in enumerate(rates)]
    assert sum(slow) < len(rates) / 2 + 1
    assert not slow[rates.index(max(rates))]
