"""The throttle: order of urgency, tickets given back, refusals understood."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from proxy.errors import NotFound, OriginUnavailable
from proxy.upstream.limiter import FREE_RATE, AdaptiveLimiter, private_numbers
from proxy.upstream.throttle import URGENT_RUN, OriginThrottle, OriginThrottles


def made(concurrency_max: int = 1, clock: Callable[[], float] = time.monotonic) -> OriginThrottle:
    return OriginThrottle(
        AdaptiveLimiter(private_numbers(), 0, concurrency_max=concurrency_max, start_rate=FREE_RATE, clock=clock)
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_urgent_requests_go_ahead_of_bulk_and_each_line_keeps_its_order() -> None:
    throttle, order = made(), list[str]()

    async def request(name: str, *, urgent: bool) -> None:
        async with throttle.turn(urgent=urgent):
            order.append(name)

    async with throttle.turn():
        tasks = [asyncio.create_task(request(name, urgent=name > "m")) for name in ("a", "b", "x", "y")]
        await settle()
        assert throttle.waiting == 4
    await asyncio.gather(*tasks)
    assert order == ["x", "y", "a", "b"]
    assert throttle.limiter.under_way == 0


async def test_a_free_gate_lets_in_at_once() -> None:
    throttle = made(8)
    async with throttle.turn():
        ticket = throttle.try_enter()
        assert ticket is not None
        assert throttle.limiter.under_way == 2
        throttle.leave(ticket, None)
    assert throttle.limiter.under_way == 0


async def test_a_waiter_that_goes_away_holds_nothing() -> None:
    throttle = made()

    async def request() -> None:
        async with throttle.turn():
            pass

    async with throttle.turn():
        tasks = [asyncio.create_task(request()) for _ in range(3)]
        await settle()
        tasks[0].cancel()
        await settle()
    await asyncio.gather(*tasks[1:])
    assert throttle.limiter.under_way == throttle.waiting == 0


async def test_one_let_in_and_cancelled_in_the_same_moment_gives_its_place_back() -> None:
    throttle = made()
    held = throttle.try_enter()
    assert held is not None

    async def request() -> None:
        async with throttle.turn():
            pass

    task = asyncio.create_task(request())
    await settle()
    throttle.leave(held, None)
    while throttle.limiter.under_way == 0:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert throttle.limiter.under_way == 0


async def test_a_refusal_is_told_from_other_errors() -> None:
    throttle = made(16)
    for error in (OriginUnavailable("slow down", throttled=True), OriginUnavailable("broken"), ValueError()):
        before = throttle.limiter.concurrency
        with pytest.raises(type(error)):
            async with throttle.turn():
                raise error
        refused = isinstance(error, OriginUnavailable) and error.throttled
        assert (throttle.limiter.concurrency < before) == refused
    assert throttle.limiter.under_way == 0


async def test_each_origin_has_its_own() -> None:
    throttles = OriginThrottles(lambda origin_id: AdaptiveLimiter(private_numbers(), 0, concurrency_max=4))
    assert throttles.of("s3://a") is throttles.of("s3://a")
    assert throttles.of("s3://a") is not throttles.of("s3://b")
    assert set(throttles.all) == {"s3://a", "s3://b"}


async def fail(throttle: OriginThrottle, error: OriginUnavailable) -> None:
    with pytest.raises(OriginUnavailable):
        async with throttle.turn():
            raise error


async def test_a_pause_longer_than_its_patience_turns_a_request_away_at_once() -> None:
    throttle = made(8)
    await fail(throttle, OriginUnavailable("slow down", throttled=True, retry_after_s=40))
    with pytest.raises(OriginUnavailable, match="asked for no requests") as caught:
        await throttle.enter(patience_s=30)
    assert caught.value.throttled
    assert caught.value.retry_after_s == pytest.approx(40, abs=5)
    assert throttle.waiting == throttle.limiter.under_way == 0


async def test_who_waits_already_is_turned_away_by_a_long_pause_and_the_patient_wait_on() -> None:
    throttle = made(4)
    held = [throttle.try_enter() for _ in range(4)]
    waiting = [asyncio.create_task(throttle.enter(patience_s=patience_s)) for patience_s in (0.0, 30, 1000)]
    await settle()
    assert held[0] is not None
    throttle.leave(held[0], OriginUnavailable("slow down", throttled=True, retry_after_s=200))
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
    throttle = made(2, clock=lambda: now_s)
    first, second = throttle.try_enter(), throttle.try_enter()
    assert first is not None
    assert second is not None
    throttle.leave(first, None)
    assert throttle.try_enter() is not None
    waiting = asyncio.create_task(throttle.enter(patience_s=0.05))
    for _ in range(5):
        now_s += 0.03
        throttle.pay(1)  # bytes of others arrive
        await asyncio.sleep(0.03)
        assert not waiting.done()
    now_s += 0.06
    with pytest.raises(OriginUnavailable, match="serves nobody"):
        await waiting


async def test_one_refusal_counts_once_however_many_turns_it_ends() -> None:
    throttle, error = made(64), OriginUnavailable("slow down", throttled=True, retry_after_s=0)
    tickets = [throttle.try_enter() for _ in range(32)]
    for ticket in tickets:
        assert ticket is not None
        throttle.leave(ticket, error)
    concurrency = throttle.limiter.concurrency
    later = await throttle.enter()
    throttle.leave(later, error)
    assert throttle.limiter.concurrency == concurrency


async def test_an_answer_that_says_no_is_an_answer() -> None:
    throttle = made()
    with pytest.raises(NotFound):
        async with throttle.turn():
            raise NotFound("key", "k")
    assert throttle.limiter.quiet_s < 60
    throttle = made()
    await fail(throttle, OriginUnavailable("broken"))
    assert throttle.limiter.quiet_s > 60


async def test_bulk_has_its_turn_however_many_urgent_requests_come() -> None:
    throttle, order = made(), list[str]()

    async def request(name: str, *, urgent: bool) -> None:
        async with throttle.turn(urgent=urgent):
            order.append(name)

    async with throttle.turn():
        tasks = [asyncio.create_task(request("bulk", urgent=False))]
        tasks += [asyncio.create_task(request("urgent", urgent=True)) for _ in range(3 * URGENT_RUN)]
        await settle()
    await asyncio.gather(*tasks)
    assert order.index("bulk") == URGENT_RUN
