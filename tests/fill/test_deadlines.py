"""Each reader of a fill in trouble has a deadline of its own, and nobody keeps an error of somebody else's."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator

import pytest

from proxy.errors import NotFound, OriginUnavailable, RangeNotSatisfiable, WarmstartError, fresh
from proxy.fill.flight import Flights
from proxy.fill.limiter import FillLimiter
from proxy.fill.progress import FillProgress
from proxy.ranges import ByteRange
from proxy.upstream.retry import Attempts, OriginCall, RetryPolicy
from tests.fakes.memory import MemoryOrigin, MemoryWriter, launch, version_of

CONTENT = bytes(range(200))
ASKED = OriginCall(MemoryOrigin(b""), "b", "k")
SILENT = OriginUnavailable("timed out", silent=True)


@pytest.fixture
async def uncollected() -> AsyncIterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_the_first_silence_is_followed_by_a_try_at_once_and_further_ones_by_a_pause() -> None:
    attempts = Attempts(RetryPolicy(deadline_s=30, first_pause_s=3600, longest_pause_s=3600), ASKED)
    assert await attempts.again(SILENT)
    assert not await attempts.again(SILENT), "a pause beyond the deadline"


async def test_after_progress_the_next_silence_is_a_first_one_again() -> None:
    attempts = Attempts(RetryPolicy(deadline_s=30, first_pause_s=3600, longest_pause_s=3600), ASKED)
    for _ in range(5):
        assert await attempts.again(SILENT)
        attempts.progressed()


async def test_an_error_that_is_no_silence_is_followed_by_a_pause() -> None:
    attempts = Attempts(RetryPolicy(deadline_s=30, first_pause_s=3600, longest_pause_s=3600), ASKED)
    assert not await attempts.again(OriginUnavailable("reset"))


async def test_at_the_deadline_the_error_stands_unless_readers_that_came_later_wait() -> None:
    now, asked = 100.0, list[float]()

    def outlast(error: OriginUnavailable, since_s: float) -> bool:
        asked.append(since_s)
        return now < 150

    policy = RetryPolicy(deadline_s=30, first_pause_s=0.001, outlast=outlast)
    attempts = Attempts(policy, ASKED, clock=lambda: now)
    assert await attempts.again(OriginUnavailable("down"))
    assert not asked
    now = 140.0
    assert await attempts.again(OriginUnavailable("down"))
    now = 160.0
    assert not await attempts.again(OriginUnavailable("down"))
    assert asked == [110.0, 130.0]


async def test_a_pause_that_the_origin_asked_for_counts_against_every_readers_deadline() -> None:
    asked = list[float]()

    def outlast(error: OriginUnavailable, since_s: float) -> bool:
        asked.append(since_s)
        return False

    policy = RetryPolicy(deadline_s=30, outlast=outlast)
    attempts = Attempts(policy, ASKED, clock=lambda: 100.0)
    assert not await attempts.again(OriginUnavailable("slow down", retry_after_s=60, throttled=True))
    assert asked == [130.0]


async def test_only_readers_that_have_waited_for_their_deadline_are_given_up() -> None:
    arrival = FillProgress(100)
    early = [asyncio.create_task(arrival.wait(0)), asyncio.create_task(arrival.wait_end())]
    await asyncio.sleep(0)
    between_s = time.monotonic()
    late = [asyncio.create_task(arrival.wait(0)), asyncio.create_task(arrival.wait(50))]
    await asyncio.sleep(0)
    assert arrival.outlast(OriginUnavailable("down"), between_s)
    for reader in early:
        with pytest.raises(OriginUnavailable, match="down"):
            await reader
    arrival.move(0, 60)
    await asyncio.gather(*late)
    assert not arrival.outlast(OriginUnavailable("down"), between_s)


async def test_a_fill_that_fails_is_joined_by_nobody_while_its_last_write_is_under_way() -> None:
    policy = RetryPolicy(deadline_s=0)
    flights = Flights(FillLimiter(bytes_in_flight_max=1 << 20, fills_max=4), policy)
    origin, writer, version = MemoryOrigin(CONTENT), MemoryWriter(len(CONTENT)), version_of(CONTENT)
    writer.barrier = asyncio.Event()
    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 1
    waiting = asyncio.create_task(arrival.wait_end())
    while not writer.under_way:
        await asyncio.sleep(0)
    (flight,) = [task for task in asyncio.all_tasks() if task.get_name().startswith("fill")]
    flight.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert flights.find(version, 0) is None
    assert not waiting.done(), "the write holds memory and lock"
    writer.barrier.set()
    with pytest.raises(OriginUnavailable):
        await waiting


async def test_readers_of_a_failed_arrival_leave_nothing_behind_for_a_collector(uncollected: None) -> None:
    class Held(FillProgress):
        pass

    arrival = Held(100)
    readers = [asyncio.create_task(arrival.wait(0)), asyncio.create_task(arrival.wait_end())]
    await asyncio.sleep(0)
    try:
        raise OriginUnavailable("down")
    except OriginUnavailable as error:
        arrival.fail(error)
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(result, OriginUnavailable) for result in results)
    with pytest.raises(OriginUnavailable):
        await arrival.wait(0)
    gone = weakref.ref(arrival)
    results.clear()
    readers.clear()
    del arrival
    await asyncio.sleep(0)
    assert gone() is None


@pytest.mark.parametrize(
    "error", [OriginUnavailable("down", retry_after_s=3, silent=True), NotFound("key", "k"), RangeNotSatisfiable(7)]
)
def test_a_fresh_error_says_the_same_and_holds_no_frame(error: WarmstartError) -> None:
    try:
        raise error from ValueError("why")
    except WarmstartError as caught:
        copy = fresh(caught)
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    assert (copy.__traceback__, copy.__cause__, copy.__context__) == (None, None, None)


async def test_a_fill_that_failed_leaves_nothing_behind_for_a_collector(uncollected: None) -> None:
    policy = RetryPolicy(deadline_s=0)
    flights = Flights(FillLimiter(bytes_in_flight_max=1 << 20, fills_max=4), policy)
    origin, writer, version = MemoryOrigin(CONTENT), MemoryWriter(len(CONTENT)), version_of(CONTENT)

    async def script(number: int, sent: int) -> None:
        if sent == 50:
            raise OriginUnavailable("down")

    origin.script = script
    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 2
    results = await asyncio.gather(arrival.wait(100), arrival.wait_end(), return_exceptions=True)
    assert all(isinstance(result, OriginUnavailable) for result in results)
    gone = weakref.ref(writer)  # which the fill's frames hold
    del arrival, writer, results
    while any(task.get_name().startswith("fill") for task in asyncio.all_tasks()):
        await asyncio.sleep(0)
    assert gone() is None
