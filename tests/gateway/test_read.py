"""Reads through the real store: right bytes, X-Cache, and what each costs the origin."""

from __future__ import annotations

import asyncio
import errno
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.blocks import START_STEP_BYTES
from proxy.cache.shared import SharedTables
from proxy.conditions import Conditions
from proxy.errors import (
    NotFound,
    OriginUnavailable,
    Overloaded,
    PreconditionFailed,
    RangeNotSatisfiable,
    VersionChanged,
)
from proxy.gateway.answers import CacheStatus, ReadObject
from proxy.objects import ObjectName, SumKind
from proxy.ranges import RangeRequest
from tests.gateway.engine import BLOCK_BYTES, Engine, ObjectOrigin, body_bytes, close_body, piece_bytes

CONTENT = random.Random(7).randbytes(5 * BLOCK_BYTES + 1234)
MORE = random.Random(8).randbytes(len(CONTENT))


async def test_a_cold_read_fetches_each_block_once_and_the_next_one_is_a_hit(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)
    cold = await engine.read("k")
    assert cold.cache is CacheStatus.MISS
    assert await body_bytes(cold) == CONTENT
    hot = await engine.read("k")
    assert hot.cache is CacheStatus.HIT
    assert await body_bytes(hot) == CONTENT
    assert sorted(span.start for span in engine.origin.reads) == [n * BLOCK_BYTES for n in range(6)]
    assert engine.origin.heads == 1


async def test_a_ranged_read_costs_only_the_blocks_it_touches(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)
    assert await engine.get("k", BLOCK_BYTES - 1, BLOCK_BYTES) == CONTENT[BLOCK_BYTES - 1 : BLOCK_BYTES + 1]
    await engine.quiet()
    fetched = sorted((span.start, span.end) for span in engine.origin.reads)
    in_first = BLOCK_BYTES - START_STEP_BYTES  # where the reader is, then the rest of that block
    assert fetched == [(0, in_first), (in_first, BLOCK_BYTES), (BLOCK_BYTES, 2 * BLOCK_BYTES)]


async def test_a_mixed_range_is_called_partial(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)
    await engine.get("k", 0, 10)
    await engine.quiet()
    answer = await engine.read("k", 0, BLOCK_BYTES + 10)
    assert answer.cache is CacheStatus.PARTIAL
    await body_bytes(answer)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_any_range_is_a_slice_of_the_object(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    edges = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, len(CONTENT) - 1, len(CONTENT)]
    number = st.one_of(st.sampled_from(edges), st.integers(0, len(CONTENT) + 10))
    engine = Engine(tmp_path_factory.mktemp("property"))
    try:
        engine.origin.put("k", CONTENT)
        for _ in range(3):
            first, last = data.draw(st.none() | number), data.draw(st.none() | number)
            if (first is None and last is None) or (first is not None and last is not None and last < first):
                continue
            try:
                span = RangeRequest(first, last).resolve(len(CONTENT))
            except RangeNotSatisfiable:
                with pytest.raises(RangeNotSatisfiable):
                    await engine.get("k", first, last)
            else:
                assert await engine.get("k", first, last) == CONTENT[span.start : span.end]
    finally:
        await engine.aclose()


async def test_an_empty_object_has_an_empty_body_and_no_ranges(engine: Engine) -> None:
    engine.origin.put("k", b"")
    assert await engine.get("k") == b""
    with pytest.raises(RangeNotSatisfiable):
        await engine.get("k", 0, 10)
    assert engine.origin.reads == []


async def test_readers_of_one_moment_share_one_fetch(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)
    bodies = await asyncio.gather(*(engine.get("k") for _ in range(16)))
    assert set(bodies) == {CONTENT}
    assert len(engine.origin.reads) == 6
    assert engine.origin.heads == 1


async def test_two_workers_share_one_fetch(tmp_path: Path) -> None:
    origin, tables = ObjectOrigin(), SharedTables.create()
    origin.put("k", CONTENT)
    one, two = (Engine(tmp_path, origin, tables=tables, writer_id=name) for name in ("w0", "w1"))
    bodies = await asyncio.gather(*(engine.get("k") for engine in (one, two) for _ in range(4)))
    assert set(bodies) == {CONTENT}
    assert len(origin.reads) == 6
    assert await two.get("k", 5, 10) == CONTENT[5:11]
    await one.aclose()
    await two.aclose()


