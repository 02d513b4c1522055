"""Reading ahead of requests that come one after the other, and of no others."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fill.readahead import REQUESTS_MIN, RUNS_MAX, ReadAhead, Run
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange
from tests.fakes.scripted import ScriptedServer
from tests.gateway.engine import Engine
from tests.gateway.speculative_origins import CountingStore
from tests.gateways import start_gateway

BLOCK_BYTES = 256 << 10
CONTENT = random.Random(12).randbytes(40 * BLOCK_BYTES + 77)
VERSION = ObjectVersion("s3://origin", "b", "k", 'etag "1"', 100 * BLOCK_BYTES)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path)
    engine.origin.put("k", CONTENT)
    yield engine
    await engine.aclose()


def fetched(engine: Engine) -> int:
    return sum(span.length for span in engine.origin.reads)


async def test_ranges_in_order_are_read_ahead_from_the_third_on_and_no_byte_twice(engine: Engine) -> None:
    ahead = []
    for start in range(0, len(CONTENT), BLOCK_BYTES):
        end = min(start + BLOCK_BYTES, len(CONTENT))
        assert await engine.get("k", start, end - 1) == CONTENT[start:end]
        await engine.quiet()
        ahead.append((fetched(engine) - end) // BLOCK_BYTES)
    assert ahead[:2] == [0, 0]
    assert max(ahead) > 2
    assert all(beyond <= taken for taken, beyond in enumerate(ahead, 1)), "never more than was taken"
    assert fetched(engine) == len(CONTENT)


async def test_small_ranges_in_order_are_read_ahead_by_whole_blocks(engine: Engine) -> None:
    step = BLOCK_BYTES // 4
    for start in range(0, 8 * BLOCK_BYTES, step):
        assert await engine.get("k", start, start + step - 1) == CONTENT[start : start + step]
    await engine.quiet()
    assert 8 * BLOCK_BYTES < fetched(engine) <= 16 * BLOCK_BYTES


async def test_a_reader_that_jumps_about_reads_nothing_ahead(engine: Engine) -> None:
    chance = random.Random(1)
    touched: set[int] = set()
    for _ in range(30):
        start = chance.randrange(len(CONTENT) - 1000)
        await engine.get("k", start, start + 999)
        touched |= {start // BLOCK_BYTES, (start + 999) // BLOCK_BYTES}
    await engine.quiet()
    assert fetched(engine) == sum(min(BLOCK_BYTES, len(CONTENT) - index * BLOCK_BYTES) for index in touched)


async def test_a_reader_that_stops_has_fetched_twice_what_it_read_at_most(engine: Engine) -> None:
    for start in range(0, 6 * BLOCK_BYTES, BLOCK_BYTES):
        await engine.get("k", start, start + BLOCK_BYTES - 1)
    await engine.quiet()
    assert fetched(engine) <= 12 * BLOCK_BYTES


async def test_nothing_is_read_ahead_where_others_would_wait_for_it(tmp_path: Path) -> None:
    engine = Engine(tmp_path, fills_max=1)
    engine.origin.put("k", CONTENT)
    for start in range(0, 6 * BLOCK_BYTES, BLOCK_BYTES):
        reading = asyncio.ensure_future(engine.get("k", start, start + BLOCK_BYTES - 1))
        assert await reading == CONTENT[start : start + BLOCK_BYTES]
    await engine.quiet()
    assert fetched(engine) <= 9 * BLOCK_BYTES
    await engine.aclose()


async def test_what_fails_ahead_troubles_nobody(engine: Engine) -> None:
    async def script(number: int, sent: int) -> None:
        if engine.origin.reads[number - 1].start >= 8 * BLOCK_BYTES:
            raise ValueError("a bug")

    engine.origin.script = script
    for start in range(0, 8 * BLOCK_BYTES, BLOCK_BYTES):
        assert await engine.get("k", start, start + BLOCK_BYTES - 1) == CONTENT[start : start + BLOCK_BYTES]
    await engine.quiet()


spans = st.lists(
    st.tuples(st.integers(0, 99 * BLOCK_BYTES), st.integers(1, 5 * BLOCK_BYTES)).map(
        lambda pair: ByteRange(pair[0], min(pair[0] + pair[1], VERSION.size_bytes))
    ),
    max_size=30,
)


@given(spans, st.integers(1, 64))
async def test_it_never_asks_for_more_than_a_run_took_nor_beyond_the_object(
    asked: list[ByteRange], window: int
) -> None:
    found: list[int] = []

    async def fetch(index: int) -> None:
        found.append(index)

    ahead = ReadAhead(BLOCK_BYTES, window, lambda length: True)
    for span in asked:
        before = len(found)
        ahead.note(VERSION, span, fetch)
        await asyncio.sleep(0)
        news = found[before:]
        assert len(news) <= window
        assert all(-(-span.end // BLOCK_BYTES) <= index < 100 for index in news)
    await ahead.aclose()


@given(st.integers(0, 1 << 30), st.integers(0, 1 << 30), st.integers(1, 10), st.integers(0, 200))
def test_what_a_run_wants_is_bounded_by_what_it_took(start: int, length: int, requests: int, asked: int) -> None:
    ahead = ReadAhead(BLOCK_BYTES, 16, lambda length: True)
    run = Run(start, start + length, requests, asked)
    wanted = ahead.wanted(run, last_block=5000)
    assert len(wanted) * BLOCK_BYTES <= length
    assert len(wanted) <= 16
    if requests < REQUESTS_MIN:
        assert not wanted
    assert all(index >= asked and index * BLOCK_BYTES >= run.end for index in wanted)


async def test_runs_side_by_side_are_told_apart(engine: Engine) -> None:
    bases = [10 * BLOCK_BYTES * number for number in range(4)]
    for step in range(4):
        found = await asyncio.gather(
            *(engine.get("k", base + step * BLOCK_BYTES, base + (step + 1) * BLOCK_BYTES - 1) for base in bases)
        )
        assert b"".join(found) == b"".join(
            CONTENT[base + step * BLOCK_BYTES : base + (step + 1) * BLOCK_BYTES] for base in bases
        )
    await engine.quiet()
    assert len(bases) <= RUNS_MAX
    assert fetched(engine) > 4 * 4 * BLOCK_BYTES


async def test_through_the_front_door_ranges_in_order_cost_each_byte_once(tmp_path: Path) -> None:
    store, size_bytes = CountingStore(CONTENT), len(CONTENT)
    async with ScriptedServer(store) as server:
        config = {"cache": {"block_size": "256KiB"}}
        gateway = await asyncio.to_thread(start_gateway, tmp_path, origin=server.url, config=config)
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                for start in range(0, size_bytes, 300_000):
                    headers = {"Range": f"bytes={start}-{start + 299_999}"}
                    answer = await client.get(f"{gateway.url}/b/k", headers=headers)
                    assert (answer.status_code, answer.content) == (206, CONTENT[start : start + 300_000])
            assert store.sent_bytes == size_bytes
            assert await asyncio.to_thread(gateway.metric, "warmstart_ahead_blocks_total") > 0
        finally:
            await asyncio.to_thread(gateway.stop)
