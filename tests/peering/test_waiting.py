"""A node that waits for a block says so, and what it waits for is never more than it has compared."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.blocks import ByteSink
from proxy.errors import OriginUnavailable
from proxy.fleet.protocol import WantedBlock
from proxy.lanes.asgi import INTERIM, Message, Scope, Send
from proxy.objects import SumKind
from proxy.peering import data_app as app_module
from proxy.relay.errors import PeerFailed
from tests.fakes.peers import crc32c, gives
from tests.gateway.engine import BLOCK_BYTES
from tests.peering.answering_node import (
    BLOCK,
    CONTENT,
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


def hold_back_the_tail(node: AnsweringNode) -> asyncio.Event:
    """The block's owner gives all of its bytes, and their checksum only once the event is set."""
    go_on = asyncio.Event()

    async def serve(wanted: WantedBlock, sink: ByteSink) -> int | None:
        found = await gives(BLOCK)(wanted, sink)
        await go_on.wait()
        return found

    node.fleet.peers.serves = {node.fleet.order[0]: [serve]}
    return go_on


async def test_a_node_that_waits_says_so_and_is_not_taken_for_gone(
    node: AnsweringNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "SIGN_OF_LIFE_S", 0.05)
    barrier, sent = OriginBarrier(node, 0), 0
    answer = node.app._answer
    async with start_asking_node(node, silence_s=1.0) as asking:

        async def counted(scope: Scope, send: Send) -> object:
            async def counting(message: Message) -> None:
                nonlocal sent
                sent += message["type"] == INTERIM
                await send(message)

            return await answer(scope, counting)

        monkeypatch.setattr(node.app, "_answer", counted)
        asked = asyncio.ensure_future(asking.read(node.wanted(own(node))))
        await until(lambda: sent >= 40, "signs of life for twice the silence that the asker takes")
        barrier.opened.set()
        assert await asked == (BLOCK, crc32c(BLOCK))


async def test_the_checksum_alone_is_waited_for_before_the_head(tmp_path: Path) -> None:
    """So that signs of life can be given meanwhile: there is no room for them in a body."""
    async with start_answering_node(tmp_path, CONTENT, me=-1) as node, start_asking_node(node) as asking:
        go_on = hold_back_the_tail(node)
        reading = asyncio.ensure_future(node.engine.get("k", 0, BLOCK_BYTES - 1))
        await until(lambda: bool(node.engine.flights.finishing(node.record.version)), "all of its bytes")
        sink = CopyingSink()
        fill_id = node.fleet_state.joined(node.block_hash)
        asked = asyncio.ensure_future(asking.read(node.wanted(fill_id, BLOCK_BYTES - 1), sink))
        other = CopyingSink()
        beside = asyncio.ensure_future(asking.read(node.wanted(fill_id), other))
        await until(lambda: len(other.data) == BLOCK_BYTES, "the bytes of who wants them")
        assert len(sink.data) == 0
        go_on.set()
        assert (await asked)[1] == (await beside)[1] == crc32c(BLOCK)
        assert await reading == BLOCK


async def test_a_sum_of_a_few_bytes_of_other_nodes_is_waited_for_before_the_head_too(tmp_path: Path) -> None:
    async with start_answering_node(tmp_path, CONTENT, me=-1) as node, start_asking_node(node) as asking:
        go_on = hold_back_the_tail(node)
        sink, other = CopyingSink(), CopyingSink()
        wanted = node.wanted(own(node), 1000, 2000, last=False, summed=True)
        asked = asyncio.ensure_future(asking.read(wanted, sink))
        beside = asyncio.ensure_future(asking.read(node.wanted(wanted.fill_id), other))
        await until(lambda: len(other.data) == BLOCK_BYTES, "the bytes of who wants them as they come")
        assert len(sink.data) == 0
        go_on.set()
        assert (await asked)[1] == crc32c(BLOCK[1000:2000])
        assert bytes(sink.data) == BLOCK[1000:2000]
        await beside


async def test_wrong_bytes_that_were_relayed_never_get_a_checksum(tmp_path: Path) -> None:
    wrong = bytes(255 - byte for byte in BLOCK)
    sums = (SumKind.CRC32C,)
    async with start_answering_node(tmp_path, CONTENT, me=-1, sums=sums) as node, start_asking_node(node) as asking:
        go_on = asyncio.Event()

        async def serve(wanted: object, sink: object) -> int | None:
            await gives(wrong)(wanted, sink)  # type: ignore[arg-type]
            await go_on.wait()
            return crc32c(BLOCK)

        node.fleet.peers.serves = {name: [serve] for name in node.fleet.order}
        reading = asyncio.ensure_future(node.engine.get("k", 0, 100))
        await until(lambda: bool(node.engine.flights.finishing(node.record.version)), "all of its bytes")
        sink = CopyingSink()
        fill_id = node.fleet_state.joined(node.block_hash)
        asked = asyncio.ensure_future(asking.read(node.wanted(fill_id), sink))
        await until(lambda: len(sink.data) == BLOCK_BYTES, "the bytes")
        node.fleet.peers.serves = {name: [gives(BLOCK)] for name in node.fleet.order}
        go_on.set()
        with pytest.raises(PeerFailed) as failed:
            await asked
        assert failed.value.reason == "gone"
        assert await reading == BLOCK[:101]


async def test_an_error_of_the_origin_in_mid_body_is_the_owners_to_mend(
    node: AnsweringNode, asking: AskingNode
) -> None:
    barrier = OriginBarrier(node)
    barrier.error = OriginUnavailable("reset")
    asked = asyncio.ensure_future(asking.read(node.wanted(own(node))))
    await until(lambda: node.uploads == 1, "the upload")
    barrier.opened.set()
    await until(lambda: len(node.origin.reads) > 1, "a second request")
    barrier.error = None
    assert await asked == (BLOCK, crc32c(BLOCK))