async def test_a_fill_that_waits_for_room_leaves_its_block_to_a_worker_that_has_room(tmp_path: Path) -> None:
    origin, tables = ObjectOrigin(), SharedTables.create()
    origin.put("big", CONTENT)
    origin.put("k", MORE)
    one = Engine(tmp_path, origin, tables=tables, writer_id="w0", fills_max=1)
    two = Engine(tmp_path, origin, tables=tables, writer_id="w1")
    go_on = asyncio.Event()

    async def script(number: int, sent: int) -> None:
        if number == 1:
            await go_on.wait()

    origin.script = script
    holding = asyncio.ensure_future(one.get("big", 0, 10))
    while not origin.reads:
        await asyncio.sleep(0.001)
    waiting = asyncio.ensure_future(one.get("k", 0, BLOCK_BYTES - 1))
    while one.flights.find(origin.objects["k"][0].version, 0) is None:
        await asyncio.sleep(0.001)
    assert await two.get("k", 0, BLOCK_BYTES - 1) == MORE[:BLOCK_BYTES]
    go_on.set()
    assert await waiting == MORE[:BLOCK_BYTES]
    assert await holding == CONTENT[:11]
    assert len(origin.reads) == 2
    await one.aclose()
    await two.aclose()


async def test_a_worker_that_gives_up_hands_its_block_to_the_one_that_follows(tmp_path: Path) -> None:
    origin, tables = ObjectOrigin(), SharedTables.create()
    origin.put("k", CONTENT)
    one, two = (Engine(tmp_path, origin, tables=tables, writer_id=name) for name in ("w0", "w1"))
    stuck = asyncio.Event()

    async def script(number: int, sent: int) -> None:
        if number == 1 and sent >= 96 << 10:
            stuck.set()
            await asyncio.Event().wait()

    origin.script = script
    answer = await one.read("k", 0, BLOCK_BYTES - 1)
    await stuck.wait()
    following = asyncio.ensure_future(two.get("k", 0, BLOCK_BYTES - 1))
    while two.flights.find(origin.objects["k"][0].version, 0) is None:
        await asyncio.sleep(0.001)
    assert answer.body is not None
    await close_body(answer.body)
    await one.flights.aclose()
    assert await following == CONTENT[:BLOCK_BYTES]
    assert len(origin.reads) == 2
    await one.aclose()
    await two.aclose()


async def test_a_restart_checks_what_it_finds_and_asks_the_origin_for_nothing(tmp_path: Path) -> None:
    origin = ObjectOrigin()
    origin.put("k", CONTENT)
    first = Engine(tmp_path, origin)
    await first.get("k")
    await first.aclose()
    second = Engine(tmp_path, origin, run_id="another")
    answer = await second.read("k")
    assert answer.cache is CacheStatus.HIT
    assert await body_bytes(answer) == CONTENT
    assert len(origin.reads) == 6
    assert origin.heads == 1
    await second.aclose()


async def test_bits_flipped_between_two_runs_are_fetched_again(tmp_path: Path) -> None:
    origin = ObjectOrigin()
    origin.put("k", CONTENT)
    first = Engine(tmp_path, origin)
    await first.get("k")
    await first.aclose()
    flip_bits(tmp_path, 2 * BLOCK_BYTES + 5)
    second = Engine(tmp_path, origin, run_id="another")
    assert await second.get("k") == CONTENT
    assert len(origin.reads) > 6
    await second.aclose()


def flip_bits(disk: Path, offset: int) -> None:
    (data,) = disk.rglob("*.data")
    with data.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(8))


async def test_a_read_that_meets_another_version_before_its_first_byte_starts_over(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)
    await engine.read("k", head_only=True)
    record = engine.origin.put("k", MORE)
    answer = await engine.read("k")
    assert answer.record.etag == record.etag
    assert await body_bytes(answer) == MORE


async def test_blocks_on_disk_go_on_being_served_for_the_rest_of_their_freshness(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)
    await engine.get("k")
    engine.origin.put("k", MORE)
    assert await engine.get("k") == CONTENT
    engine.now_s += 61
    assert await engine.get("k") == MORE


async def test_a_version_that_changes_in_mid_body_ends_it_short_and_never_splices(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)

    async def script(number: int, sent: int) -> None:
        if number == 3:
            engine.origin.put("k", MORE)
            engine.origin.script = None

    engine.origin.script = script
    answer = await engine.read("k")
    assert answer.body is not None
    got = b""
    with pytest.raises(VersionChanged):
        async for piece in answer.body:
            got += piece_bytes(piece)
    assert got == CONTENT[: len(got)]
    assert len(got) < len(CONTENT)
    assert await engine.get("k") == MORE


async def test_a_version_that_never_stands_still_is_overload_and_not_a_loop(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)

    async def script(number: int, sent: int) -> None:
        engine.origin.put("k", CONTENT)

    engine.origin.script = script
    with pytest.raises(Overloaded):
        await engine.read("k")


