"""Fills are bounded and take turns."""

from __future__ import annotations

import asyncio

import pytest

from proxy.fill.limiter import URGENT_FILLS, FillLimiter


async def hold(limiter: FillLimiter, stream: bytes, length: int, log: list[bytes], release: asyncio.Event) -> None:
    async with limiter.room(stream, length):
        log.append(stream)
        await release.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_bytes_in_flight_are_bounded() -> None:
    limiter, log, release = FillLimiter(bytes_in_flight_max=100, fills_max=10), list[bytes](), asyncio.Event()
    tasks = [asyncio.ensure_future(hold(limiter, b"a", 40, log, release)) for _ in range(5)]
    await settle()
    assert len(log) == 2
    release.set()
    await asyncio.gather(*tasks)
    assert len(log) == 5


async def test_a_fill_larger_than_all_room_runs_alone() -> None:
    limiter, log, release = FillLimiter(bytes_in_flight_max=100, fills_max=10), list[bytes](), asyncio.Event()
    release.set()
    await asyncio.gather(*(hold(limiter, b"a", 1000, log, release) for _ in range(3)))
    assert len(log) == 3


async def test_freed_room_goes_to_the_streams_in_turn() -> None:
    limiter, log = FillLimiter(bytes_in_flight_max=1000, fills_max=1), list[bytes]()
    first, others = asyncio.Event(), asyncio.Event()
    others.set()
    tasks = [asyncio.ensure_future(hold(limiter, b"big", 10, log, first))]
    tasks += [asyncio.ensure_future(hold(limiter, b"big", 10, log, others)) for _ in range(5)]
    await settle()
    tasks.append(asyncio.ensure_future(hold(limiter, b"small", 10, log, others)))
    await settle()
    first.set()
    await asyncio.gather(*tasks)
    assert log.index(b"small") <= 2


async def test_a_cancelled_waiter_leaves_its_place_and_takes_nothing() -> None:
    limiter, log, release = FillLimiter(bytes_in_flight_max=10, fills_max=1), list[bytes](), asyncio.Event()
    running = asyncio.ensure_future(hold(limiter, b"a", 10, log, release))
    await settle()
    waiting = asyncio.ensure_future(hold(limiter, b"b", 10, log, release))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    third = asyncio.ensure_future(hold(limiter, b"c", 10, log, release))
    await settle()
    release.set()
    await asyncio.gather(running, third)
    assert log == [b"a", b"c"]


async def test_room_granted_to_a_waiter_cancelled_in_the_same_moment_is_given_on() -> None:
    limiter, log = FillLimiter(bytes_in_flight_max=10, fills_max=1), list[bytes]()
    first, later = asyncio.Event(), asyncio.Event()
    later.set()
    running = asyncio.ensure_future(hold(limiter, b"a", 10, log, first))
    await settle()
    doomed = asyncio.ensure_future(hold(limiter, b"b", 10, log, later))
    third = asyncio.ensure_future(hold(limiter, b"c", 10, log, later))
    await settle()
    first.set()
    running.add_done_callback(lambda done: doomed.cancel())
    await asyncio.gather(running, third)
    assert b"c" in log


async def test_urgent_fills_have_places_of_their_own_while_they_last() -> None:
    limiter, log, release = FillLimiter(bytes_in_flight_max=10, fills_max=1), list[bytes](), asyncio.Event()

    async def urgent() -> None:
        async with limiter.room(b"small", 10, urgent=True):
            log.append(b"small")
            await release.wait()

    tasks = [asyncio.ensure_future(hold(limiter, b"big", 10, log, release))]
    await settle()
    tasks += [asyncio.ensure_future(urgent()) for _ in range(URGENT_FILLS + 5)]
    await settle()
    assert log == [b"big"] + [b"small"] * URGENT_FILLS
    release.set()
    await asyncio.gather(*tasks)
    assert len(log) == 1 + URGENT_FILLS + 5


async def test_what_waits_for_idleness_comes_last_and_comes_all_the_same() -> None:
    limiter, log, release = FillLimiter(bytes_in_flight_max=10, fills_max=1), list[bytes](), asyncio.Event()
    running = asyncio.ensure_future(hold(limiter, b"big", 10, log, release))
    await settle()
    idle = asyncio.ensure_future(limiter.wait_idle())
    await settle()
    assert not idle.done()
    await limiter.wait_idle(patience_s=0.01)  # never starved
    release.set()
    await asyncio.gather(running, idle)
