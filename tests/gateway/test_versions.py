"""When the origin is asked, and what is believed without asking."""

from __future__ import annotations

import asyncio

import pytest

from proxy.errors import NotFound, OriginUnavailable
from proxy.gateway.answers import CacheStatus
from proxy.gateway.routes import Consistency
from proxy.objects import ObjectName
from tests.gateway.engine import Rig, body_bytes

OLD, NEW = b"old content", b"new and longer content"


async def begin_outage(rig: Rig) -> None:
    """A known object, due, whose origin is down, in a bucket that serves stale."""
    rig.rule(stale_if_error_s=3600.0)
    rig.origin.put("k", OLD)
    await rig.get("k")
    rig.origin.down = True
    rig.now_s += 100


async def test_a_record_is_asked_for_again_once_its_time_is_over(rig: Rig) -> None:
    rig.origin.put("k", OLD)
    await rig.get("k")
    rig.now_s += 59
    await rig.get("k")
    assert rig.origin.heads == 1
    rig.now_s += 2
    await asyncio.gather(*(rig.get("k") for _ in range(8)))
    assert rig.origin.heads == 2
    assert len(rig.origin.reads) == 1


async def test_a_lowered_ttl_works_at_once(rig: Rig) -> None:
    rig.origin.put("k", OLD)
    await rig.get("k")
    rig.now_s += 10
    rig.rule(ttl_s=5.0)
    rig.origin.put("k", NEW)
    assert await rig.get("k") == NEW


async def test_an_immutable_bucket_asks_once(rig: Rig) -> None:
    rig.rule(consistency=Consistency.IMMUTABLE)
    rig.origin.put("k", OLD)
    await rig.get("k")
    rig.now_s += 1e9
    assert await rig.get("k") == OLD
    assert rig.origin.heads == 1


async def test_a_strong_bucket_shows_every_change_to_the_next_read(rig: Rig) -> None:
    rig.rule(consistency=Consistency.STRONG)
    for content in (OLD, NEW, OLD, NEW):
        rig.origin.put("k", content)
        assert await rig.get("k") == content


async def test_a_strong_read_never_joins_a_question_asked_before_it_came(rig: Rig) -> None:
    rig.rule(consistency=Consistency.STRONG)
    rig.origin.put("k", OLD)
    asked, answer_now = asyncio.Event(), asyncio.Event()
    old = rig.origin.objects["k"]

    async def before_head() -> None:
        asked.set()
        await answer_now.wait()

    rig.origin.before_head = before_head
    first = asyncio.ensure_future(rig.read("k", head_only=True))
    await asked.wait()
    later = [asyncio.ensure_future(rig.read("k", head_only=True)) for _ in range(5)]
    await asyncio.sleep(0)
    answer_now.set()
    await first
    await asyncio.gather(*later)
    assert rig.origin.heads == 2
    assert old is rig.origin.objects["k"]


async def test_no_cache_from_a_client_asks_the_origin(rig: Rig) -> None:
    rig.origin.put("k", OLD)
    await rig.get("k")
    rig.origin.put("k", NEW)
    assert await rig.get("k", revalidate=True) == NEW


async def test_a_down_origin_fails_a_due_read_and_serves_a_fresh_one(rig: Rig) -> None:
    rig.origin.put("k", OLD)
    await rig.get("k")
    rig.origin.down = True
    assert await rig.get("k") == OLD
    rig.now_s += 61
    with pytest.raises(OriginUnavailable):
        await rig.get("k")


async def test_stale_if_error_serves_what_is_due_and_leaves_the_origin_alone_for_a_while(rig: Rig) -> None:
    await begin_outage(rig)
    for _ in range(5):
        answer = await rig.read("k")
        assert answer.cache is CacheStatus.STALE
        assert await body_bytes(answer) == OLD
    assert rig.origin.heads == 2
    rig.now_s += 3
    rig.origin.down = False
    async with asyncio.timeout(10):
        while (await rig.read("k")).cache is CacheStatus.STALE:
            await asyncio.sleep(0.001)
    assert rig.origin.heads == 3
    rig.origin.down = True
    rig.now_s += 4000
    with pytest.raises(OriginUnavailable):
        await rig.get("k")


async def test_a_down_origin_that_never_answers_costs_later_readers_no_wait(rig: Rig) -> None:
    await begin_outage(rig)
    await rig.get("k")
    rig.now_s += 3

    async def never() -> None:
        await asyncio.Event().wait()

    rig.origin.before_head = never
    for _ in range(3):
        answer = await asyncio.wait_for(rig.read("k"), 10)
        assert answer.cache is CacheStatus.STALE
        assert await body_bytes(answer) == OLD
    assert rig.origin.heads == 3


async def test_an_outage_of_long_ago_is_no_reason_to_serve_stale(rig: Rig) -> None:
    await begin_outage(rig)
    await rig.get("k")
    rig.origin.down = False
    rig.origin.put("k", NEW)
    rig.now_s += 600
    assert await rig.get("k") == NEW


async def test_not_found_is_kept_only_where_a_bucket_asks_for_it(rig: Rig) -> None:
    for _ in range(2):
        with pytest.raises(NotFound):
            await rig.get("k")
    assert rig.origin.heads == 2
    rig.rule(negative_ttl_s=10.0)
    for _ in range(3):
        with pytest.raises(NotFound):
            await rig.get("k")
    assert rig.origin.heads == 3
    rig.origin.put("k", OLD)
    rig.now_s += 11
    assert await rig.get("k") == OLD


async def test_a_deleted_object_is_gone_after_its_time_also_from_disk(rig: Rig) -> None:
    rig.origin.put("k", OLD)
    await rig.get("k")
    del rig.origin.objects["k"]
    rig.now_s += 61
    with pytest.raises(NotFound):
        await rig.get("k")
    assert rig.store.keys.read(rig.bucket.object_key(ObjectName("b", "k"))) is None


async def test_an_invalidation_counts_at_once(rig: Rig) -> None:
    rig.origin.put("k", OLD)
    await rig.get("k")
    fence = rig.store.keys.fence(rig.bucket.object_key(ObjectName("b", "k")))
    rig.origin.put("k", NEW)
    assert await rig.get("k") == NEW
    fence.lift()
    assert await rig.get("k") == NEW


async def test_an_answer_asked_for_before_a_write_is_not_installed(rig: Rig) -> None:
    rig.origin.put("k", OLD)
    asked, answer_now = asyncio.Event(), asyncio.Event()
    old_record = rig.origin.objects["k"]

    async def before_head() -> None:
        asked.set()
        rig.origin.before_head = None
        await answer_now.wait()

    rig.origin.before_head = before_head
    slow = asyncio.ensure_future(rig.read("k", head_only=True))
    await asked.wait()
    fence = rig.store.keys.fence(rig.bucket.object_key(ObjectName("b", "k")))
    fence.lift()
    answer_now.set()
    await slow
    rig.origin.put("k", NEW)
    assert old_record is not rig.origin.objects["k"]
    assert await rig.get("k") == NEW