@pytest.mark.parametrize("kind", list(SumKind))
async def test_an_object_that_fails_its_checksum_never_comes_complete(engine: Engine, kind: SumKind) -> None:
    engine.origin.put("k", CONTENT, sums=(kind,))
    engine.origin.corrupt = True
    answer = await engine.read("k")
    assert answer.body is not None
    got = 0
    with pytest.raises(OriginUnavailable):
        async for piece in answer.body:
            got += len(piece_bytes(piece))
    assert got <= len(CONTENT) - 1234
    engine.origin.corrupt = False
    assert await engine.get("k") == CONTENT
    assert (await engine.read("k")).cache is CacheStatus.HIT


async def test_a_version_that_fails_twice_is_served_uncached(engine: Engine) -> None:
    engine.origin.put("k", CONTENT, sums=(SumKind.CRC32C,))
    engine.origin.corrupt = True
    for _ in range(2):
        with pytest.raises(OriginUnavailable):
            await engine.get("k")
    answer = await engine.read("k")
    assert answer.cache is CacheStatus.BYPASS
    await body_bytes(answer)


async def test_ranges_that_complete_an_object_check_it_too(engine: Engine) -> None:
    record = engine.origin.put("k", CONTENT, sums=(SumKind.CRC64NVME,))
    engine.origin.corrupt = True
    for start in range(0, 4 * BLOCK_BYTES, BLOCK_BYTES):
        await engine.get("k", start, start + BLOCK_BYTES - 1)
        engine.origin.corrupt = False
    with pytest.raises(OriginUnavailable):
        await engine.get("k", len(CONTENT) - 200_000, len(CONTENT) - 1)
    assert record.sums


async def test_a_full_disk_still_gives_the_whole_object(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.origin.put("k", CONTENT)
    written, pwrite = 0, os.pwrite

    def full(fd: int, data: memoryview, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > 2 * BLOCK_BYTES + 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    assert await engine.get("k") == CONTENT
    assert await engine.get("k") == CONTENT


async def test_a_cache_that_has_no_room_serves_everything_uncached(tmp_path: Path) -> None:
    engine = Engine(tmp_path, size_bytes=64 << 20)
    engine.tables.usage.publish_scan(0, 1 << 40)
    engine.origin.put("k", CONTENT)
    answer = await engine.read("k")
    assert await body_bytes(answer) == CONTENT
    await engine.aclose()


async def test_an_object_without_a_validator_is_never_stored(engine: Engine) -> None:
    engine.origin.put("k", CONTENT, cacheable=False)
    for _ in range(2):
        answer = await engine.read("k")
        assert answer.cache is CacheStatus.BYPASS
        assert await body_bytes(answer) == CONTENT
    assert engine.origin.heads == 2


async def test_a_reader_that_leaves_early_costs_no_more_than_its_window(engine: Engine) -> None:
    content = bytes(40 * BLOCK_BYTES)
    engine.origin.put("k", content)
    answer = await engine.read("k")
    assert answer.body is not None
    await anext(answer.body)
    await close_body(answer.body)
    await engine.quiet()
    assert len(engine.origin.reads) == 1
    assert (await engine.read("k", 0, 10)).cache is CacheStatus.HIT


async def test_a_reader_that_keeps_up_gets_fills_side_by_side(engine: Engine) -> None:
    content = bytes(40 * BLOCK_BYTES)
    engine.origin.put("k", content)
    running = most = 0

    async def script(number: int, sent: int) -> None:
        nonlocal running, most
        running += sent == 0
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= sent + engine.origin.piece_bytes >= BLOCK_BYTES

    engine.origin.script = script
    assert await engine.get("k") == content
    assert 3 < most <= 8


async def test_conditions_count_together_with_a_range(engine: Engine) -> None:
    record = engine.origin.put("k", CONTENT)
    assert await engine.get("k", 0, 9, conditions=Conditions(if_match=record.etag)) == CONTENT[:10]
    with pytest.raises(PreconditionFailed):
        await engine.get("k", 0, 9, conditions=Conditions(if_match='"other"'))
    answer = await engine.read("k", conditions=Conditions(if_none_match=record.etag))
    assert answer.not_modified
    assert answer.body is None


async def test_a_condition_on_a_newer_version_than_the_known_one_is_asked_of_the_origin(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)
    await engine.get("k")
    newer = engine.origin.put("k", MORE)
    assert await engine.get("k", conditions=Conditions(if_match=newer.etag)) == MORE


async def test_a_range_beyond_the_known_size_is_asked_of_the_origin(engine: Engine) -> None:
    engine.origin.put("k", b"short")
    await engine.get("k")
    engine.origin.put("k", CONTENT)
    assert await engine.get("k", 1000, 1009) == CONTENT[1000:1010]


async def test_an_unknown_bucket_and_key_are_not_found(engine: Engine) -> None:
    with pytest.raises(NotFound):
        await engine.gateway.read(ReadObject(ObjectName("elsewhere", "k")))
    with pytest.raises(NotFound):
        await engine.get("k")
