"""The first read where its own answer tells the object: one request for a small one, a HEAD aside for a large one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from proxy.conditions import Conditions
from proxy.errors import (
    AccessDenied,
    NotFound,
    OriginUnavailable,
    PreconditionFailed,
    RangeNotSatisfiable,
    VersionChanged,
)
from proxy.objects import ObjectName, SumKind
from proxy.origin import Opened
from proxy.ranges import ByteRange
from tests.fakes.scripted import ScriptedServer
from tests.gateway.engine import Engine, body_bytes, piece_bytes
from tests.gateway.speculative_origins import CountingStore, SpeculativeOrigin
from tests.gateways import start_gateway
from tests.waiting import until

BLOCK_BYTES = 256 << 10
SMALL = random.Random(8).randbytes(70_000)
LARGE = random.Random(9).randbytes(3 * BLOCK_BYTES + 99)


@pytest.fixture
async def origin() -> SpeculativeOrigin:
    return SpeculativeOrigin(opening_tells=True)


@pytest.fixture
async def engine(tmp_path: Path, origin: SpeculativeOrigin) -> AsyncIterator[Engine]:
    engine = Engine(tmp_path, origin)
    yield engine
    await engine.aclose()


async def test_a_small_object_costs_one_request(engine: Engine, origin: SpeculativeOrigin) -> None:
    origin.put("k", SMALL)
    assert await engine.get("k") == SMALL
    assert await engine.get("k", 5, 99) == SMALL[5:100]
    assert (len(origin.opened), origin.heads, origin.reads) == (1, 0, [])


async def test_readers_of_a_small_object_that_come_together_cost_one_request(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    origin.put("k", SMALL)
    assert await asyncio.gather(*(engine.get("k") for _ in range(16))) == [SMALL] * 16
    assert (len(origin.opened), origin.heads, origin.reads) == (1, 0, [])


async def test_a_large_object_is_read_before_its_head_has_come(engine: Engine, origin: SpeculativeOrigin) -> None:
    origin.put("k", LARGE, sums=(SumKind.CRC32C,))
    origin.heads_wait.clear()
    answer = await engine.read("k")
    assert answer.body is not None
    got = bytearray()
    async for piece in answer.body:
        got += piece_bytes(piece)
        if len(got) >= BLOCK_BYTES:
            origin.heads_wait.set()
    assert bytes(got) == LARGE
    assert (len(origin.opened), origin.heads) == (1, 1)
    assert sum(span.length for span in origin.reads) + BLOCK_BYTES == len(LARGE)


@pytest.mark.parametrize("kind", list(SumKind))
async def test_a_checksum_told_late_still_holds_the_last_bytes_back(
    engine: Engine, origin: SpeculativeOrigin, kind: SumKind
) -> None:
    origin.put("k", LARGE, sums=(kind,))
    record, content = origin.objects["k"]
    origin.objects["k"] = (record, content[:-1] + bytes([content[-1] ^ 1]))
    origin.heads_wait.clear()
    answer = await engine.read("k")
    origin.heads_wait.set()
    with pytest.raises(OriginUnavailable):
        await body_bytes(answer)


@pytest.mark.parametrize("kind", list(SumKind))
async def test_a_checksum_told_late_is_compared_once_and_found_right(
    engine: Engine, origin: SpeculativeOrigin, kind: SumKind
) -> None:
    record = origin.put("k", LARGE, sums=(kind,))
    assert await engine.get("k") == LARGE
    await engine.quiet()
    assert not engine.verifier.checkable(record)
    assert engine.store.combined_sum(record.version, kind) == record.sums[0][1]


async def test_an_object_read_in_part_is_checked_when_its_last_fill_ends(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    record = origin.put("k", LARGE, sums=(SumKind.CRC64NVME,))
    spans = [(start, min(start + BLOCK_BYTES, len(LARGE)) - 1) for start in range(0, len(LARGE), BLOCK_BYTES)]
    found = await asyncio.gather(*(engine.get("k", first, last) for first, last in spans[:3]))
    assert b"".join(found) == LARGE[: 3 * BLOCK_BYTES]
    assert await engine.get("k", *spans[3]) == LARGE[3 * BLOCK_BYTES :]
    await until(lambda: not engine.verifier.checkable(record))


async def test_without_a_head_the_bytes_of_a_large_object_are_all_there_is(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    async def refused() -> None:
        raise AccessDenied("HEAD is not allowed")

    origin.put("k", LARGE, sums=(SumKind.CRC32C,))
    origin.before_head = refused
    assert await engine.get("k") == LARGE


async def test_a_head_that_hangs_is_not_waited_for_beyond_its_time(tmp_path: Path, origin: SpeculativeOrigin) -> None:
    engine = Engine(tmp_path, origin, sums_wait_s=0.01)
    origin.put("k", LARGE, sums=(SumKind.CRC32C,))
    origin.heads_wait.clear()
    assert await engine.get("k") == LARGE
    origin.heads_wait.set()
    await engine.aclose()


async def test_what_the_first_answer_told_is_kept_where_no_head_is_answered(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    origin.put("k", LARGE)
    origin.down = True  # for HEADs; POLICY gives them two seconds
    answer = await engine.read("k", 0, 99)
    assert await body_bytes(answer) == LARGE[:100]
    name = ObjectName("b", "k")
    await until(lambda: engine.gateway.known(name) is not None)
    heads = origin.heads
    assert await engine.get("k", 5, 99) == LARGE[5:100]
    assert (len(origin.opened), origin.heads) == (1, heads)


async def test_a_head_asks_for_what_the_first_answer_did_not_tell(engine: Engine, origin: SpeculativeOrigin) -> None:
    record = origin.put("k", SMALL, sums=(SumKind.CRC32,))
    await engine.get("k")
    told = await engine.read("k", head_only=True)
    assert told.record.sums == record.sums
    assert origin.heads == 1
    await engine.read("k", head_only=True)
    await engine.get("k", wants_sums=True)
    assert origin.heads == 1


async def test_a_client_that_compares_checksums_is_told_them_from_the_first_read_on(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    record = origin.put("k", SMALL, sums=(SumKind.CRC32,))
    answer = await engine.read("k", wants_sums=True)
    assert answer.record.sums == record.sums
    assert await body_bytes(answer) == SMALL
    assert (len(origin.opened), origin.heads, origin.reads) == (1, 1, [])


async def test_a_range_wants_no_checksum_of_the_whole(engine: Engine, origin: SpeculativeOrigin) -> None:
    origin.put("k", SMALL, sums=(SumKind.CRC32,))
    assert await engine.get("k", 0, 99, wants_sums=True) == SMALL[:100]
    assert origin.heads == 0


async def test_a_hit_waits_for_no_checksum_of_an_origin_that_is_down(engine: Engine, origin: SpeculativeOrigin) -> None:
    origin.put("k", SMALL, sums=(SumKind.CRC32,))
    await engine.get("k")
    origin.down = True
    assert await engine.get("k", wants_sums=True) == SMALL
    heads = origin.heads
    assert await engine.get("k", wants_sums=True) == SMALL
    assert origin.heads == heads


async def test_a_missing_key_costs_one_request(engine: Engine, origin: SpeculativeOrigin) -> None:
    with pytest.raises(NotFound):
        await engine.get("gone")
    assert (len(origin.opened), origin.heads) == (1, 0)


async def test_conditions_and_ranges_are_decided_by_what_the_answer_told(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    record = origin.put("k", SMALL)
    origin.put("l", SMALL)
    origin.put("m", SMALL)
    with pytest.raises(PreconditionFailed):
        await engine.get("k", conditions=Conditions(if_match='"other"'))
    assert await engine.get("k", conditions=Conditions(if_match=record.etag)) == SMALL
    assert await engine.get("l", 60_000, 10**9) == SMALL[60_000:]
    with pytest.raises(RangeNotSatisfiable):
        await engine.get("m", 70_000, 70_001)
    await origin.wait_closed()


@pytest.mark.parametrize("error", [OriginUnavailable("503"), RangeNotSatisfiable(5)])
async def test_an_answer_that_tells_nothing_leaves_it_to_a_head(
    engine: Engine, origin: SpeculativeOrigin, error: Exception
) -> None:
    origin.put("k", LARGE)
    origin.open_error = error
    assert await engine.get("k") == LARGE
    assert origin.heads == 1
    assert sum(span.length for span in origin.reads) == len(LARGE)


async def test_an_empty_object_is_found_by_its_head(engine: Engine, origin: SpeculativeOrigin) -> None:
    origin.put("k", b"")
    assert await engine.get("k") == b""
    assert (len(origin.opened), origin.heads) == (1, 1)


async def test_an_object_replaced_between_first_answer_and_head_is_never_spliced(
    engine: Engine, origin: SpeculativeOrigin
) -> None:
    origin.put("k", LARGE)
    origin.heads_wait.clear()
    reading = asyncio.ensure_future(engine.get("k", 0, BLOCK_BYTES - 1))
    assert await reading == LARGE[:BLOCK_BYTES]
    new = random.Random(10).randbytes(len(LARGE))
    origin.put("k", new)
    origin.heads_wait.set()
    with contextlib.suppress(VersionChanged):
        assert await engine.get("k") in (LARGE, new)
    engine.now_s += 1000
    assert await engine.get("k") == new


async def test_what_an_invalidation_overtook_is_not_remembered(engine: Engine, origin: SpeculativeOrigin) -> None:
    origin.put("k", SMALL)
    key = engine.bucket.object_key(ObjectName("b", "k"))
    asked, hold, speculative = asyncio.Event(), asyncio.Event(), origin.open_range

    async def held(bucket: str, key: str, span: ByteRange, opened: Opened) -> None:
        asked.set()
        await hold.wait()
        await speculative(bucket, key, span, opened)

    origin.open_range = held  # type: ignore[method-assign]
    reading = asyncio.ensure_future(engine.get("k"))
    await until(lambda: asked.is_set())
    engine.tables.tokens.renew(key)
    hold.set()
    assert await reading == SMALL
    assert engine.versions.peek(engine.bucket, key) is None


async def test_a_record_from_a_first_answer_survives_on_disk_as_what_it_is(
    engine: Engine, origin: SpeculativeOrigin, tmp_path: Path
) -> None:
    record = origin.put("k", SMALL, sums=(SumKind.CRC32,))
    await engine.get("k")
    await engine.aclose()
    again = Engine(tmp_path, origin)
    assert await again.get("k") == SMALL
    assert (await again.read("k", head_only=True)).record.sums == record.sums
    assert (len(origin.opened), origin.heads) == (1, 1)
    await again.aclose()


@pytest.mark.parametrize(("size_bytes", "methods"), [(70_000, ["GET"]), (9 << 20, ["GET", "GET", "HEAD"])])
async def test_through_the_front_door_a_cold_object_costs_as_many_requests_as_it_has_blocks(
    tmp_path: Path, size_bytes: int, methods: list[str]
) -> None:
    content = random.Random(11).randbytes(size_bytes)
    async with ScriptedServer(CountingStore(content)) as server:
        gateway = await asyncio.to_thread(start_gateway, tmp_path, origin=server.url)
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                answers = await asyncio.gather(*(client.get(f"{gateway.url}/b/k") for _ in range(4)))
                assert all((answer.status_code, answer.content) == (200, content) for answer in answers)
                again = await client.get(f"{gateway.url}/b/k")
                assert (again.content, again.headers["x-cache"]) == (content, "HIT")
            assert sorted(request.method for request in server.requests) == methods
        finally:
            await asyncio.to_thread(gateway.stop)
