"""The first read where its answer can't tell the object: its bytes are asked for beside the HEAD, and count with it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.conditions import Conditions
from proxy.errors import NotFound, PreconditionFailed, RangeNotSatisfiable
from proxy.fill.supply import OPENINGS_MAX
from proxy.ranges import ByteRange
from tests.gateway.engine import Engine
from tests.gateway.speculative_origins import SpeculativeOrigin
from tests.waiting import until

BLOCK_BYTES = 256 << 10
CONTENT = random.Random(4).randbytes(3 * BLOCK_BYTES + 99)


@pytest.fixture
async def origin() -> SpeculativeOrigin:
    return SpeculativeOrigin()


@pytest.fixture
async def engine(tmp_path: Path, origin: SpeculativeOrigin) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path, origin)
    yield engine
    await engine.aclose()


async def test_the_first_bytes_are_asked_for_while_the_head_is_under_way(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    origin.put("k", CONTENT)
    origin.heads_wait.clear()
    reading = asyncio.ensure_future(engine.get("k"))
    await origin.wait_opened(1)
    origin.heads_wait.set()
    assert await reading == CONTENT
    assert origin.opened == [ByteRange(0, BLOCK_BYTES)]
    assert origin.heads == 1
    fetched = sum(span.length for span in origin.reads) + BLOCK_BYTES
    assert fetched == len(CONTENT), "no byte was fetched twice"


async def test_a_ranged_first_read_opens_where_its_reader_is(engine: Engine, origin: SpeculativeOrigin) -> None:
    origin.put("k", CONTENT)
    first = BLOCK_BYTES + 200_000
    assert await engine.get("k", first, first + 99) == CONTENT[first : first + 100]
    assert origin.opened == [ByteRange(BLOCK_BYTES + 196_608, 2 * BLOCK_BYTES)]


async def test_readers_that_come_together_share_one_opening(engine: Engine, origin: SpeculativeOrigin) -> None:
    origin.put("k", CONTENT)
    origin.heads_wait.clear()
    readers = [asyncio.ensure_future(engine.get("k")) for _ in range(8)]
    await origin.wait_opened(1)
    origin.heads_wait.set()
    assert await asyncio.gather(*readers) == [CONTENT] * 8
    assert len(origin.opened) == origin.heads == 1
    assert sum(span.length for span in origin.reads) + BLOCK_BYTES == len(CONTENT)


async def test_what_is_known_or_on_disk_is_not_opened(engine: Engine, origin: SpeculativeOrigin) -> None:
    origin.put("k", CONTENT)
    await engine.get("k")
    engine.now_s += 1000
    await engine.get("k")
    await engine.get("k", revalidate=True)
    assert len(origin.opened) == 1


async def test_reads_that_may_want_no_bytes_open_nothing(engine: Engine, origin: SpeculativeOrigin) -> None:
    record = origin.put("k", CONTENT)
    await engine.read("k", head_only=True)
    origin.put("l", CONTENT)
    await engine.read("l", conditions=Conditions(if_none_match=record.etag))
    origin.put("m", CONTENT)
    assert await engine.get("m", None, 10) == CONTENT[-10:]
    assert origin.opened == []


async def test_a_missing_key_is_not_found_and_leaves_nothing_open(engine: Engine, origin: SpeculativeOrigin) -> None:
    with pytest.raises(NotFound):
        await engine.get("gone")
    await origin.wait_closed()


async def test_a_failed_condition_and_a_range_beyond_the_end_close_the_opening(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    origin.put("k", CONTENT)
    origin.put("l", CONTENT)
    with pytest.raises(PreconditionFailed):
        await engine.get("k", conditions=Conditions(if_match='"other"'))
    with pytest.raises(RangeNotSatisfiable):
        await engine.get("l", len(CONTENT) + 5, len(CONTENT) + 10)
    await origin.wait_closed()
    assert await engine.get("k") == CONTENT


async def test_an_object_replaced_between_get_and_head_is_never_spliced(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    origin.put("k", CONTENT)
    origin.heads_wait.clear()
    reading = asyncio.ensure_future(engine.get("k"))
    await origin.wait_opened(1)
    await asyncio.sleep(0.01)
    new = random.Random(9).randbytes(len(CONTENT))
    origin.put("k", new)
    origin.heads_wait.set()
    assert await reading == new


async def test_openings_are_bounded(engine: Engine, origin: SpeculativeOrigin) -> None:
    for number in range(OPENINGS_MAX + 5):
        origin.put(f"k{number}", CONTENT)
    origin.heads_wait.clear()
    readers = [asyncio.ensure_future(engine.get(f"k{number}")) for number in range(OPENINGS_MAX + 5)]
    await until(lambda: origin.heads >= OPENINGS_MAX + 5)
    await origin.wait_opened(OPENINGS_MAX)
    assert len(origin.opened) == OPENINGS_MAX
    origin.heads_wait.set()
    assert await asyncio.gather(*readers) == [CONTENT] * (OPENINGS_MAX + 5)
