"""No wrong byte of another node makes a block: checksums from the last source, from another one, from the origin."""

from __future__ import annotations

import pytest

from proxy.blocks import ByteSink
from proxy.errors import BytesWrong
from proxy.fleet.fill_ids import ORIGIN, ZONE, is_unverified, new_fill_id
from proxy.fleet.protocol import WantedBlock
from proxy.fleet.view import AVOID_S
from proxy.ranges import ByteRange
from proxy.relay import relay as relay_module
from tests.fakes.memory import MemoryWriter
from tests.fakes.peers import (
    BLOCK_BYTES,
    MemoryRedis,
    breaks,
    gives,
)
from tests.relay.relayed_fill import BLOCK, SPAN, WRONG, hold, relayed_fill


async def test_a_wrong_checksum_throws_the_block_away_and_its_source_is_avoided() -> None:
    async with relayed_fill(sums=True) as t:
        owner = t.owners[0]
        t.peers.serves = {owner: [gives(BLOCK, crc=1)]}
        discarded = t.fleet.fleet_state.discarded(t.fleet.block_hash)
        with pytest.raises(BytesWrong):
            await t.fill()
        assert t.writer.outcome == "abandoned"
        assert t.fleet.view.avoids(owner)
        assert t.fleet.fleet_state.discarded(t.fleet.block_hash) != discarded, (
            "other workers that follow the fill must hear of it"
        )


async def test_a_node_that_lies_again_and_again_is_avoided_for_longer_each_time() -> None:
    """Its answers come in good order: they are no reason to trust it before they have been compared."""
    async with relayed_fill(2) as t:
        owner = t.owners[0]
        t.peers.serves = {owner: [gives(BLOCK, crc=1)]}
        for for_s in (AVOID_S, 2 * AVOID_S, 4 * AVOID_S):
            t.writer = MemoryWriter(BLOCK_BYTES)
            with pytest.raises(BytesWrong):
                await t.fill()
            t.fleet.now_s += for_s - 0.1
            assert t.fleet.view.avoids(owner)
            t.fleet.now_s += 0.2
            assert not t.fleet.view.avoids(owner)
        t.peers.serves = {owner: [gives(BLOCK)]}
        t.writer = MemoryWriter(BLOCK_BYTES)
        await t.fill()
        t.fleet.view.avoid(owner)
        t.fleet.now_s += AVOID_S
        assert not t.fleet.view.avoids(owner)


async def test_of_two_sources_the_one_whose_checksum_was_the_judge_is_not_avoided() -> None:
    async with relayed_fill(sums=True) as t:
        owner, liar = t.owners[0], t.owners[1]
        t.peers.names[owner] = [liar, owner]
        t.peers.serves = {liar: [breaks(liar, WRONG, 30, "unavailable")], owner: [gives(BLOCK)]}
        with pytest.raises(BytesWrong):
            await t.fill()
        assert t.fleet.view.avoids(liar)
        assert not t.fleet.view.avoids(owner)


