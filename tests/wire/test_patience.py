"""How long a server may be silent is learnt from its answers, and the wire gives up no sooner and no later."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire import Patience, TimedOut, WireClient
from proxy.wire.patience import FACTOR, SAMPLES, SAMPLES_MIN, TARGETS_MAX
from tests.fakes.scripted import Exchange, ScriptedServer, answer, render_head
from tests.waiting import until
from tests.wire.sinks import CopyingSink, fetch, give
from tests.wire.skipping import SkippingLoop, skip, turn

LEAST_S, FIRST_S, MOST_S = 1.0, 5.0, 30.0


def patience() -> Patience:
    return Patience(LEAST_S, FIRST_S, MOST_S)


def taught(silence_s: float) -> Patience:
    """One whose server needs so long as a rule."""
    known = patience()
    for target in range(SAMPLES):
        known.answered(target, silence_s)
    return known


def test_a_server_of_which_little_is_known_gets_the_first_limit() -> None:
    known = patience()
    for target in range(SAMPLES_MIN - 1):
        known.answered(target, 0.001)
    assert known.wait(0).limit_s == FIRST_S


@pytest.mark.parametrize(("usual_s", "limit_s"), [(0.001, LEAST_S), (0.5, 2.0), (3.0, 12.0), (20.0, MOST_S)])
def test_a_server_gets_four_times_its_usual_silence_within_bounds(usual_s: float, limit_s: float) -> None:
    assert taught(usual_s).wait(1).limit_s == limit_s


def test_a_few_late_answers_make_nothing_usual() -> None:
    known = taught(0.001)
    for _ in range(SAMPLES // 16):
        known.answered(7, 3.0)
    assert known.wait(1).limit_s == LEAST_S


def test_a_server_that_has_become_fast_is_believed() -> None:
    known = taught(3.0)
    for target in range(SAMPLES):
        known.answered(target, 0.001)
    assert known.wait(1).limit_s == LEAST_S


def test_a_retry_waits_as_long_and_each_further_one_twice_as_long() -> None:
    known, limits = taught(0.001), []
    for _ in range(8):
        wait = known.wait(1)
        limits.append(wait.limit_s)
        known.silent(1, wait, moved=False)
    assert limits == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert known.wait(2).limit_s == LEAST_S


def test_many_requests_that_go_silent_at_once_count_as_one() -> None:
    known = taught(0.001)
    waits = [known.wait(1) for _ in range(16)]
    for wait in waits:
        known.silent(1, wait, moved=False)
    assert known.wait(1).limit_s == LEAST_S


def test_a_body_that_moved_before_it_stalled_doubles_nothing() -> None:
    known = taught(0.001)
    for _ in range(5):
        known.silent(1, known.wait(1), moved=True)
    assert known.wait(1).limit_s == LEAST_S


def test_a_target_that_answered_late_is_waited_for_the_next_time() -> None:
    known = taught(0.001)
    for _ in range(4):
        known.silent(1, known.wait(1), moved=False)
    known.answered(1, 6.0)
    assert known.wait(1).limit_s == 12.0
    known.answered(1, 0.01)
    assert known.wait(1).limit_s == LEAST_S


def test_what_is_remembered_of_targets_is_bounded() -> None:
    known = taught(0.001)
    for target in range(2 * TARGETS_MAX):
        known.silent(target, known.wait(target), moved=False)
    assert sum(known.wait(target).silences for target in range(2 * TARGETS_MAX)) == TARGETS_MAX


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans(), st.integers(0, 3))))
def test_every_wait_lies_within_the_bounds_whatever_happens(story: list[tuple[float, bool, int]]) -> None:
    known = patience()
    for silence_s, answered, target in story:
        wait = known.wait(target)
        assert LEAST_S <= wait.limit_s <= MOST_S
        if answered:
            known.answered(target, silence_s)
        else:
            known.silent(target, wait, moved=silence_s > 50)


@given(st.floats(0.01, 100))
def test_no_server_gets_less_than_four_times_what_it_always_needs(usual_s: float) -> None:
    assert taught(usual_s).wait(1).limit_s >= min(FACTOR * usual_s, MOST_S)


async def test_a_silent_request_is_asked_again_on_a_connection_that_was_not_idle_meanwhile() -> None:
    async with ScriptedServer(answer(200, b"x")) as server:
        client = WireClient(patience=Patience(0.2, 0.2, 0.4))
        await asyncio.gather(*(fetch(client, server.endpoint) for _ in range(2)))
        connections = server.accepted
        assert connections == 2, "both are kept"

        async def silent_once(exchange: Exchange) -> None:
            server.handler = answer(200, b"y")
            await exchange.stall()

        server.handler = silent_once
        with pytest.raises(TimedOut):
            await fetch(client, server.endpoint)
        sink = CopyingSink()
        await client.get(server.endpoint, b"/k", [], give(sink))
        assert sink.data == b"y"
        assert server.requests[-1].connection >= connections
        await until(lambda: server.open_connections == 1, "the end of what was kept")
        await client.aclose()


def run_with_skips(test: object) -> None:
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(test)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\n", render_head(200, (), 10), render_head(200, (), 10) + b"1"]
)
def test_silence_ends_an_exchange_before_the_head_and_in_the_body_alike(sent: bytes) -> None:
    is_sent = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.send(sent)
        is_sent.set()
        await exchange.stall()

    async def test() -> None:
        async with ScriptedServer(handler) as server:
            client = WireClient(patience=Patience(100, 500, 2000))
            running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(CopyingSink())))
            await is_sent.wait()
            await turn()  # received: a byte that comes later ends the silence
            skip(490)
            await turn()
            assert not running.done()
            skip(20)
            with pytest.raises(TimedOut):
                await running
            await client.aclose()

    run_with_skips(test())


def test_bytes_that_wait_in_the_socket_of_a_process_that_stood_still_are_no_silence() -> None:
    async def test() -> None:
        async with ScriptedServer(answer(200, b"x" * 10)) as server:
            sink, client = CopyingSink(), WireClient(patience=Patience(100, 500, 2000))
            running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
            await until(lambda: len(server.requests) == 1, "the request")
            skip(10_000)  # the timer is due before the answer could be read
            await running
            assert len(sink.data) == 10
            await client.aclose()

    run_with_skips(test())


def test_an_answer_that_moves_is_never_abandoned_and_its_longest_silence_is_learnt() -> None:
    more = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=4)
        for _ in range(4):
            await more.wait()
            more.clear()
            await exchange.send(b"a")

    async def test() -> None:
        async with ScriptedServer(handler) as server:
            known = Patience(10, 500, 2000)
            client = WireClient(patience=known)
            for _ in range(SAMPLES_MIN):
                sink = CopyingSink()
                running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
                for received in range(4):
                    await until(lambda: len(sink.data) == received, "a byte")  # noqa: B023
                    skip(100)
                    more.set()
                await running
            assert 400 <= known.limit_s < 500
            await client.aclose()

    run_with_skips(test())


async def test_what_nobody_asks_again_keeps_the_fixed_time_out() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.stall()

    async with ScriptedServer(handler) as server:
        client = WireClient(head_timeout_s=0.05, patience=Patience(100, 100, 100))
        with pytest.raises(TimedOut) as raised:
            await client.get(server.endpoint, b"/k", [], give(CopyingSink()), retried=False)
        assert raised.value.limit_s == 0.05
        await client.aclose()
