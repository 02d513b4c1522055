"""Who waits for a block is woken for what is there, and told how it ended."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.blocks import available_bytes
from proxy.errors import OriginUnavailable
from proxy.fetch.arrival import Arrival


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


async def test_a_waiter_is_woken_for_what_it_needs_and_not_before() -> None:
    arrival = Arrival(100)
    waiting = asyncio.ensure_future(arrival.wait(0, 50))
    await asyncio.sleep(0)
    arrival.move(0, 49)
    await asyncio.sleep(0)
    assert not waiting.done()
    arrival.move(0, 50)
    await waiting


async def test_an_error_after_publication_changes_nothing() -> None:
    arrival = Arrival(10)
    arrival.publish()
    arrival.fail(OriginUnavailable("late"))
    await arrival.wait_end()
    assert arrival.available(3) == 7


async def test_complete_is_not_yet_published() -> None:
    arrival = Arrival(10)
    ending = asyncio.ensure_future(arrival.wait_end())
    await asyncio.sleep(0)
    arrival.move(0, 10)
    await arrival.wait(0, 10)
    assert not ending.done()
    arrival.fail(OriginUnavailable("broken off before it was published"))
    with pytest.raises(OriginUnavailable):
        await ending