async def test_a_source_that_dies_before_its_checksum_is_replaced_for_the_checksum_alone() -> None:
    async with relayed_fill() as t:
        owner, other = t.owners[0], t.owners[1]
        t.peers.names[owner] = [other, owner]
        t.peers.serves = {other: [breaks(other, BLOCK, 100)], owner: [gives(BLOCK)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.origin.asked == []
        assert t.peers.spans(owner) == [(99, 100)]


async def test_a_liar_that_never_gives_a_checksum_is_found_out_by_the_owners() -> None:
    async with relayed_fill(sums=True) as t:
        owner, liar = t.owners[0], t.owners[1]
        t.peers.names[owner] = [liar, owner]
        t.peers.serves = {liar: [gives(WRONG, tail=False)], owner: [gives(BLOCK)]}
        with pytest.raises(BytesWrong):
            await t.fill()
        assert t.fleet.view.avoids(liar)
        assert t.origin.asked == []


async def test_a_source_that_has_sent_all_and_still_checks_it_is_asked_again_for_the_checksum() -> None:
    async with relayed_fill() as t:
        owner = t.owners[0]
        t.peers.serves = {owner: [breaks(owner, BLOCK, 100, "silent"), gives(BLOCK)]}
        await t.fill()
        assert t.peers.spans(owner) == [(0, 100), (99, 100)]
        assert len(t.peers.asks) == 1
        assert t.origin.asked == []
        assert not t.fleet.view.avoids(owner)


@pytest.mark.parametrize("sums", [False, True])
async def test_bytes_that_no_checksum_covers_are_read_again_whatever_the_object_has(sums: bool) -> None:
    """Its own checksum comes too late for ranges of it, and for other nodes."""
    async with relayed_fill(2, sums=sums) as t:
        owner = t.owners[0]
        t.peers.serves = {owner: [breaks(owner, BLOCK, 100), breaks(owner, BLOCK, 0)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.writer.outcome == "committed"
        assert t.origin.asked == [SPAN]


async def test_wrong_bytes_that_no_checksum_covers_are_found_by_reading_again() -> None:
    async with relayed_fill(2) as t:
        owner = t.owners[0]
        t.peers.serves = {owner: [breaks(owner, WRONG, 50), breaks(owner, WRONG, 0)]}
        with pytest.raises(BytesWrong):
            await t.fill()
        assert t.origin.asked == [ByteRange(150, 200), ByteRange(100, 150)]
        assert t.writer.outcome == "abandoned"
        assert t.fleet.view.avoids(owner)


async def test_only_what_nodes_gave_before_the_origin_is_read_again_also_across_the_wrap() -> None:
    async with relayed_fill(2) as t:
        owner = t.owners[0]
        t.writer = MemoryWriter(BLOCK_BYTES, start=60)
        t.peers.serves = {owner: [gives(BLOCK), breaks(owner, BLOCK, 10), breaks(owner, BLOCK, 0)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.origin.asked == [ByteRange(110, 160), ByteRange(160, 200), ByteRange(100, 110)]


async def test_bytes_of_a_holder_behind_the_origins_own_are_read_again_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease was another node's and gave nothing; the rest of the block, behind the wrap, came from it after all."""
    monkeypatch.setattr(relay_module, "HOLDER_PAUSE_S", 0.001)
    monkeypatch.setattr(relay_module, "HOLDER_PATIENCE_S", 0.01)
    redis = MemoryRedis()
    async with relayed_fill(me=0, redis=redis) as t:
        holder = t.owners[2]
        hold(redis, t, holder)
        t.writer = MemoryWriter(BLOCK_BYTES, start=60)
        idle = breaks(holder, BLOCK, 0, "missing")

        async def turns(wanted: WantedBlock, sink: ByteSink) -> int | None:
            return await (breaks(holder, WRONG, 100) if wanted.last else idle)(wanted, sink)

        t.peers.serves = {holder: [turns]}
        with pytest.raises(BytesWrong):
            await t.fill()
        assert t.origin.asked[0] == ByteRange(160, 200)


async def test_a_fill_that_wraps_is_checked_as_a_whole_by_its_last_answer() -> None:
    async with relayed_fill() as t:
        owner = t.owners[0]
        t.writer = MemoryWriter(BLOCK_BYTES, start=60)
        t.peers.serves = {owner: [gives(BLOCK)]}
        await t.fill()
        assert bytes(t.writer.data) == BLOCK
        assert t.peers.spans(owner) == [(60, 100), (0, 60)]
        assert [wanted.last for _, wanted in t.peers.reads] == [False, True]


async def test_wrong_bytes_in_front_of_the_wrap_are_found_by_the_last_answers_checksum() -> None:
    async with relayed_fill() as t:
        owner = t.owners[0]
        t.writer = MemoryWriter(BLOCK_BYTES, start=60)
        t.peers.serves = {owner: [gives(WRONG), gives(BLOCK)]}
        with pytest.raises(BytesWrong):
            await t.fill()


@pytest.mark.parametrize("level", [ORIGIN, ZONE])
async def test_what_a_predecessor_left_is_checked_where_it_may_be_of_other_nodes(level: int) -> None:
    async with relayed_fill(me=0) as t:
        t.fleet.fleet_state.join(t.fleet.block_hash, new_fill_id(level))
        t.writer = MemoryWriter(BLOCK_BYTES, progress=40, content=BLOCK[:40])
        relay = await t.fill()
        assert relay.unverified == (level == ZONE)
        assert is_unverified(t.fleet.fleet_state.joined(t.fleet.block_hash)) == (level == ZONE)
        assert t.origin.asked == [ByteRange(140, 200)] + ([ByteRange(100, 140)] if level == ZONE else [])


async def test_wrong_bytes_of_a_predecessor_never_make_a_block() -> None:
    async with relayed_fill() as t:
        owner = t.owners[0]
        t.fleet.fleet_state.join(t.fleet.block_hash, new_fill_id(ZONE))
        t.writer = MemoryWriter(BLOCK_BYTES, progress=40, content=WRONG[:40])
        t.peers.serves = {owner: [gives(BLOCK)]}
        with pytest.raises(BytesWrong):
            await t.fill()
        assert t.peers.spans(owner) == [(40, 100)]
