"""The gate: order of urgency, tickets given back, refusals understood."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from proxy.errors import NotFound, OriginUnavailable
from proxy.upstream.limiter import FREE_RATE, Ledger, private_numbers
from proxy.upstream.throttle import URGENT_RUN, Gate, Gates


def made(concurrency_max: int = 1, clock: Callable[[], float] = time.monotonic) -> Gate:
    return Gate(Ledger(private_numbers(), 0, concurrency_max=concurrency_max, start_rate=FREE_RATE, clock=clock))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_urgent_requests_go_ahead_of_bulk_and_each_line_keeps_its_order() -> None:
    gate, order = made(), list[str]()

    async def request(name: str, *, urgent: bool) -> None:
        async with gate.turn(urgent=urgent):
            order.append(name)

    async with gate.turn():
        tasks = [asyncio.create_task(request(name, urgent=name > "m")) for name in ("a", "b", "x", "y")]
        await settle()
        assert gate.waiting == 4
    await asyncio.gather(*tasks)
    assert order == ["x", "y", "a", "b"]
    assert gate.ledger.under_way == 0


async def test_a_free_gate_lets_in_at_once() -> None:
    gate = made(8)
    async with gate.turn():
        ticket = gate.try_enter()
        assert ticket is not None
        assert gate.ledger.under_way == 2
        gate.leave(ticket, None)
    assert gate.ledger.under_way == 0


async def test_a_waiter_that_goes_away_holds_nothing() -> None:
    gate = made()

    async def request() -> None:
        async with gate.turn():
            pass

    async with gate.turn():
        tasks = [asyncio.create_task(request()) for _ in range(3)]
        await settle()
        tasks[0].cancel()
        await settle()
    await asyncio.gather(*tasks[1:])
    assert gate.ledger.under_way == gate.waiting == 0


async def test_one_let_in_and_cancelled_in_the_same_moment_gives_its_place_back() -> None:
    gate = made()
    held = gate.try_enter()
    assert held is not None

    async def request() -> None:
        async with gate.turn():
            pass

    task = asyncio.create_task(request())
    await settle()
    gate.leave(held, None)
    while gate.ledger.under_way == 0:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.ledger.under_way == 0


async def test_a_refusal_is_told_from_other_errors() -> None:
    gate = made(16)
    for error in (OriginUnavailable("slow down", throttled=True), OriginUnavailable("broken"), ValueError()):
        before = gate.ledger.concurrency
        with pytest.raises(type(error)):
            async with gate.turn():
                raise error
        refused = isinstance(error, OriginUnavailable) and error.throttled
        assert (gate.ledger.concurrency < before) == refused
    assert gate.ledger.under_way == 0


async def test_each_origin_has_its_own() -> None:
    gates = Gates(lambda origin_id: Ledger(private_numbers(), 0, concurrency_max=4))
    assert gates.of("s3://a") is gates.of("s3://a")
    assert gates.of("s3://a") is not gates.of("s3://b")
    assert set(gates.all) == {"s3://a", "s3://b"}


async def fail(gate: Gate, error: OriginUnavailable) -> None:
    with pytest.raises(OriginUnavailable):
        async with gate.turn():
            raise error


async def test_a_pause_longer_than_its_patience_turns_a_request_away_at_once() -> None:
    gate = made(8)
    await fail(gate, OriginUnavailable("slow down", throttled=True, retry_after_s=40))
    with pytest.raises(OriginUnavailable, match="asked for no requests") as caught:
        await gate.enter(patience_s=30)
    assert caught.value.throttled
    assert caught.value.retry_after_s == pytest.approx(40, abs=5)
    assert gate.waiting == gate.ledger.under_way == 0


async def test_who_waits_already_is_turned_away_by_a_long_pause_and_the_patient_wait_on() -> None:
    gate = made(4)
    held = [gate.try_enter() for _ in range(4)]
    waiting = [asyncio.create_task(gate.enter(patience_s=patience_s)) for patience_s in (0.0, 30, 1000)]
    await settle()
    assert held[0] is not None
    gate.leave(held[0], OriginUnavailable("slow down", throttled=True, retry_after_s=200))
    for task in waiting[:2]:
        with pytest.raises(OriginUnavailable, match="asked for no requests"):
            await task
    assert not waiting[2].done()
    waiting[2].cancel()


async def test_an_origin_that_serves_nobody_fails_those_who_wait_and_one_that_serves_others_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.upstream.throttle.PATIENCE_MIN_S", 0.05)
    now_s = 1000.0
    gate = made(2, clock=lambda: now_s)
    first, second = gate.try_enter(), gate.try_enter()
    assert first is not None
    assert second is not None
    gate.leave(first, None)
    assert gate.try_enter() is not None
    waiting = asyncio.create_task(gate.enter(patience_s=0.05))
    for _ in range(5):
        now_s += 0.03
        gate.pay(1)  # bytes of others arrive
        await asyncio.sleep(0.03)
        assert not waiting.done()
    now_s += 0.06
    with pytest.raises(OriginUnavailable, match="serves nobody"):
        await waiting


async def test_one_refusal_counts_once_however_many_turns_it_ends() -> None:
    gate, error = made(64), OriginUnavailable("slow down", throttled=True, retry_after_s=0)
    tickets = [gate.try_enter() for _ in range(32)]
    for ticket in tickets:
        assert ticket is not None
        gate.leave(ticket, error)
    concurrency = gate.ledger.concurrency
    later = await gate.enter()
    gate.leave(later, error)
    assert gate.ledger.concurrency == concurrency


async def test_an_answer_that_says_no_is_an_answer() -> None:
    gate = made()
    with pytest.raises(NotFound):
        async with gate.turn():
            raise NotFound("key", "k")
    assert gate.ledger.quiet_s < 60
    gate = made()
    await fail(gate, OriginUnavailable("broken"))
    assert gate.ledger.quiet_s > 60


async def test_bulk_has_its_turn_however_many_urgent_requests_come() -> None:
    gate, order = made(), list[str]()

    async def request(name: str, *, urgent: bool) -> None:
        async with gate.turn(urgent=urgent):
            order.append(name)

    async with gate.turn():
        tasks = [asyncio.create_task(request("bulk", urgent=False))]
        tasks += [asyncio.create_task(request("urgent", urgent=True)) for _ in range(3 * URGENT_RUN)]
        await settle()
    await asyncio.gather(*tasks)
    assert order.index("bulk") == URGENT_RUN
