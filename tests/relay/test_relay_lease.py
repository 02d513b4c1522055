"""Who asks the origin for a block: the node that has its lease; all others read there."""

from __future__ import annotations

import pytest

from proxy.blocks import ByteSink
from proxy.errors import StoreUnavailable
from proxy.fleet.fill_ids import LEASED, level_of
from proxy.fleet.protocol import WantedBlock
from proxy.ranges import ByteRange
from proxy.relay import relay as relay_module
from proxy.relay.errors import PeerFailed
from tests.fakes.memory import pump
from tests.fakes.peers import (
    MemoryRedis,
    breaks,
    gives,
)
from tests.relay.relayed_fill import BLOCK, SPAN, hold, relayed_fill


async def test_a_block_whose_lease_another_node_holds_is_read_there() -> None:
    redis = MemoryRedis()
    async with relayed_fill(me=0, redis=redis) as t:
        holder = t.owners[2]
        fill_id = hold(redis, t, holder)
        t.peers.serves = {holder: [gives(BLOCK)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.origin.asked == []
        [(name, wanted)] = t.peers.reads
        assert (name, wanted.fill_id) == (holder, fill_id)
        assert level_of(t.fleet.fleet_state.joined(t.fleet.block_hash)) == LEASED
        assert len(redis.keys) == 1
        assert holder in next(iter(redis.keys.values()))


@pytest.mark.parametrize("done", [True, False])
async def test_a_holder_that_is_no_member_for_this_node_is_read_at_the_url_that_its_lease_names(done: bool) -> None:
    """Nodes see each other come at different times: the block must not leave the origin twice for that."""
    redis = MemoryRedis()
    async with relayed_fill(me=0, redis=redis) as t:
        hold(redis, t, "ffff", done=done, url="http://stranger")
        t.peers.serves = {"ffff": [gives(BLOCK)]}
        await t.fill()
        assert t.origin.asked == []


async def test_a_holder_that_nobody_can_find_is_not_waited_for_when_it_has_done() -> None:
    redis = MemoryRedis()
    async with relayed_fill(me=0, redis=redis) as t:
        hold(redis, t, "ffff", done=True)
        await t.fill()
        assert t.origin.asked == [SPAN]


async def test_a_lease_that_says_done_is_taken_over_where_the_block_is_there_no_more() -> None:
    redis = MemoryRedis()
    async with relayed_fill(me=0, redis=redis) as t:
        holder = t.owners[2]
        hold(redis, t, holder, done=True)
        t.peers.serves = {holder: [breaks(holder, BLOCK, 0, "missing")]}
        await t.fill()
        assert t.origin.asked == [SPAN]
        await t.fleet.leases.aclose()
        assert f'"node":"{t.fleet.me}"' in next(iter(redis.keys.values()))


async def test_a_holder_that_gives_nothing_is_waited_for_and_then_the_origin_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "HOLDER_PAUSE_S", 0.001)
    monkeypatch.setattr(relay_module, "HOLDER_PATIENCE_S", 0.05)
    redis = MemoryRedis()
    async with relayed_fill(me=0, redis=redis) as t:
        holder = t.owners[2]
        hold(redis, t, holder)
        t.peers.serves = {holder: [breaks(holder, BLOCK, 0, "missing")]}
        await t.fill()
        assert t.origin.asked == [SPAN]
        assert len(t.peers.reads) > 1
        assert holder in next(iter(redis.keys.values())), "it is still that node's lease"


async def test_a_holder_that_lets_go_is_followed_by_this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "HOLDER_PAUSE_S", 0.001)
    redis = MemoryRedis()
    async with relayed_fill(me=0, sums=True, redis=redis) as t:
        holder = t.owners[2]
        hold(redis, t, holder)

        async def last_words(wanted: WantedBlock, sink: ByteSink) -> int | None:
            await pump(sink, BLOCK[:25])
            redis.keys.clear()
            raise PeerFailed(holder, "gone", "as scripted")

        t.peers.serves = {holder: [last_words]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.origin.asked == [ByteRange(125, 200), ByteRange(100, 125)]


async def test_without_redis_the_origin_is_asked_at_once() -> None:
    redis = MemoryRedis()
    redis.error = OSError("no route")
    async with relayed_fill(me=0, redis=redis) as t:
        await t.fill()
        assert t.origin.asked == [SPAN]


async def test_a_fill_that_fails_gives_its_lease_back() -> None:
    redis = MemoryRedis()
    async with relayed_fill(me=0, redis=redis) as t:

        async def script(number: int, sent: int) -> None:
            raise StoreUnavailable("full")

        t.origin.script = script
        with pytest.raises(StoreUnavailable):
            await t.fill()
        await t.fleet.leases.aclose()
        assert redis.keys == {}
