"""wrk's results, the requests it is given, and how rounds become ratios."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.hits import Measured
from bench.many import DRAWS, OBJECTS, draw
from bench.rounds import in_turns, ratios, spread
from bench.wrk import Load, aligned_ranges, parse_wrk

PRINTED = """Running 1s test @ http://127.0.0.1:8080
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   121.00us  270.00us   9.10ms   98.43%
    Req/Sec    67.39k     4.10k   72.80k    90.00%
  67383 requests in 1.00s, 297.87MB read
RESULT 67383 312340000 1003541 96 1210 {errors}
"""


def test_what_wrk_found_is_read() -> None:
    assert parse_wrk(PRINTED.format(errors=0)) == Load(
        requests=67383, received_bytes=312340000, seconds=1.003541, p50_ms=0.096, p99_ms=1.21
    )


@pytest.mark.parametrize(
    "printed", ["unable to connect to 127.0.0.1:1 Connection refused\n", PRINTED.format(errors=3), "RESULT 0 0 1 0 0 0"]
)
def test_a_run_with_failed_requests_or_none_is_no_measurement(printed: str) -> None:
    with pytest.raises(RuntimeError, match="wrk failed"):
        parse_wrk(printed)


def test_of_answers_that_none_ended_the_latency_is_at_least_the_run() -> None:
    load = parse_wrk("RESULT 0 1255586639 2124722 0 0 0")
    assert (load.requests, load.received_bytes) == (0, 1255586639)
    assert load.p50_ms == load.p99_ms == 2124.722


def test_small_bodies_count_without_their_heads_and_large_ones_as_far_as_they_came() -> None:
    small = Measured(Load(1000, 1000 * (4096 + 500), 2.0, 0.1, 0.2), 4096, server_cpu_s=0.5)
    assert small.body_bytes == 1000 * 4096
    assert small.requests_per_s == 500
    assert small.server_cpu_us == pytest.approx(500)
    large = Measured(Load(3, 7 << 28, 4.0, 1000, 2000), 1 << 28, server_cpu_s=0.5)
    assert large.requests_per_s == 7 / 4
    assert large.server_cpu_s_per_gb == pytest.approx(0.5 / (7 << 28) * 1e9)


def test_ranges_are_aligned_and_cover_an_object_once() -> None:
    ranges = aligned_ranges("/bench/object", 1 << 20, 64 << 10)
    assert {path for path, _ in ranges} == {"/bench/object"}
    starts = sorted(int(span.split("-")[0]) for _, span in ranges)
    assert starts == list(range(0, 1 << 20, 64 << 10))
    assert all(int(end) - int(start) == (64 << 10) - 1 for start, end in (span.split("-") for _, span in ranges))


def test_uniform_draws_are_even_and_zipf_prefers_few() -> None:
    even, few = Counter(draw("uniform")), Counter(draw("zipf"))
    assert even.total() == few.total() == DRAWS
    assert len(even) > OBJECTS * 0.97
    assert max(even.values()) < 30
    most, next_most = (count for _, count in few.most_common(2))
    assert most == pytest.approx(DRAWS / 9.79, rel=0.05)  # the sum of 1/n to 10,000
    assert most / next_most == pytest.approx(2, rel=0.1)


def test_sides_take_turns_and_change_their_order() -> None:
    order: list[str] = []

    def note(name: str) -> int:
        order.append(name)
        return len(order)

    found = in_turns({"a": lambda: note("a"), "b": lambda: note("b")}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert found == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_ratios_are_taken_pair_by_pair() -> None:
    assert ratios([2, 9, 3], [1, 3, 3]) == [2, 3, 1]
    assert spread([2, 3, 1]) == "2.00 (1.00-3.00)"
    assert ratios([2, 9], [0, 3]) == [3]
    assert spread([]) == "-"
