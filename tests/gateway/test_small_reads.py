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
from tests.gateway.engine import Engine, ObjectOrigin, body_bytes
from tests.waiting import until

MIB = 1 << 20
BLOCK_BYTES = 4 * MIB
CONTENT = random.Random(3).randbytes(2 * BLOCK_BYTES + 12345)
OFFSET = 2 * MIB + 100
SMALL = 64 << 10


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path, block_bytes=BLOCK_BYTES)
    engine.origin.put("k", CONTENT)
    yield engine
    await engine.aclose()


class OriginBarrier:
    """Holds the origin's answers back, all but the first so many requests."""

    def __init__(self, origin: ObjectOrigin, open_requests: int = 0) -> None:
        self.opened = asyncio.Event()
        self.open_requests = open_requests
        origin.script = self.script

    async def script(self, number: int, sent: int) -> None:
        del sent
        if number > self.open_requests:
            await self.opened.wait()


async def whole(engine: Engine, blocks: int) -> None:
    """Waits until so many blocks are present."""
    version = engine.origin.objects["k"][0].version
    async with asyncio.timeout(20):
        while engine.flights.count() or not all(
            (block := engine.store.peek_block(version, index)) is not None and block.state().verified
            for index in range(blocks)
        ):
            await asyncio.sleep(0.001)


async def test_a_small_read_asks_for_its_own_bytes_first(engine: Engine) -> None:
    barrier = OriginBarrier(engine.origin, open_requests=1)
    assert await engine.get("k", OFFSET, OFFSET + SMALL - 1) == CONTENT[OFFSET : OFFSET + SMALL]
    first = engine.origin.reads[0]
    assert first.start == fill_start(OFFSET)
    assert first.end == OFFSET + SMALL
    barrier.opened.set()


async def test_the_rest_of_its_block_is_fetched_later_and_no_byte_twice(engine: Engine) -> None:
    assert await engine.get("k", OFFSET, OFFSET + SMALL - 1) == CONTENT[OFFSET : OFFSET + SMALL]
    await whole(engine, 1)
    assert sum(span.length for span in engine.origin.reads) == BLOCK_BYTES
    again = await engine.read("k", 0, BLOCK_BYTES - 1)
    assert again.cache is CacheStatus.HIT
    assert await body_bytes(again) == CONTENT[:BLOCK_BYTES]


async def test_the_rest_waits_while_other_fills_are_waiting(tmp_path: Path) -> None:
    engine = Engine(tmp_path, block_bytes=BLOCK_BYTES, fills_max=2)
    engine.origin.put("k", CONTENT)
    engine.origin.put("busy", CONTENT[:BLOCK_BYTES])
    gone_on = asyncio.Event()

    async def hold_the_first(number: int, sent: int) -> None:
        if number == 1:
            await gone_on.wait()

    engine.origin.script = hold_the_first
    busy = asyncio.ensure_future(engine.get("busy"))
    await until(lambda: engine.origin.reads)
    assert await engine.get("k", OFFSET, OFFSET + SMALL - 1) == CONTENT[OFFSET : OFFSET + SMALL]
    await until(lambda: engine.limiter.waiting_for_idle or len(engine.origin.reads) > 2)
    own = engine.origin.reads[1:]
    assert [span.start for span in own] == [fill_start(OFFSET)], "the rest did not wait"
    gone_on.set()
    assert await busy == CONTENT[:BLOCK_BYTES]
    await whole(engine, 1)
    assert sum(span.length for span in engine.origin.reads[1:]) == BLOCK_BYTES
    await engine.aclose()


async def test_a_whole_reader_that_joins_keeps_the_fill_going(engine: Engine) -> None:
    barrier = OriginBarrier(engine.origin)
    small = asyncio.ensure_future(engine.get("k", OFFSET, OFFSET + SMALL - 1))
    await until(lambda: engine.origin.reads)
    large = asyncio.ensure_future(engine.get("k"))
    barrier.opened.set()
    assert await small == CONTENT[OFFSET : OFFSET + SMALL]
    assert await large == CONTENT
    assert sum(span.length for span in engine.origin.reads) == len(CONTENT)


async def test_a_second_offset_far_from_the_fill_is_fetched_aside_and_counted(engine: Engine) -> None:
    before = ASIDE_READS._value.get()
    barrier = OriginBarrier(engine.origin, open_requests=0)
    filling = asyncio.ensure_future(engine.get("k"))
    await until(lambda: engine.origin.reads)
    barrier.open_requests = 10**6  # the next ones; the first stays held by its own wait
    far = 3 * MIB
    assert await engine.get("k", far, far + SMALL - 1) == CONTENT[far : far + SMALL]
    assert ASIDE_READS._value.get() == before + 1
    assert any(span.start == far and span.length == SMALL for span in engine.origin.reads)
    barrier.opened.set()
    assert await filling == CONTENT


async def test_an_offset_that_the_fill_reaches_soon_waits_for_it(engine: Engine) -> None:
    barrier = OriginBarrier(engine.origin)
    filling = asyncio.ensure_future(engine.get("k"))
    await until(lambda: engine.origin.reads)
    near = asyncio.ensure_future(engine.get("k", FAR_BYTES // 2, FAR_BYTES // 2 + SMALL - 1))
    await asyncio.sleep(0)
    barrier.opened.set()
    assert await near == CONTENT[FAR_BYTES // 2 : FAR_BYTES // 2 + SMALL]
    assert await filling == CONTENT
    assert sum(span.length for span in engine.origin.reads) == len(CONTENT)


async def test_many_small_reads_at_random_get_right_bytes_and_leave_the_object_whole(engine: Engine) -> None:
    chance = random.Random(5)
    offsets = [chance.randrange(len(CONTENT) - SMALL) for _ in range(40)]
    found = await asyncio.gather(*(engine.get("k", offset, offset + SMALL - 1) for offset in offsets))
    for offset, got in zip(offsets, found, strict=True):
        assert got == CONTENT[offset : offset + SMALL]
    await whole(engine, 2)
    assert await engine.get("k") == CONTENT


async def test_two_workers_with_small_reads_of_one_block_agree(tmp_path: Path) -> None:
    tables, origin = SharedTables.create(), ObjectOrigin()
    origin.put("k", CONTENT)
    one, two = (
        Engine(tmp_path, origin, tables=tables, writer_id=name, block_bytes=BLOCK_BYTES) for name in ("w0", "w1")
    )
    chance = random.Random(6)
    offsets = [chance.randrange(len(CONTENT) - SMALL) for _ in range(30)]
    engines = [one, two] * 15
    found = await asyncio.gather(
        *(engine.get("k", offset, offset + SMALL - 1) for engine, offset in zip(engines, offsets, strict=True))
    )
    for offset, got in zip(offsets, found, strict=True):
        assert got == CONTENT[offset : offset + SMALL]
    assert await one.get("k") == CONTENT
    assert await two.get("k") == CONTENT
    for engine in (one, two):
        await engine.aclose()


async def test_a_failing_rest_troubles_nobody(engine: Engine) -> None:
    async def script(number: int, sent: int) -> None:
        if number > 1:
            raise OriginUnavailable("down")

    engine.origin.script = script
    assert await engine.get("k", OFFSET, OFFSET + SMALL - 1) == CONTENT[OFFSET : OFFSET + SMALL]
    engine.origin.script = None
    assert await engine.get("k") == CONTENT


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
    one, two = (
        Engine(tmp_path, origin, tables=tables, writer_id=name, block_bytes=BLOCK_BYTES) for name in ("w0", "w1")
    )
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
