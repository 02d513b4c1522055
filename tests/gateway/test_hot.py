"""Reads answered at once: the same as `read`, and only while that is sure."""

from __future__ import annotations

import asyncio
import gc
import os
import random
from pathlib import Path

import pytest

from proxy.conditions import Conditions
from proxy.errors import WarmstartError
from proxy.fill.coverage import PEEK_BLOCKS_MAX
from proxy.gateway.answers import CacheStatus, ReadObject
from proxy.gateway.hot import HotRead, Peeked
from proxy.gateway.routes import Consistency
from proxy.objects import ObjectName, SumKind
from proxy.ranges import parse_range
from tests.gateway.engine import BLOCK_BYTES, Engine, body_bytes, piece_bytes

CONTENT = random.Random(9).randbytes(3 * BLOCK_BYTES + 77)
NEW = random.Random(10).randbytes(len(CONTENT))


def prepare(engine: Engine, key: str = "k", **more: object) -> HotRead:
    hot = engine.gateway.prepare(ReadObject(ObjectName("b", key), **more))  # type: ignore[arg-type]
    assert hot is not None
    return hot


async def warm(engine: Engine, key: str = "k", content: bytes = CONTENT, **more: object) -> HotRead:
    """The object is here and checked; its read, prepared."""
    engine.origin.put(key, content, **more)  # type: ignore[arg-type]
    assert await engine.get(key) == content
    await engine.quiet()
    hot = prepare(engine, key)
    assert await again(hot) == content
    return hot


async def again(hot: HotRead) -> bytes | None:
    """What is answered at once as soon as anything is: a read is answered before what it found is remembered."""
    async with asyncio.timeout(10):
        while (peeked := hot.peek(None)) is None:
            await asyncio.sleep(0.001)
    return sent(peeked)


def sent(peeked: Peeked | None) -> bytes | None:
    return None if peeked is None else b"".join(piece_bytes(piece) for piece in peeked.pieces)


async def test_nothing_known_is_never_answered_at_once(engine: Engine) -> None:
    engine.origin.put("k", CONTENT)
    hot = prepare(engine)
    assert hot.peek(None) is None
    await engine.get("k", 0, 0)
    assert hot.peek(b"bytes=0-0") is None or engine.flights.count() == 0
    assert hot.peek(None) is None


@pytest.mark.parametrize("range_header", [None, "bytes=5-9", "bytes=-7", "bytes=1-", "nonsense"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"head_only": True},
        {"conditions": Conditions(if_match='"k-1"')},
        {"conditions": Conditions(if_none_match='"k-1"')},
        {"conditions": Conditions(if_range='"other"')},
        {"conditions": Conditions(if_match='"other"')},
    ],
)
async def test_answer_is_the_one_that_read_gives(
    engine: Engine, more: dict[str, object], range_header: str | None
) -> None:
    await warm(engine)
    request = ReadObject(ObjectName("b", "k"), range=parse_range(range_header), **more)  # type: ignore[arg-type]
    hot = engine.gateway.prepare(request)
    assert hot is not None
    peeked = hot.peek(None if range_header is None else range_header.encode())
    try:
        answer = await engine.gateway.read(request)
    except WarmstartError:
        assert peeked is None
        return
    assert peeked is not None
    mine = peeked.answer()
    assert (mine.record, mine.span, mine.not_modified) == (answer.record, answer.span, answer.not_modified)
    assert mine.cache is answer.cache is CacheStatus.HIT
    assert sent(peeked) == (b"" if answer.body is None else await body_bytes(answer))


@pytest.mark.parametrize("header", ["bytes=99999999-", "bytes=-0"])
async def test_range_that_is_not_there_is_asked_of_the_origin(engine: Engine, header: str) -> None:
    hot = await warm(engine)
    assert hot.peek(header.encode()) is None


@pytest.mark.parametrize("more", [{"revalidate": True}, {"part_number": 1}])
async def test_what_always_needs_the_origin_is_not_prepared(engine: Engine, more: dict[str, object]) -> None:
    assert engine.gateway.prepare(ReadObject(ObjectName("b", "k"), **more)) is None  # type: ignore[arg-type]
    engine.rule(consistency=Consistency.STRONG)
    assert engine.gateway.prepare(ReadObject(ObjectName("b", "k"))) is None


async def test_invalidation_by_any_process_ends_it_at_once(engine: Engine) -> None:
    hot = await warm(engine)
    key = engine.bucket.object_key(ObjectName("b", "k"))
    engine.store.keys.remove(key)  # what another worker does
    assert hot.peek(None) is None
    engine.origin.put("k", NEW)
    assert await engine.get("k") == NEW
    await engine.quiet()
    assert await again(hot) == NEW


async def test_key_is_not_answered_while_a_write_fences_it(engine: Engine) -> None:
    hot = await warm(engine)
    key = engine.bucket.object_key(ObjectName("b", "k"))
    fence = engine.store.keys.fence(key)
    assert hot.peek(None) is None
    assert await engine.get("k") == CONTENT  # resolved at the origin, and not kept
    assert hot.peek(None) is None
    fence.lift()
    assert hot.peek(None) is None
    assert await engine.get("k") == CONTENT
    assert await again(hot) == CONTENT


