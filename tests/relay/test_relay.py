"""A block from other nodes, whatever becomes of them: from the next one, from the next owner, from the origin once."""

from __future__ import annotations

import asyncio

import pytest

from proxy.blocks import ByteSink
from proxy.errors import OriginUnavailable
from proxy.fill.flight import Flights
from proxy.fill.limiter import FillLimiter
from proxy.fleet.fill_ids import ORIGIN, REGION, ZONE, is_unverified, new_fill_id
from proxy.fleet.protocol import WantedBlock
from proxy.fleet.state import RECEIVED_BYTES
from proxy.fleet.view import FleetView
from proxy.ranges import ByteRange
from proxy.relay import relay as relay_module
from proxy.relay.relay import OWNERS_MAX, SILENCES_MAX, SOURCES_MAX, Relays
from proxy.upstream.retry import RetryPolicy
from tests.fakes.memory import MemoryOrigin
from tests.fakes.peers import (
    MemoryRedis,
    Neighbours,
    breaks,
    gives,
    member,
    record_of,
)
from tests.relay.relayed_fill import BLOCK, CONTENT, INDEX, SPAN, relayed_fill


async def test_a_block_comes_from_the_source_that_its_owner_names() -> None:
    async with relayed_fill() as t:
        owner, other = t.owners[0], t.owners[1]
        t.peers.names[owner] = [other]
        t.peers.serves[other] = [gives(BLOCK)]
        relay = await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.writer.outcome == "committed"
        assert t.origin.asked == []
        assert [name for name, _ in t.peers.asks] == [owner]
        [(name, wanted)] = t.peers.reads
        assert (name, wanted.start, wanted.end, wanted.last) == (other, 0, 100, True)
        assert wanted.fill_id == t.peers.fill_ids[owner, ZONE]
        assert t.fleet.fleet_state.joined(t.fleet.block_hash) == wanted.fill_id
        assert relay.unverified
        assert t.fleet.fleet_state.total(RECEIVED_BYTES) == 100


async def test_the_zones_owner_asks_the_regions_and_that_one_the_origin() -> None:
    async with relayed_fill(me=0) as t:
        assert t.open().level == ORIGIN
        await t.fill()
        assert t.origin.asked == [SPAN]
        assert t.peers.asks == []
        assert not is_unverified(t.fleet.fleet_state.joined(t.fleet.block_hash))


async def test_two_zones_stand_one_above_the_other() -> None:
    record = record_of(CONTENT)
    members = [member(f"{number:02x}", "east" if number % 2 else "west") for number in range(8)]
    fleet = Neighbours(record, INDEX, members)
    zones = {each.node_id: each.zone for each in members}
    first = fleet.order[0]
    second = next(name for name in fleet.order if zones[name] != zones[first])
    levels = {}
    for each in members:
        view = FleetView(fleet.fleet_state, each.node_id)
        relays = Relays(view, fleet.peers, fleet.leases, 0)
        levels[each.node_id] = relays.level(fleet.block_hash)
        for below, allowed in ((REGION, {ORIGIN}), (ZONE, {ORIGIN, REGION})):
            opened = relays.open(MemoryOrigin(CONTENT), record, INDEX, SPAN, below)
            assert opened is not None
            assert opened.level in allowed
    assert levels.pop(first) == ORIGIN
    assert levels.pop(second) == REGION
    assert set(levels.values()) == {ZONE}
    fleet.close()


