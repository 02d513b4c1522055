"""One fill for all who want a block, whatever happens to the readers, the origin or the disk."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import OriginUnavailable, StoreUnavailable, VersionChanged
from proxy.fill.flight import Flights
from proxy.fill.limiter import FillLimiter
from proxy.fill.progress import FillProgress
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange
from proxy.upstream.retry import RetryPolicy
from tests.fakes.memory import MemoryClaim, MemoryOrigin, MemoryWriter, launch, version_of

CONTENT = bytes(range(200))
POLICY = RetryPolicy(deadline_s=5, first_pause_s=0.001, longest_pause_s=0.002)


def flights_with_room(fills: int = 4) -> Flights:
    return Flights(FillLimiter(bytes_in_flight_max=1 << 20, fills_max=fills), POLICY)


def one_block() -> tuple[Flights, MemoryOrigin, MemoryWriter, ObjectVersion]:
    """All that a flight of the whole content takes."""
    return flights_with_room(), MemoryOrigin(CONTENT), MemoryWriter(len(CONTENT)), version_of(CONTENT)


async def test_every_waiter_gets_the_block_from_one_request() -> None:
    flights, origin, writer, version = one_block()
    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 3
    assert flights.find(version, 0) is arrival
    await asyncio.gather(arrival.wait(0), arrival.wait(150, 50), arrival.wait_end())
    assert bytes(writer.data) == CONTENT
    assert writer.outcome == "committed"
    assert origin.asked == [ByteRange(0, 200)]
    assert flights.find(version, 0) is None


async def test_first_bytes_are_available_before_the_block_is_complete() -> None:
    flights, origin, writer, version = one_block()
    more = asyncio.Event()

    async def script(number: int, sent: int) -> None:
        if sent >= 10:
            await more.wait()

    origin.script = script
    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 1
    await arrival.wait(3)
    assert arrival.available(3) == 7
    assert not arrival.complete
    more.set()
    await arrival.wait_end()


async def test_a_broken_transfer_is_resumed_where_it_broke_off() -> None:
    flights, origin, writer, version = one_block()

    async def script(number: int, sent: int) -> None:
        if number < 3 and sent == 50:
            raise OriginUnavailable("reset")

    origin.script = script
    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 1
    await arrival.wait_end()
    assert origin.asked == [ByteRange(0, 200), ByteRange(50, 200), ByteRange(100, 200)]
    assert bytes(writer.data) == CONTENT


async def test_a_fill_that_starts_inside_its_block_wraps_to_the_beginning() -> None:
    flights, origin, version = flights_with_room(), MemoryOrigin(CONTENT), version_of(CONTENT)
    writer = MemoryWriter(100, start=60)
    arrival = launch(flights, origin, version, 1, ByteRange(100, 200), writer)
    arrival.interest += 1
    await arrival.wait(60, 40)
    await arrival.wait_end()
    assert origin.asked == [ByteRange(160, 200), ByteRange(100, 160)]
    assert bytes(writer.data) == CONTENT[100:]


async def test_a_dead_predecessors_progress_is_read_back_and_continued() -> None:
    flights, origin, version = flights_with_room(), MemoryOrigin(CONTENT), version_of(CONTENT)
    writer = MemoryWriter(200, progress=120, content=CONTENT[:120])

    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 1
    assert arrival.available(0) == 120
    await arrival.wait_end()
    assert writer.was_read_back
    assert origin.asked == [ByteRange(120, 200)]
    assert bytes(writer.data) == CONTENT


async def test_a_block_that_another_process_has_by_the_time_there_is_room_is_passed_on() -> None:
    flights, origin, _, version = one_block()
    arrival, claim = FillProgress(200), MemoryClaim(None)
    arrival.interest += 1
    flights.launch(origin, version, 0, ByteRange(0, 200), claim, arrival)
    while not claim.passed_on:
        await asyncio.sleep(0)
    assert origin.asked == []
    assert flights.find(version, 0) is None
    assert not arrival.ended


@pytest.mark.parametrize("progress", [120, 200])
async def test_a_predecessors_block_is_finished_also_for_a_reader_content_with_what_is_there(progress: int) -> None:
    flights, origin, version = flights_with_room(), MemoryOrigin(CONTENT), version_of(CONTENT)
    writer = MemoryWriter(200, progress=progress, content=CONTENT[:progress])

    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 1
    assert arrival.available(0) == progress
    flights.release(version, 0, arrival)
    await arrival.wait_end()
    assert writer.outcome == "committed"
    assert bytes(writer.data) == CONTENT


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(VersionChanged("changed"), "abandoned"), (OriginUnavailable("down", retry_after_s=60), "left")],
)
async def test_a_failed_fill_gives_its_writer_up_and_tells_every_reader(error: Exception, outcome: str) -> None:
    flights, origin, writer, version = one_block()

    async def script(number: int, sent: int) -> None:
        if sent == 50:
            raise error

    origin.script = script
    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 2
    results = await asyncio.gather(arrival.wait(100), arrival.wait_end(), return_exceptions=True)
    assert [(type(result), str(result)) for result in results] == [(type(error), str(error))] * 2
    assert results[0] is not results[1], "an exception that is shared holds the frames of all who got it"
    assert writer.outcome == outcome
    assert flights.find(version, 0) is None
    await arrival.wait(0, 50)  # what came before the failure may still be sent


async def test_a_full_disk_ends_the_flight_with_the_stores_error() -> None:
    flights, origin, writer, version = one_block()
    writer.full_after = 100
    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 1
    with pytest.raises(StoreUnavailable):
        await arrival.wait_end()
    assert arrival.available(0) == 100


async def test_a_reader_that_leaves_never_stops_a_fill_under_way() -> None:
    flights, origin, writer, version = one_block()
    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 1
    await arrival.wait(0)
    flights.release(version, 0, arrival)
    await arrival.wait_end()
    assert writer.outcome == "committed"


async def test_a_fill_that_nobody_wants_any_more_is_dropped_before_it_begins() -> None:
    flights, origin, version = flights_with_room(fills=1), MemoryOrigin(CONTENT), version_of(CONTENT)
    hold = asyncio.Event()

    async def script(number: int, sent: int) -> None:
        await hold.wait()

    origin.script = script
    first, second, third = MemoryWriter(100), MemoryWriter(100), MemoryWriter(100)
    running = launch(flights, origin, version, 0, ByteRange(0, 100), first)
    running.interest += 1
    queued = launch(flights, origin, version, 1, ByteRange(100, 200), second)
    queued.interest += 1
    await asyncio.sleep(0)
    flights.release(version, 1, queued)
    unstarted = launch(flights, origin, version_of(CONTENT, "other"), 0, ByteRange(0, 100), third)
    unstarted.interest += 1
    flights.release(version_of(CONTENT, "other"), 0, unstarted)
    with pytest.raises(OriginUnavailable):
        await queued.wait(0)
    with pytest.raises(OriginUnavailable):
        await unstarted.wait(0)
    assert [second.outcome, third.outcome] == [None, None]  # they never had the lock
    hold.set()
    await running.wait_end()
    assert len(origin.asked) == 1


@pytest.mark.parametrize("leave_again", [False, True])
async def test_a_fill_that_is_joined_in_the_moment_it_is_dropped_goes_on(leave_again: bool) -> None:
    flights, origin, version = flights_with_room(fills=1), MemoryOrigin(CONTENT), version_of(CONTENT)
    hold = asyncio.Event()

    async def script(number: int, sent: int) -> None:
        await hold.wait()

    origin.script = script
    second = MemoryWriter(100)
    running = launch(flights, origin, version, 0, ByteRange(0, 100), MemoryWriter(100))
    running.interest += 1
    queued = launch(flights, origin, version, 1, ByteRange(100, 200), second)
    queued.interest += 1
    await asyncio.sleep(0)
    flights.release(version, 1, queued)
    asyncio.get_running_loop().call_later(0.01, hold.set)
    for _ in range(2):
        assert flights.find(version, 1) is queued
        queued.interest += 1
        if leave_again:
            flights.release(version, 1, queued)
    if leave_again:
        with pytest.raises(OriginUnavailable):
            await queued.wait_end()
        assert second.outcome is None  # it never had the lock
    else:
        await queued.wait_end()
        assert bytes(second.data) == CONTENT[100:]
    await running.wait_end()


async def test_a_dropped_and_joined_fill_is_still_cancelled_by_closing() -> None:
    flights, origin, version = flights_with_room(fills=1), MemoryOrigin(CONTENT), version_of(CONTENT)

    async def script(number: int, sent: int) -> None:
        await asyncio.Event().wait()

    origin.script = script
    writers = [MemoryWriter(100), MemoryWriter(100)]
    arrivals = [launch(flights, origin, version, n, ByteRange(n * 100, n * 100 + 100), writers[n]) for n in range(2)]
    for arrival in arrivals:
        arrival.interest += 1
    await asyncio.sleep(0)
    flights.release(version, 1, arrivals[1])
    arrivals[1].interest += 1
    await asyncio.wait_for(flights.aclose(), 5)
    assert [writer.outcome for writer in writers] == ["left", None]


async def test_closing_gives_up_every_lock_only_after_the_last_write_has_returned() -> None:
    flights, origin, writer, version = one_block()
    writer.barrier = asyncio.Event()
    arrival = launch(flights, origin, version, 0, ByteRange(0, 200), writer)
    arrival.interest += 1
    while not writer.under_way:
        await asyncio.sleep(0)
    closing = asyncio.ensure_future(flights.aclose())
    for _ in range(5):
        await asyncio.sleep(0)
    assert writer.outcome is None
    writer.barrier.set()
    await closing
    assert writer.outcome == "left"


async def test_the_last_flight_of_a_version_says_that_it_is_settled() -> None:
    flights, origin, version = flights_with_room(), MemoryOrigin(CONTENT), version_of(CONTENT)
    settled: list[object] = []
    flights.settled = settled.append
    arrivals = [
        launch(flights, origin, version, n, ByteRange(n * 100, n * 100 + 100), MemoryWriter(100)) for n in range(2)
    ]
    for arrival in arrivals:
        arrival.interest += 1
    await asyncio.gather(*(arrival.wait_end() for arrival in arrivals))
    while len(settled) < 1:
        await asyncio.sleep(0)
    assert settled == [version]