async def test_record_that_is_due_is_not_used(engine: Engine) -> None:
    hot = await warm(engine)
    engine.now_s += engine.bucket.ttl_s - 1
    assert hot.peek(None) is not None
    engine.now_s += 1
    assert hot.peek(None) is None
    await engine.get("k")
    assert await again(hot) == CONTENT
    engine.now_s -= 3600  # the clock was set back
    assert hot.peek(None) is None


async def test_revalidated_record_takes_the_place_of_the_old_one(engine: Engine) -> None:
    hot = await warm(engine)
    engine.origin.put("k", NEW)
    assert await engine.get("k", revalidate=True) == NEW
    await engine.quiet()
    async with asyncio.timeout(10):
        while await again(hot) != NEW:
            await asyncio.sleep(0.001)


async def test_memory_that_gave_way_is_not_used_beside_a_newer_one(tmp_path: Path) -> None:
    engine = Engine(tmp_path, keys_max=1)
    hot = await warm(engine)
    engine.origin.put("other", b"x")
    await engine.get("other")  # pushes `k` out of memory
    engine.origin.put("k", NEW)
    assert await engine.get("k", revalidate=True) == NEW
    await engine.quiet()
    async with asyncio.timeout(10):
        while sent(hot.peek(None)) not in (NEW, None):
            await asyncio.sleep(0.001)
    await engine.aclose()


async def test_retired_segment_is_not_read_any_more(engine: Engine) -> None:
    hot = await warm(engine)
    record = engine.origin.objects["k"][0]
    engine.store.discard(record.version)
    assert hot.peek(None) is None
    assert await engine.get("k") == CONTENT
    await engine.quiet()
    assert sent(hot.peek(None)) == CONTENT


async def test_file_that_was_cut_short_is_not_read_any_more(engine: Engine) -> None:
    hot = await warm(engine)
    peeked = hot.peek(None)
    assert peeked is not None
    os.truncate(f"/proc/self/fd/{peeked.pieces[0].file.fd}", BLOCK_BYTES)
    assert hot.peek(b"bytes=0-9") is None
    assert await engine.get("k") == CONTENT


async def test_failed_disk_is_not_read_any_more(engine: Engine) -> None:
    hot = await warm(engine)
    engine.store.disks[0].fail(OSError(5, "Input/output error"))
    assert hot.peek(None) is None


async def test_body_whose_checksum_is_still_to_be_compared_is_not_answered_at_once(engine: Engine) -> None:
    record = engine.origin.put("k", CONTENT, sums=(SumKind.CRC32C,))
    await engine.get("k", 0, len(CONTENT) - 2)
    await engine.quiet()
    hot = prepare(engine)
    engine.verifier.doubt(record)
    assert sent(hot.peek(b"bytes=0-99")) == CONTENT[:100]
    assert hot.peek(None) is None
    assert hot.peek(b"bytes=-1") is None
    assert await engine.get("k") == CONTENT
    assert sent(hot.peek(None)) == CONTENT


async def test_version_that_failed_its_checksum_twice_is_not_answered_at_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = await warm(engine)
    monkeypatch.setattr(engine.verifier, "troubled", True)
    monkeypatch.setattr(engine.verifier, "hopeless", lambda record: True)
    assert hot.peek(None) is None


async def test_uncacheable_object_is_not_answered_at_once(engine: Engine) -> None:
    engine.origin.put("k", CONTENT, cacheable=False)
    await engine.get("k")
    assert prepare(engine).peek(None) is None


async def test_prepared_read_keeps_no_file_open(engine: Engine) -> None:
    hot = await warm(engine)
    engine.store.close()
    gc.collect()
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _link(fd)]
    assert not [path for path in held if str(engine.store.disks[0].path) in path and path.endswith(".data")]
    assert hot.peek(None) is None


def _link(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


async def test_object_of_many_segments_gives_the_bytes_asked_for(tmp_path: Path) -> None:
    engine = Engine(tmp_path, segment_bytes=2 * BLOCK_BYTES)
    content = random.Random(11).randbytes(7 * BLOCK_BYTES + 5)
    hot = await warm(engine, content=content)
    assert engine.store.segment_blocks == 2
    chance = random.Random(12)
    for _ in range(200):
        first = chance.randrange(len(content))
        last = min(len(content) - 1, first + chance.choice((0, 10, BLOCK_BYTES, 4 * BLOCK_BYTES)))
        assert sent(hot.peek(f"bytes={first}-{last}".encode())) == content[first : last + 1]
    await engine.aclose()


async def test_object_of_too_many_blocks_to_look_at_is_left_to_the_application(tmp_path: Path) -> None:
    engine = Engine(tmp_path, block_bytes=64 << 10)
    content = random.Random(13).randbytes((PEEK_BLOCKS_MAX + 1) * (64 << 10))
    engine.origin.put("k", content)
    await engine.get("k")
    await engine.quiet()
    hot = prepare(engine)
    assert hot.peek(None) is None
    assert sent(hot.peek(b"bytes=100-199")) == content[100:200]
    await engine.aclose()


async def test_segments_looked_at_past_the_store_count_as_used_there(tmp_path: Path) -> None:
    engine = Engine(tmp_path, max_open_segments=2)
    hot = await warm(engine)
    for number in range(5):
        engine.origin.put(f"other-{number}", b"x")
        await engine.get(f"other-{number}")
        await engine.quiet()
        assert sent(hot.peek(b"bytes=0-9")) == CONTENT[:10]
    await engine.aclose()
