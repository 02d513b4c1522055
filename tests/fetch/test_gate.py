"""The gate: order of urgency, tickets given back, refusals understood."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import OriginUnavailable
from proxy.fetch.gate import Gate, Gates
from proxy.fetch.ledger import FREE_RATE, Ledger, private_numbers


def made(concurrency_max: int = 1) -> Gate:
    return Gate(Ledger(private_numbers(), 0, concurrency_max=concurrency_max, start_rate=FREE_RATE))


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
