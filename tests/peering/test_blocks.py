"""Blocks for other nodes: a whole one for every member, an unfinished one within its fill, a new one as its owner."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.blocks import ByteSink
from proxy.errors import StoreUnavailable
from proxy.fleet.fill_ids import LEASED, ORIGIN, REGION, ZONE, level_of, new_fill_id
from proxy.fleet.protocol import WantedBlock
from proxy.fleet.state import SENT_BYTES
from proxy.objects import ObjectVersion
from proxy.peering import blocks as blocks_module
from proxy.relay.errors import PeerFailed
from tests.fakes.peers import crc32c, gives
from tests.gateway.engine import BLOCK_BYTES, Engine
from tests.peering.answering_node import (
    BLOCK,
    CONTENT,
    HALF,
    LAST_BYTES,
    AnsweringNode,
    AskingNode,
    OriginBarrier,
    own,
    start_answering_node,
    start_asking_node,
)
from tests.waiting import until
from tests.wire.sinks import CopyingSink

pytestmark = pytest.mark.usefixtures("impatient")


async def fails(asking: AskingNode, node: AnsweringNode, fill_id: int, **more: int) -> str:
    """Why it could not be read."""
    with pytest.raises(PeerFailed) as failed:
        await asking.read(node.wanted(fill_id, **more))
    return failed.value.reason


# Whole blocks.


@pytest.mark.parametrize("level", [ORIGIN, LEASED, REGION, ZONE])
async def test_a_whole_block_is_given_whatever_fill_it_is_wanted_for(
    node: AnsweringNode, asking: AskingNode, level: int
) -> None:
    await node.engine.get("k")
    assert await asking.read(node.wanted(new_fill_id(level))) == (BLOCK, crc32c(BLOCK))
    assert await asking.read(node.wanted(new_fill_id(level), 5, 100)) == (BLOCK[5:100], None)
    await node.quiet()
    assert node.fleet_state.total(SENT_BYTES) == BLOCK_BYTES + 95


async def test_the_last_block_of_an_object_is_shorter(node: AnsweringNode, asking: AskingNode) -> None:
    await node.engine.get("k")
    wanted = node.wanted(new_fill_id(ZONE), 0, LAST_BYTES, index=1, last=True)
    assert await asking.read(wanted) == (CONTENT[BLOCK_BYTES:], crc32c(CONTENT[BLOCK_BYTES:]))


@pytest.mark.parametrize(("index", "end"), [(0, BLOCK_BYTES + 1), (1, LAST_BYTES + 1), (2, 1)])
async def test_bytes_that_the_block_does_not_have_are_refused(
    node: AnsweringNode, asking: AskingNode, index: int, end: int
) -> None:
    await node.engine.get("k")
    assert await fails(asking, node, new_fill_id(ZONE), end=end, index=index) == "wrong"


async def test_a_sum_of_just_what_was_asked_for_comes_where_it_is_wanted(
    node: AnsweringNode, asking: AskingNode
) -> None:
    await node.engine.get("k")
    wanted = node.wanted(new_fill_id(ZONE), 1000, 2000, last=False, summed=True)
    assert await asking.read(wanted) == (BLOCK[1000:2000], crc32c(BLOCK[1000:2000]))


async def test_a_block_that_is_not_here_is_not_begun_for_a_fill_of_somebody_else(
    node: AnsweringNode, asking: AskingNode
) -> None:
    for level in (ORIGIN, LEASED, REGION, ZONE):
        assert await fails(asking, node, new_fill_id(level)) == "missing"
    assert node.origin.reads == []


async def test_another_version_of_the_key_is_another_block(node: AnsweringNode, asking: AskingNode) -> None:
    await node.engine.get("k")
    version = node.record.version
    other = ObjectVersion(version.origin, version.bucket, version.key, 'etag "other"', version.size_bytes)
    wanted = node.wanted(new_fill_id(ZONE))
    with pytest.raises(PeerFailed) as failed:
        await asking.read(type(wanted)(other, 0, 0, BLOCK_BYTES, new_fill_id(ZONE), True))
    assert failed.value.reason == "missing"


# Unfinished blocks.


async def test_an_unfinished_block_is_given_within_its_fill_as_it_comes(
    node: AnsweringNode, asking: AskingNode
) -> None:
    barrier, sink = OriginBarrier(node), CopyingSink()
    reading = asyncio.ensure_future(node.engine.get("k", 0, BLOCK_BYTES - 1))
    await until(lambda: node.fleet_state.joined(node.block_hash) != 0, "the fill")
    asked = asyncio.ensure_future(asking.read(node.wanted(node.fleet_state.joined(node.block_hash)), sink))
    await until(lambda: len(sink.data) == HALF, "the first half")
    assert node.uploads == 1
    barrier.opened.set()
    assert (await asked)[1] == crc32c(BLOCK)
    assert bytes(sink.data) == BLOCK == await reading
    await node.quiet()


async def test_an_unfinished_block_is_refused_to_every_other_fill(node: AnsweringNode, asking: AskingNode) -> None:
    """Its reader may stand behind the very one that asks."""
    barrier = OriginBarrier(node)
    reading = asyncio.ensure_future(node.engine.get("k", 0, BLOCK_BYTES - 1))
    await until(lambda: node.fleet_state.joined(node.block_hash) != 0, "the fill")
    for level in (ORIGIN, LEASED, REGION, ZONE):
        assert await fails(asking, node, new_fill_id(level)) == "busy"
    barrier.opened.set()
    await reading
    assert (await asking.read(node.wanted(new_fill_id(ZONE))))[0] == BLOCK


async def test_who_names_no_fill_gets_a_whole_block_only_whatever_the_board_knows(
    node: AnsweringNode, asking: AskingNode
) -> None:
    """0 is no fill, and 0 stands in the fleet state while nobody knows which fill it is."""
    barrier = OriginBarrier(node, 0)
    reading = asyncio.ensure_future(node.engine.get("k", 0, BLOCK_BYTES - 1))
    await until(lambda: node.fleet_state.joined(node.block_hash) != 0, "the fill")
    node.fleet_state.join(node.block_hash, 0)
    assert await fails(asking, node, 0) == "busy"
    barrier.opened.set()
    await reading
    assert (await asking.read(node.wanted(0)))[0] == BLOCK


async def test_of_two_fills_of_a_block_each_is_given_to_its_own(node: AnsweringNode, asking: AskingNode) -> None:
    """Another worker fills the block anew, since its segment was retired. Who follows one must not get the other,
    which may wait for that very node."""
    barrier, sink = OriginBarrier(node), CopyingSink()
    reading = asyncio.ensure_future(node.engine.get("k", 0, BLOCK_BYTES - 1))
    await until(lambda: node.fleet_state.joined(node.block_hash) != 0, "the fill")
    own_id, other_id = node.fleet_state.joined(node.block_hash), new_fill_id(ORIGIN)
    node.fleet_state.join(node.block_hash, other_id)
    assert await fails(asking, node, other_id) == "busy"
    asked = asyncio.ensure_future(asking.read(node.wanted(own_id), sink))
    await until(lambda: len(sink.data) == HALF, "the first half")
    barrier.opened.set()
    await asyncio.gather(asked, reading)


async def test_a_node_may_be_named_as_a_source_before_its_own_fill_has_begun(
    node: AnsweringNode, asking: AskingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "PATIENCE_S", 20.0)
    fill_id = new_fill_id(ORIGIN)
    monkeypatch.setattr("proxy.relay.relay.new_fill_id", lambda level, unverified=False: fill_id)
    asked = asyncio.ensure_future(asking.read(node.wanted(fill_id)))
    joins = 0
    join = node.engine.supply.join

    async def counted(*what: object) -> object:
        nonlocal joins
        joins += 1
        return await join(*what)  # type: ignore[arg-type]

    monkeypatch.setattr(node.engine.supply, "join", counted)
    await until(lambda: joins > 1, "a second look")
    barrier = OriginBarrier(node)
    reading = asyncio.ensure_future(node.engine.get("k", 0, BLOCK_BYTES - 1))
    await until(lambda: node.uploads == 1, "the upload")
    barrier.opened.set()
    assert await asked == (BLOCK, crc32c(BLOCK))
    await reading


async def test_a_fill_that_fails_ends_what_is_uploaded_of_it_short(node: AnsweringNode, asking: AskingNode) -> None:
    barrier, sink = OriginBarrier(node), CopyingSink()
    barrier.error = StoreUnavailable("the disk is gone")
    fill_id = own(node)
    asked = asyncio.ensure_future(asking.read(node.wanted(fill_id), sink))
    await until(lambda: len(sink.data) == HALF, "the first half")
    barrier.opened.set()
    with pytest.raises(PeerFailed) as failed:
        await asked
    assert failed.value.reason == "gone"
    await node.quiet()


async def test_an_asker_that_goes_away_leaves_nothing_behind(node: AnsweringNode, asking: AskingNode) -> None:
    barrier, sink = OriginBarrier(node), CopyingSink()
    asked = asyncio.ensure_future(asking.read(node.wanted(own(node)), sink))
    await until(lambda: len(sink.data) == HALF, "the first half")
    arrival = node.engine.flights.find(node.record.version, 0)
    assert arrival is not None
    assert arrival.interest == 1
    asked.cancel()
    await until(lambda: node.uploads == 0, "the end of the upload")
    assert arrival.interest == 0
    barrier.opened.set()
    await node.quiet()


async def test_an_asker_that_goes_away_before_the_first_byte_leaves_nothing_behind_either(
    node: AnsweringNode, asking: AskingNode
) -> None:
    barrier = OriginBarrier(node, 0)
    asked = asyncio.ensure_future(asking.read(node.wanted(own(node))))
    await until(lambda: node.engine.flights.find(node.record.version, 0) is not None, "the fill")
    arrival = node.engine.flights.find(node.record.version, 0)
    assert arrival is not None
    await until(lambda: arrival.interest == 1, "the asker's interest")
    asked.cancel()
    await until(lambda: arrival.interest == 0, "the end of the asker's interest")
    barrier.opened.set()
    await node.quiet()


# As the owner.


async def test_an_owner_brings_the_block_once_for_all_that_ask(node: AnsweringNode, asking: AskingNode) -> None:
    barrier, fill_id = OriginBarrier(node), own(node)
    asked = [asyncio.ensure_future(asking.read(node.wanted(fill_id))) for _ in range(8)]
    await until(lambda: node.uploads == 8, "the uploads")
    barrier.opened.set()
    assert await asyncio.gather(*asked) == [(BLOCK, crc32c(BLOCK))] * 8
    assert len(node.origin.reads) == 1
    assert level_of(node.fleet_state.joined(node.block_hash)) == ORIGIN


async def test_an_owner_that_serves_one_tree_waits_for_none_of_that_tree(tmp_path: Path) -> None:
    """It thinks that another node is the owner; who asks knows other members. It must not ask on within the tree."""
    async with start_answering_node(tmp_path, CONTENT, me=-1) as node, start_asking_node(node) as asking:
        assert node.fleet.relays.level(node.block_hash) == ZONE
        first = node.fleet.order[0]
        node.fleet.peers.serves = {first: [gives(BLOCK)]}
        assert await asking.read(node.wanted(own(node, ZONE))) == (BLOCK, crc32c(BLOCK))
        assert {ask.level for _, ask in node.fleet.peers.asks} == {REGION}
        assert node.origin.reads == []


async def test_an_owner_for_the_region_asks_the_origin_whoever_it_thinks_is_the_owner(tmp_path: Path) -> None:
    async with start_answering_node(tmp_path, CONTENT, me=-1) as node, start_asking_node(node) as asking:
        assert await asking.read(node.wanted(own(node, REGION))) == (BLOCK, crc32c(BLOCK))
        assert node.fleet.peers.asks == []
        assert len(node.origin.reads) == 1


async def test_an_owner_whose_own_fill_waits_within_such_a_tree_sends_the_asker_elsewhere(tmp_path: Path) -> None:
    async with start_answering_node(tmp_path, CONTENT, me=-1) as node, start_asking_node(node) as asking:
        go_on = asyncio.Event()

        async def serve(wanted: object, sink: object) -> int | None:
            await go_on.wait()
            return await gives(BLOCK)(wanted, sink)  # type: ignore[arg-type]

        node.fleet.peers.serves = {node.fleet.order[0]: [serve]}
        reading = asyncio.ensure_future(node.engine.get("k", 0, BLOCK_BYTES - 1))
        await until(lambda: bool(node.fleet.peers.reads), "the node's own fill")
        assert await fails(asking, node, own(node, ZONE)) == "busy"
        assert await fails(asking, node, own(node, REGION)) == "busy"
        go_on.set()
        assert await reading == BLOCK


async def test_a_fill_that_was_given_up_is_not_one_that_waits(tmp_path: Path) -> None:
    """What a fill within the tree has left lies there half done, and nobody is at it: the owner goes on with it."""
    async with start_answering_node(tmp_path, CONTENT, me=-1) as node, start_asking_node(node) as asking:
        block = node.engine.store.open_block(node.record.version, 0, create=True)
        assert block is not None
        writer = block.reserve(0)
        assert writer is not None
        writer.write(memoryview(BLOCK[:HALF]))
        node.fleet_state.join(node.block_hash, new_fill_id(ZONE))
        assert node.engine.supply.level(node.record.version, 0) == ZONE
        writer.leave()
        assert node.engine.supply.level(node.record.version, 0) is None
        assert await asking.read(node.wanted(own(node, REGION))) == (BLOCK, crc32c(BLOCK))


async def test_a_worker_that_goes_on_with_anothers_fill_waits_for_none_of_those_who_wait_for_it(tmp_path: Path) -> None:
    """They stand behind the fill that ended, in its tree: the new one must not ask within that tree again."""
    async with start_answering_node(tmp_path, CONTENT, me=-1) as node, start_asking_node(node) as asking:
        other = Engine(tmp_path, node.origin, tables=node.engine.tables, writer_id="w1", relays=node.fleet.relays)
        never = asyncio.Event()

        async def serve(wanted: WantedBlock, sink: ByteSink) -> int | None:
            if level_of(wanted.fill_id) == ZONE:
                await never.wait()
            return await gives(BLOCK)(wanted, sink)

        node.fleet.peers.serves = {name: [serve] for name in node.fleet.order}
        reading = asyncio.ensure_future(other.get("k", 0, BLOCK_BYTES - 1))
        await until(lambda: bool(node.fleet.peers.reads), "the other worker's fill")
        asked = asyncio.ensure_future(asking.read(node.wanted(node.fleet_state.joined(node.block_hash))))
        await until(lambda: node.engine.flights.count() == 1, "the asker behind it")
        node.fleet.peers.asks.clear()
        await other.flights.aclose()
        assert await asked == (BLOCK, crc32c(BLOCK))
        assert {ask.level for _, ask in node.fleet.peers.asks} == {REGION}
        await asyncio.gather(reading, return_exceptions=True)
        await other.aclose()


async def test_an_owner_whose_origin_fails_says_so(node: AnsweringNode, asking: AskingNode) -> None:
    node.origin.down = True
    assert await fails(asking, node, own(node)) == "unavailable"
    await node.quiet()


async def test_an_owner_that_has_no_such_origin_gives_what_it_has(node: AnsweringNode, asking: AskingNode) -> None:
    await node.engine.get("k", 0, BLOCK_BYTES - 1)
    node.blocks._origins = {}
    assert (await asking.read(node.wanted(own(node))))[0] == BLOCK
    node.fleet_state.own(node.block_hash, 0)
    version = node.record.version
    other = ObjectVersion("s3://elsewhere", "b", "k", 'etag "1"', version.size_bytes)
    wanted = node.wanted(new_fill_id(ZONE))
    with pytest.raises(PeerFailed) as failed:
        await asking.read(type(wanted)(other, 0, 0, 10, wanted.fill_id, False))
    assert failed.value.reason == "missing"