async def test_the_rest_of_a_block_whose_source_dies_in_mid_body_comes_from_the_owner() -> None:
    async with relayed_fill() as t:
        owner, other = t.owners[0], t.owners[1]
        t.peers.names[owner] = [other, owner]
        t.peers.serves = {other: [breaks(other, BLOCK, 30)], owner: [gives(BLOCK)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.origin.asked == []
        assert t.peers.spans(owner) == [(30, 100)]
        assert [ask.tried for _, ask in t.peers.asks] == [(), (other,)]
        assert t.fleet.view.avoids(other)
        assert not t.fleet.view.avoids(owner)


async def test_a_source_that_goes_silent_in_mid_body_is_asked_again_for_the_rest() -> None:
    async with relayed_fill() as t:
        owner = t.owners[0]
        t.peers.serves = {owner: [breaks(owner, BLOCK, 30, "silent"), breaks(owner, BLOCK, 20, "silent"), gives(BLOCK)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.peers.spans(owner) == [(0, 100), (30, 100), (50, 100)]
        assert len(t.peers.asks) == 1
        assert not t.fleet.view.avoids(owner)


async def test_a_source_that_gives_a_little_and_goes_silent_each_time_is_left() -> None:
    async with relayed_fill() as t:
        owner, other = t.owners[0], t.owners[1]
        t.peers.names[owner] = [other, owner]
        t.peers.serves = {other: [breaks(other, BLOCK, 10, "silent")] * 9, owner: [gives(BLOCK)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.peers.spans(other) == [(10 * number, 100) for number in range(SILENCES_MAX)]
        assert t.fleet.view.avoids(other)


async def test_an_owner_that_names_again_what_was_tried_is_not_asked_on() -> None:
    async with relayed_fill() as t:
        owner, other = t.owners[0], t.owners[1]
        t.peers.names[owner] = [other, other, other]
        t.peers.serves = {other: [breaks(other, BLOCK, 0, "wrong")], t.owners[2]: [gives(BLOCK)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert [ask.tried for name, ask in t.peers.asks if name == owner] == [(), (other,)]
        assert t.peers.spans(other)[0] == (0, 100)


async def test_a_source_that_is_silent_from_the_start_is_left() -> None:
    async with relayed_fill() as t:
        owner, other = t.owners[0], t.owners[1]
        t.peers.names[owner] = [other, owner]
        t.peers.serves = {other: [breaks(other, BLOCK, 0, "silent")], owner: [gives(BLOCK)]}
        await t.fill()
        assert t.peers.spans(other) == [(0, 100)]
        assert t.fleet.view.avoids(other)


@pytest.mark.parametrize("reason", ["busy", "missing", "unavailable"])
async def test_a_source_that_has_nothing_is_passed_by_and_not_avoided(reason: str) -> None:
    async with relayed_fill() as t:
        owner, other = t.owners[0], t.owners[1]
        t.peers.names[owner] = [other, owner]
        t.peers.serves = {other: [breaks(other, BLOCK, 0, reason)], owner: [gives(BLOCK)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert not t.fleet.view.avoids(other)


async def test_a_source_that_this_node_does_not_know_and_this_node_itself_are_passed_by() -> None:
    async with relayed_fill() as t:
        owner = t.owners[0]
        t.peers.names[owner] = ["ff", t.fleet.me, owner]
        t.peers.serves = {owner: [gives(BLOCK)]}
        await t.fill()
        assert [ask.tried for _, ask in t.peers.asks] == [(), ("ff",), ("ff", t.fleet.me)]
        assert [name for name, _ in t.peers.reads] == [owner]


async def test_an_owner_that_is_gone_is_followed_by_the_next_in_the_hash_order() -> None:
    async with relayed_fill() as t:
        t.peers.gone = {t.owners[0]}
        t.peers.serves = {t.owners[1]: [gives(BLOCK)]}
        await t.fill()
        assert [name for name, _ in t.peers.asks] == t.owners[:2]
        assert t.fleet.view.avoids(t.owners[0])
        assert t.origin.asked == []


async def test_where_nobody_is_left_the_origin_is_asked_for_the_rest_under_the_lease() -> None:
    redis = MemoryRedis()
    async with relayed_fill(5, sums=True, redis=redis) as t:
        owner = t.owners[0]
        t.peers.gone = set(t.owners[1:])
        t.peers.names[owner] = [owner, None]
        t.peers.serves = {owner: [breaks(owner, BLOCK, 40)]}
        seen: list[dict[str, str]] = []

        async def script(number: int, sent: int) -> None:
            seen.append(dict(redis.keys))

        t.origin.script = script
        relay = await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.origin.asked == [ByteRange(140, 200), ByteRange(100, 140)]
        assert relay.level == ORIGIN
        [held] = {text for keys in seen for text in keys.values()}
        assert f'"node":"{t.fleet.me}"' in held
        await t.fleet.leases.aclose()
        [after] = redis.keys.values()
        assert '"done":true' in after


async def test_no_more_sources_and_owners_are_tried_than_the_limits_say() -> None:
    async with relayed_fill(12, sums=True) as t:
        for owner in t.owners:
            t.peers.names[owner] = [f"{number:x}" for number in range(1000, 1100)]
        await t.fill()
        for level in (ZONE, REGION):
            assert len([ask for _, ask in t.peers.asks if ask.level == level]) == OWNERS_MAX * SOURCES_MAX
        assert t.origin.asked == [SPAN]


async def test_an_owner_that_answers_for_another_level_helps_nobody() -> None:
    async with relayed_fill(2) as t:
        t.peers.fill_ids = {(t.owners[0], ZONE): new_fill_id(REGION), (t.owners[0], REGION): new_fill_id(ZONE)}
        await t.fill()
        assert t.peers.reads == []
        assert t.origin.asked == [SPAN]


async def test_a_source_that_is_given_up_in_mid_write_has_that_write_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are in the block: asked for again, they would stand there twice."""
    async with relayed_fill() as t:
        owner, other = t.owners[0], t.owners[1]
        monkeypatch.setattr(relay_module, "STEP_MAX_S", 0.05)
        barrier = t.writer.barrier = asyncio.Event()
        t.peers.names[owner] = [other, owner]

        async def serve(wanted: WantedBlock, sink: ByteSink) -> int | None:
            asyncio.get_running_loop().call_later(0.15, barrier.set)
            return await gives(BLOCK)(wanted, sink)

        t.peers.serves = {other: [serve], owner: [gives(BLOCK)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.peers.spans(owner) == [(10, 100)]


async def test_an_origin_that_fails_for_good_leaves_what_came_to_the_next_fill() -> None:
    async with relayed_fill(2) as t:
        owner = t.owners[0]
        t.peers.serves = {owner: [breaks(owner, BLOCK, 40)]}
        t.flights = Flights(FillLimiter(bytes_in_flight_max=1 << 20, fills_max=4), RetryPolicy(deadline_s=0))
        discarded = t.fleet.fleet_state.discarded(t.fleet.block_hash)

        async def script(number: int, sent: int) -> None:
            raise OriginUnavailable("down")

        t.origin.script = script
        with pytest.raises(OriginUnavailable):
            await t.fill()
        assert t.writer.outcome == "left"
        assert t.fleet.fleet_state.discarded(t.fleet.block_hash) == discarded
        assert is_unverified(t.fleet.fleet_state.joined(t.fleet.block_hash))


async def test_an_origin_that_is_this_nodes_own_has_no_relay() -> None:
    async with relayed_fill() as t:
        relays = Relays(t.fleet.view, t.peers, t.fleet.leases, 0, frozenset({"s3://test"}))
        assert relays.open(t.origin, t.record, INDEX, SPAN) is None


async def test_a_node_alone_asks_its_origin() -> None:
    async with relayed_fill(1) as t:
        await t.fill()
        assert t.origin.asked == [SPAN]
