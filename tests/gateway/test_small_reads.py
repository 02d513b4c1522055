"""Small cold reads at any offset: their bytes come first, the rest of their blocks when there is nothing else to do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.cache.shared import SharedTables
from proxy.errors import OriginUnavailable
from proxy.fill.handle import SMALL_READ_BYTES
from proxy.fill.progress import FAR_BYTES
from proxy.fill.supply import STEP_BYTES, fill_start
from proxy.gateway.answers import CacheStatus
from proxy.metrics import ASIDE_READS
from tests.gateway.engine import ObjectOrigin, Rig, body_bytes
from tests.waiting import until

MIB = 1 << 20
BLOCK_BYTES = 4 * MIB
CONTENT = random.Random(3).randbytes(2 * BLOCK_BYTES + 12345)
OFFSET = 2 * MIB + 100
SMALL = 64 << 10


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, block_bytes=BLOCK_BYTES)
    rig.origin.put("k", CONTENT)
    yield rig
    await rig.aclose()


class Gate:
    """Holds the origin's answers back, all but the first so many requests."""

    def __init__(self, origin: ObjectOrigin, open_requests: int = 0) -> None:
        self.opened = asyncio.Event()
        self.open_requests = open_requests
        origin.script = self.script

    async def script(self, number: int, sent: int) -> None:
        del sent
        if number > self.open_requests:
            await self.opened.wait()


async def whole(rig: Rig, blocks: int) -> None:
    """Waits until so many blocks are present."""
    version = rig.origin.objects["k"][0].version
    async with asyncio.timeout(20):
        while rig.flights.count() or not all(
            (block := rig.store.peek_block(version, index)) is not None and block.state().verified
            for index in range(blocks)
        ):
            await asyncio.sleep(0.001)


async def test_a_small_read_asks_for_its_own_bytes_first(rig: Rig) -> None:
    gate = Gate(rig.origin, open_requests=1)
    assert await rig.get("k", OFFSET, OFFSET + SMALL - 1) == CONTENT[OFFSET : OFFSET + SMALL]
    first = rig.origin.reads[0]
    assert first.start == fill_start(OFFSET)
    assert first.end == OFFSET + SMALL
    gate.opened.set()


async def test_the_rest_of_its_block_is_fetched_later_and_no_byte_twice(rig: Rig) -> None:
    assert await rig.get("k", OFFSET, OFFSET + SMALL - 1) == CONTENT[OFFSET : OFFSET + SMALL]
    await whole(rig, 1)
    assert sum(span.length for span in rig.origin.reads) == BLOCK_BYTES
    again = await rig.read("k", 0, BLOCK_BYTES - 1)
    assert again.cache is CacheStatus.HIT
    assert await body_bytes(again) == CONTENT[:BLOCK_BYTES]


async def test_the_rest_waits_while_other_fills_are_waiting(tmp_path: Path) -> None:
    rig = Rig(tmp_path, block_bytes=BLOCK_BYTES, fills_max=2)
    rig.origin.put("k", CONTENT)
    rig.origin.put("busy", CONTENT[:BLOCK_BYTES])
    gone_on = asyncio.Event()

    async def hold_the_first(number: int, sent: int) -> None:
        if number == 1:
            await gone_on.wait()

    rig.origin.script = hold_the_first
    busy = asyncio.ensure_future(rig.get("busy"))
    await until(lambda: rig.origin.reads)
    assert await rig.get("k", OFFSET, OFFSET + SMALL - 1) == CONTENT[OFFSET : OFFSET + SMALL]
    await until(lambda: rig.limiter.waiting_for_idle or len(rig.origin.reads) > 2)
    own = rig.origin.reads[1:]
    assert [span.start for span in own] == [fill_start(OFFSET)], "the rest did not wait"
    gone_on.set()
    assert await busy == CONTENT[:BLOCK_BYTES]
    await whole(rig, 1)
    assert sum(span.length for span in rig.origin.reads[1:]) == BLOCK_BYTES
    await rig.aclose()


async def test_a_whole_reader_that_joins_keeps_the_fill_going(rig: Rig) -> None:
    gate = Gate(rig.origin)
    small = asyncio.ensure_future(rig.get("k", OFFSET, OFFSET + SMALL - 1))
    await until(lambda: rig.origin.reads)
    large = asyncio.ensure_future(rig.get("k"))
    gate.opened.set()
    assert await small == CONTENT[OFFSET : OFFSET + SMALL]
    assert await large == CONTENT
    assert sum(span.length for span in rig.origin.reads) == len(CONTENT)


async def test_a_second_offset_far_from_the_fill_is_fetched_aside_and_counted(rig: Rig) -> None:
    before = ASIDE_READS._value.get()
    gate = Gate(rig.origin, open_requests=0)
    filling = asyncio.ensure_future(rig.get("k"))
    await until(lambda: rig.origin.reads)
    gate.open_requests = 10**6  # the next ones; the first stays held by its own wait
    far = 3 * MIB
    assert await rig.get("k", far, far + SMALL - 1) == CONTENT[far : far + SMALL]
    assert ASIDE_READS._value.get() == before + 1
    assert any(span.start == far and span.length == SMALL for span in rig.origin.reads)
    gate.opened.set()
    assert await filling == CONTENT


