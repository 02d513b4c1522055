"""Who waits for a block is woken for what is there, and told how it ended."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.blocks import available_bytes
from proxy.errors import OriginUnavailable
from proxy.fill.progress import FAR_BYTES, SEEN_OVER_S, FillProgress


@given(st.integers(1, 60), st.data())
def test_available_bytes_agrees_with_a_map_of_written_bytes(length: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length - 1))
    progress = data.draw(st.integers(0, length))
    offset = data.draw(st.integers(0, length - 1))
    written = {(start + n) % length for n in range(progress)}
    run = 0
    while offset + run < length and offset + run in written:
        run += 1
    taken = available_bytes(start, progress, length, offset)
    assert taken <= run
    assert (taken > 0) == (run > 0)


@given(st.integers(1, 60), st.data())
def test_distance_is_what_must_still_be_written_until_all_of_a_range_is_there(length: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, length - 1))
    progress = data.draw(st.integers(0, length))
    offset = data.draw(st.integers(0, length - 1))
    end = data.draw(st.integers(offset + 1, length))
    arrival = FillProgress(length, start, progress)
    more = 0
    while not {(start + n) % length for n in range(progress + more)} >= set(range(offset, end)):
        more += 1
    assert arrival.distance(offset, end) == more


@given(st.integers(1, 60), st.data())
async def test_a_waiter_anywhere_in_a_fill_that_wraps_is_woken_as_soon_as_its_bytes_are_there(
    length: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, length - 1))
    offset = data.draw(st.integers(0, length - 1))
    needed = data.draw(st.integers(1, length - offset))
    arrival = FillProgress(length, start, 0)
    waiting = asyncio.ensure_future(arrival.wait(offset, needed))
    await asyncio.sleep(0)
    for progress in range(1, length + 1):
        arrival.move(start, progress)
        await asyncio.sleep(0)
        assert waiting.done() == (available_bytes(start, progress, length, offset) >= needed)
        if waiting.done():
            break
    await waiting


def moving(monkeypatch: pytest.MonkeyPatch, *, round_trip_s: float, came_bytes: int, in_s: float) -> FillProgress:
    """A fill of 8 MiB that was asked at second 1; its first 100 bytes came after a round trip."""
    now_s = [1.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    arrival = FillProgress(8 << 20)
    arrival.asked()
    now_s[0] += round_trip_s
    arrival.move(0, 100)
    now_s[0] += in_s
    arrival.move(0, 100 + came_bytes)
    return arrival


def test_what_a_fast_fill_brings_within_a_round_trip_is_not_far(monkeypatch: pytest.MonkeyPatch) -> None:
    arrival = moving(monkeypatch, round_trip_s=0.1, came_bytes=1 << 20, in_s=0.02)
    assert not arrival.is_far(6 << 20, (6 << 20) + 1000)
    slow = moving(monkeypatch, round_trip_s=0.1, came_bytes=1 << 16, in_s=0.1)
    assert slow.is_far(1 << 20, (1 << 20) + 1000)
    assert not slow.is_far(1 << 16, (1 << 16) + 1000)


def test_before_a_speed_was_seen_a_megabyte_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    arrival = moving(monkeypatch, round_trip_s=0.1, came_bytes=1000, in_s=SEEN_OVER_S / 2)
    assert arrival.is_far(FAR_BYTES + 2000, FAR_BYTES + 3000)
    assert not arrival.is_far(FAR_BYTES, FAR_BYTES + 1000)
    assert not arrival.is_far(0, 100), "it is there"


async def test_a_waiter_is_woken_for_what_it_needs_and_not_before() -> None:
    arrival = FillProgress(100)
    waiting = asyncio.ensure_future(arrival.wait(0, 50))
    await asyncio.sleep(0)
    arrival.move(0, 49)
    await asyncio.sleep(0)
    assert not waiting.done()
    arrival.move(0, 50)
    await waiting


async def test_an_error_after_publication_changes_nothing() -> None:
    arrival = FillProgress(10)
    arrival.publish()
    arrival.fail(OriginUnavailable("late"))
    await arrival.wait_end()
    assert arrival.available(3) == 7


async def test_complete_is_not_yet_published() -> None:
    arrival = FillProgress(10)
    ending = asyncio.ensure_future(arrival.wait_end())
    await asyncio.sleep(0)
    arrival.move(0, 10)
    await arrival.wait(0, 10)
    assert not ending.done()
    arrival.fail(OriginUnavailable("broken off before it was published"))
    with pytest.raises(OriginUnavailable):
        await ending
