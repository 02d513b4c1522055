"""When the origin is asked, and what is believed without asking."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import NotFound, OriginUnavailable
from proxy.gateway.answers import CacheStatus
from proxy.gateway.routes import Consistency
from proxy.objects import ObjectName
from tests.gateway.engine import Engine, body_bytes

OLD, NEW = b"old content", b"new and longer content"


async def begin_outage(engine: Engine) -> None:
    """A known object, due, whose origin is down, in a bucket that serves stale."""
    engine.rule(stale_if_error_s=3600.0)
    engine.origin.put("k", OLD)
    await engine.get("k")
    engine.origin.down = True
    engine.now_s += 100


async def test_a_record_is_asked_for_again_once_its_time_is_over(engine: Engine) -> None:
    engine.origin.put("k", OLD)
    await engine.get("k")
    engine.now_s += 59
    await engine.get("k")
    assert engine.origin.heads == 1
    engine.now_s += 2
    await asyncio.gather(*(engine.get("k") for _ in range(8)))
    assert engine.origin.heads == 2
    assert len(engine.origin.reads) == 1


async def test_a_lowered_ttl_works_at_once(engine: Engine) -> None:
    engine.origin.put("k", OLD)
    await engine.get("k")
    engine.now_s += 10
    engine.rule(ttl_s=5.0)
    engine.origin.put("k", NEW)
    assert await engine.get("k") == NEW


async def test_an_immutable_bucket_asks_once(engine: Engine) -> None:
    engine.rule(consistency=Consistency.IMMUTABLE)
    engine.origin.put("k", OLD)
    await engine.get("k")
    engine.now_s += 1e9
    assert await engine.get("k") == OLD
    assert engine.origin.heads == 1


async def test_a_strong_bucket_shows_every_change_to_the_next_read(engine: Engine) -> None:
    engine.rule(consistency=Consistency.STRONG)
    for content in (OLD, NEW, OLD, NEW):
        engine.origin.put("k", content)
        assert await engine.get("k") == content


async def test_a_strong_read_never_joins_a_question_asked_before_it_came(engine: Engine) -> None:
    engine.rule(consistency=Consistency.STRONG)
    engine.origin.put("k", OLD)
    asked, answer_now = asyncio.Event(), asyncio.Event()
    old = engine.origin.objects["k"]

    async def before_head() -> None:
        asked.set()
        await answer_now.wait()

    engine.origin.before_head = before_head
    first = asyncio.ensure_future(engine.read("k", head_only=True))
    await asked.wait()
    later = [asyncio.ensure_future(engine.read("k", head_only=True)) for _ in range(5)]
    await asyncio.sleep(0)
    answer_now.set()
    await first
    await asyncio.gather(*later)
    assert engine.origin.heads == 2
    assert old is engine.origin.objects["k"]


async def test_no_cache_from_a_client_asks_the_origin(engine: Engine) -> None:
    engine.origin.put("k", OLD)
    await engine.get("k")
    engine.origin.put("k", NEW)
    assert await engine.get("k", revalidate=True) == NEW


async def test_a_down_origin_fails_a_due_read_and_serves_a_fresh_one(engine: Engine) -> None:
    engine.origin.put("k", OLD)
    await engine.get("k")
    engine.origin.down = True
    assert await engine.get("k") == OLD
    engine.now_s += 61
    with pytest.raises(OriginUnavailable):
        await engine.get("k")


async def test_stale_if_error_serves_what_is_due_and_leaves_the_origin_alone_for_a_while(engine: Engine) -> None:
    await begin_outage(engine)
    for _ in range(5):
        answer = await engine.read("k")
        assert answer.cache is CacheStatus.STALE
        assert await body_bytes(answer) == OLD
    assert engine.origin.heads == 2
    engine.now_s += 3
    engine.origin.down = False
    async with asyncio.timeout(10):
        while (await engine.read("k")).cache is CacheStatus.STALE:
            await asyncio.sleep(0.001)
    assert engine.origin.heads == 3
    engine.origin.down = True
    engine.now_s += 4000
    with pytest.raises(OriginUnavailable):
        await engine.get("k")


async def test_a_down_origin_that_never_answers_costs_later_readers_no_wait(engine: Engine) -> None:
    await begin_outage(engine)
    await engine.get("k")
    engine.now_s += 3

    async def never() -> None:
        await asyncio.Event().wait()

    engine.origin.before_head = never
    for _ in range(3):
        answer = await asyncio.wait_for(engine.read("k"), 10)
        assert answer.cache is CacheStatus.STALE
        assert await body_bytes(answer) == OLD
    assert engine.origin.heads == 3


async def test_an_outage_of_long_ago_is_no_reason_to_serve_stale(engine: Engine) -> None:
    await begin_outage(engine)
    await engine.get("k")
    engine.origin.down = False
    engine.origin.put("k", NEW)
    engine.now_s += 600
    assert await engine.get("k") == NEW


async def test_not_found_is_kept_only_where_a_bucket_asks_for_it(engine: Engine) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            await engine.get("k")
    assert engine.origin.heads == 2
    engine.rule(negative_ttl_s=10.0)
    for _ in range(3):
        with pytest.raises(NotFound):
            await engine.get("k")
    assert engine.origin.heads == 3
    engine.origin.put("k", OLD)
    engine.now_s += 11
    assert await engine.get("k") == OLD


async def test_a_deleted_object_is_gone_after_its_time_also_from_disk(engine: Engine) -> None:
    engine.origin.put("k", OLD)
    await engine.get("k")
    del engine.origin.objects["k"]
    engine.now_s += 61
    with pytest.raises(NotFound):
        await engine.get("k")
    assert engine.store.keys.read(engine.bucket.object_key(ObjectName("b", "k"))) is None


async def test_an_invalidation_counts_at_once(engine: Engine) -> None:
    engine.origin.put("k", OLD)
    await engine.get("k")
    fence = engine.store.keys.fence(engine.bucket.object_key(ObjectName("b", "k")))
    engine.origin.put("k", NEW)
    assert await engine.get("k") == NEW
    fence.lift()
    assert await engine.get("k") == NEW


async def test_an_answer_asked_for_before_a_write_is_not_installed(engine: Engine) -> None:
    engine.origin.put("k", OLD)
    asked, answer_now = asyncio.Event(), asyncio.Event()
    old_record = engine.origin.objects["k"]

    async def before_head() -> None:
        asked.set()
        engine.origin.before_head = None
        await answer_now.wait()

    engine.origin.before_head = before_head
    slow = asyncio.ensure_future(engine.read("k", head_only=True))
    await asked.wait()
    fence = engine.store.keys.fence(engine.bucket.object_key(ObjectName("b", "k")))
    fence.lift()
    answer_now.set()
    await slow
    engine.origin.put("k", NEW)
    assert old_record is not engine.origin.objects["k"]
    assert await engine.get("k") == NEW