async def test_an_offset_that_the_fill_reaches_soon_waits_for_it(rig: Rig) -> None:
    gate = Gate(rig.origin)
    filling = asyncio.ensure_future(rig.get("k"))
    await until(lambda: rig.origin.reads)
    near = asyncio.ensure_future(rig.get("k", FAR_BYTES // 2, FAR_BYTES // 2 + SMALL - 1))
    await asyncio.sleep(0)
    gate.opened.set()
    assert await near == CONTENT[FAR_BYTES // 2 : FAR_BYTES // 2 + SMALL]
    assert await filling == CONTENT
    assert sum(span.length for span in rig.origin.reads) == len(CONTENT)


async def test_many_small_reads_at_random_get_right_bytes_and_leave_the_object_whole(rig: Rig) -> None:
    chance = random.Random(5)
    places = [chance.randrange(len(CONTENT) - SMALL) for _ in range(40)]
    found = await asyncio.gather(*(rig.get("k", place, place + SMALL - 1) for place in places))
    for place, got in zip(places, found, strict=True):
        assert got == CONTENT[place : place + SMALL]
    await whole(rig, 2)
    assert await rig.get("k") == CONTENT


async def test_two_workers_with_small_reads_of_one_block_agree(tmp_path: Path) -> None:
    tables, origin = SharedTables.create(), ObjectOrigin()
    origin.put("k", CONTENT)
    one, two = (Rig(tmp_path, origin, tables=tables, writer_id=name, block_bytes=BLOCK_BYTES) for name in ("w0", "w1"))
    chance = random.Random(6)
    places = [chance.randrange(len(CONTENT) - SMALL) for _ in range(30)]
    rigs = [one, two] * 15
    found = await asyncio.gather(
        *(rig.get("k", place, place + SMALL - 1) for rig, place in zip(rigs, places, strict=True))
    )
    for place, got in zip(places, found, strict=True):
        assert got == CONTENT[place : place + SMALL]
    assert await one.get("k") == CONTENT
    assert await two.get("k") == CONTENT
    for rig in (one, two):
        await rig.aclose()


async def test_a_failing_rest_troubles_nobody(rig: Rig) -> None:
    async def script(number: int, sent: int) -> None:
        if number > 1:
            raise OriginUnavailable("down")

    rig.origin.script = script
    assert await rig.get("k", OFFSET, OFFSET + SMALL - 1) == CONTENT[OFFSET : OFFSET + SMALL]
    rig.origin.script = None
    assert await rig.get("k") == CONTENT


def test_a_fill_begins_at_its_reader_unless_that_is_near_the_blocks_beginning() -> None:
    assert fill_start(0) == fill_start(STEP_BYTES - 1) == 0
    assert fill_start(STEP_BYTES) == STEP_BYTES
    assert OFFSET - fill_start(OFFSET) < 64 << 10
    assert SMALL_READ_BYTES >= SMALL


@pytest.mark.parametrize("offset", [OFFSET, BLOCK_BYTES - SMALL, STEP_BYTES])
async def test_another_worker_goes_on_with_a_fill_that_began_inside_its_block_and_broke_off(
    tmp_path: Path, offset: int
) -> None:
    tables, origin = SharedTables.create(), ObjectOrigin()
    origin.put("k", CONTENT)
    one, two = (Rig(tmp_path, origin, tables=tables, writer_id=name, block_bytes=BLOCK_BYTES) for name in ("w0", "w1"))
    stuck = asyncio.Event()

    async def script(number: int, sent: int) -> None:
        if number == 1 and sent >= 256 << 10:
            stuck.set()
            await asyncio.Event().wait()

    origin.script = script
    whole_from = min(offset, BLOCK_BYTES - (600 << 10))  # large enough to want the block as a whole
    first = asyncio.ensure_future(one.get("k", whole_from, BLOCK_BYTES - 1))
    async with asyncio.timeout(20):
        await stuck.wait()
    second = asyncio.ensure_future(two.get("k", 0, BLOCK_BYTES - 1))
    await until(lambda: two.flights.count())
    await one.aclose()
    with pytest.raises(OriginUnavailable):
        await first
    assert await second == CONTENT[:BLOCK_BYTES]
    assert origin.reads[0].start == fill_start(whole_from)
    second_half = origin.reads[1:]
    taken_over = fill_start(whole_from) + (256 << 10)
    assert second_half[0].start == taken_over, "it goes on where the other one stood"
    assert sum(span.length for span in second_half) == BLOCK_BYTES - (256 << 10)
    assert await two.get("k") == CONTENT
    await two.aclose()
