"""Bytes of other nodes: what a client could not un-read waits for their checksum, in every process of the node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.blocks import ByteSink
from proxy.errors import OriginUnavailable, StoreUnavailable
from proxy.fleet.fill_ids import ORIGIN, ZONE, new_fill_id
from proxy.fleet.protocol import WantedBlock
from proxy.gateway.body import HOLD_BACK_BYTES
from proxy.objects import ObjectRecord, SumKind
from proxy.relay.errors import PeerFailed
from tests.fakes.memory import pump
from tests.fakes.peers import Neighbours, crc32c, gives, member
from tests.gateway.engine import BLOCK_BYTES, Engine, ObjectOrigin, piece_bytes

CONTENT = os.urandom(2 * BLOCK_BYTES)
BLOCK = CONTENT[:BLOCK_BYTES]
WRONG = bytes(255 - byte for byte in BLOCK)
PART_BYTES = 128 << 10


class Node:
    """A gateway's workers in a fleet of four. Of two workers, the second follows what the first one fills."""

    def __init__(self, path: Path, *, me: int, sums: tuple[SumKind, ...]) -> None:
        self.path = path
        self.origin = ObjectOrigin()
        self.record: ObjectRecord = self.origin.put("k", CONTENT, sums=sums)
        self.fleet = Neighbours(self.record, 0, [member(f"{number:02x}") for number in range(4)], me=me)
        self.engine = Engine(path, self.origin, relays=self.fleet.relays)
        self.engines = [self.engine]

    @property
    def owner(self) -> str:
        return self.fleet.order[0]

    def serve(self, *turns: Callable[[WantedBlock, ByteSink], Awaitable[int | None]]) -> None:
        """What nodes do at the first read of the first block, the second, and from then on; the next is right."""
        left = list(turns)

        async def serve(wanted: WantedBlock, sink: ByteSink) -> int | None:
            if wanted.index:
                return await gives(CONTENT[BLOCK_BYTES:])(wanted, sink)
            return await (left.pop(0) if len(left) > 1 else left[0])(wanted, sink)

        self.fleet.peers.serves = {name: [serve] for name in self.fleet.order}

    def second_worker(self) -> Engine:
        engine = Engine(self.path, self.origin, tables=self.engine.tables, writer_id="w1", relays=self.fleet.relays)
        self.engines.append(engine)
        return engine

    async def aclose(self) -> None:
        for engine in self.engines:
            await engine.aclose()
            assert engine.flights.count() == 0
        self.fleet.close()


@asynccontextmanager
async def start_node(path: Path, *, me: int = -1, sums: tuple[SumKind, ...] = ()) -> AsyncIterator[Node]:
    node = Node(path, me=me, sums=sums)
    try:
        yield node
    finally:
        await node.aclose()


def in_steps(block: bytes, at_bytes: int, go_on: asyncio.Event, end: Exception | int | None = None) -> Any:
    """So many bytes, the rest when `go_on` is set, then `end`: an error, or the checksum (None: the right one)."""

    async def serve(wanted: WantedBlock, sink: ByteSink) -> int | None:
        await pump(sink, block[wanted.start : at_bytes])
        await go_on.wait()
        if isinstance(end, Exception):
            raise end
        await pump(sink, block[max(wanted.start, at_bytes) : wanted.end])
        if not wanted.last:
            return None
        return crc32c(block) if end is None else end

    return serve


async def take(body: AsyncIterator[Any], length: int) -> bytes:
    """So many bytes of a body, no more."""
    got = b""
    while len(got) < length:
        async with asyncio.timeout(30):
            got += piece_bytes(await anext(body))
    assert len(got) == length
    return got


async def rest_of(body: AsyncIterator[Any]) -> bytes:
    return b"".join([piece_bytes(piece) async for piece in body])


async def is_waiting(awaited: asyncio.Future[Any]) -> bool:
    """Whether it is not done though everything else has had its turns."""
    for _ in range(20):
        await asyncio.sleep(0.001)
    return not awaited.done()


async def test_the_last_64_kib_that_a_body_takes_of_a_block_wait_for_its_checksum(tmp_path: Path) -> None:
    async with start_node(tmp_path) as node:
        go_on = asyncio.Event()
        node.serve(in_steps(BLOCK, BLOCK_BYTES, go_on))
        answer = await node.engine.read("k", 0, BLOCK_BYTES - 1)
        assert answer.body is not None
        async with aclosing(answer.body) as body:  # type: ignore[type-var]
            assert await take(body, BLOCK_BYTES - HOLD_BACK_BYTES) == BLOCK[:-HOLD_BACK_BYTES]
            more = asyncio.ensure_future(take(body, HOLD_BACK_BYTES))
            assert await is_waiting(more)
            go_on.set()
            assert await more == BLOCK[-HOLD_BACK_BYTES:]
            assert await rest_of(body) == b""


async def test_the_hold_back_lies_at_the_end_of_what_is_read_not_of_the_block(tmp_path: Path) -> None:
    async with start_node(tmp_path) as node:
        go_on = asyncio.Event()
        node.serve(in_steps(BLOCK, BLOCK_BYTES, go_on))
        answer = await node.engine.read("k", 0, PART_BYTES - 1)
        assert answer.body is not None
        async with aclosing(answer.body) as body:  # type: ignore[type-var]
            got = await take(body, PART_BYTES - HOLD_BACK_BYTES)
            more = asyncio.ensure_future(rest_of(body))
            assert await is_waiting(more)
            go_on.set()
            assert got + await more == BLOCK[:PART_BYTES]


async def test_wrong_bytes_of_which_some_were_sent_make_a_short_body_and_the_next_read_is_right(
    tmp_path: Path,
) -> None:
    async with start_node(tmp_path) as node:
        node.serve(in_steps(WRONG, BLOCK_BYTES, go_on := asyncio.Event(), crc32c(BLOCK)), gives(BLOCK))
        answer = await node.engine.read("k", 0, BLOCK_BYTES - 1)
        assert answer.body is not None
        async with aclosing(answer.body) as body:  # type: ignore[type-var]
            await take(body, BLOCK_BYTES - HOLD_BACK_BYTES)
            go_on.set()
            with pytest.raises(OriginUnavailable):
                await rest_of(body)
        assert await node.engine.get("k", 0, BLOCK_BYTES - 1) == BLOCK


async def test_wrong_bytes_of_which_none_was_sent_are_asked_for_again(tmp_path: Path) -> None:
    async with start_node(tmp_path) as node:
        node.serve(gives(WRONG, crc=crc32c(BLOCK)), gives(BLOCK))
        assert await node.engine.get("k", 0, HOLD_BACK_BYTES - 1) == BLOCK[:HOLD_BACK_BYTES]


async def test_a_liar_costs_a_read_nothing_but_time_however_often_it_lies(tmp_path: Path) -> None:
    async with start_node(tmp_path) as node:
        node.serve(gives(WRONG, crc=crc32c(BLOCK)))
        assert await node.engine.get("k", 0, HOLD_BACK_BYTES - 1) == BLOCK[:HOLD_BACK_BYTES]
        assert len(node.origin.reads) == 1


@pytest.mark.parametrize("block", [BLOCK, WRONG])
async def test_what_was_sent_before_the_disk_failed_is_compared_with_the_origins_bytes(
    tmp_path: Path, block: bytes
) -> None:
    async with start_node(tmp_path) as node:
        node.serve(in_steps(block, PART_BYTES, go_on := asyncio.Event(), StoreUnavailable("the disk is gone")))
        node.fleet.peers.names[node.owner] = [node.owner, None]
        answer = await node.engine.read("k", 0, BLOCK_BYTES - 1)
        assert answer.body is not None
        async with aclosing(answer.body) as body:  # type: ignore[type-var]
            got = await take(body, PART_BYTES)
            assert got == block[:PART_BYTES]
            node.serve(gives(BLOCK))
            go_on.set()
            if block is WRONG:
                with pytest.raises(OriginUnavailable):
                    await rest_of(body)
            else:
                assert got + await rest_of(body) == BLOCK


async def test_a_predecessors_bytes_are_held_back_from_the_first_reader_on(tmp_path: Path) -> None:
    """A worker died amid other nodes' bytes; the next one, whose own fill asks the origin, goes on there."""
    async with start_node(tmp_path, me=0) as node:
        assert node.fleet.relays.level(node.fleet.block_hash) == ORIGIN
        leave_behind(node, WRONG[:PART_BYTES], new_fill_id(ZONE))
        node.serve(gives(BLOCK))
        assert await node.engine.get("k", 0, HOLD_BACK_BYTES - 1) == BLOCK[:HOLD_BACK_BYTES]
        assert await node.engine.get("k") == CONTENT


async def test_where_nobody_knows_whose_bytes_a_predecessor_left_they_are_judged_too(tmp_path: Path) -> None:
    async with start_node(tmp_path, me=0) as node:
        leave_behind(node, WRONG[:PART_BYTES], 0)
        with pytest.raises(OriginUnavailable):
            await node.engine.get("k", 0, PART_BYTES - 1)
        assert await node.engine.get("k", 0, PART_BYTES - 1) == BLOCK[:PART_BYTES]


async def test_bytes_of_the_origin_that_a_predecessor_left_wait_for_nothing(tmp_path: Path) -> None:
    async with start_node(tmp_path, me=0) as node:
        leave_behind(node, BLOCK[:PART_BYTES], new_fill_id(ORIGIN))
        never = asyncio.Event()

        async def script(number: int, sent: int) -> None:
            await never.wait()

        node.origin.script = script
        answer = await node.engine.read("k", 0, PART_BYTES - 1)
        assert answer.body is not None
        async with aclosing(answer.body) as body:  # type: ignore[type-var]
            assert await take(body, PART_BYTES) == BLOCK[:PART_BYTES]
        never.set()


# Followers: other workers of the node.


async def test_a_follower_holds_back_as_the_filling_worker_does(tmp_path: Path) -> None:
    async with start_node(tmp_path) as node:
        other, go_on = node.second_worker(), asyncio.Event()
        node.serve(in_steps(BLOCK, BLOCK_BYTES, go_on))
        reading = asyncio.ensure_future(node.engine.get("k", 0, BLOCK_BYTES - 1))
        await begun(node)
        answer = await other.read("k", 0, BLOCK_BYTES - 1)
        assert answer.body is not None
        async with aclosing(answer.body) as body:  # type: ignore[type-var]
            got = await take(body, BLOCK_BYTES - HOLD_BACK_BYTES)
            more = asyncio.ensure_future(rest_of(body))
            assert await is_waiting(more)
            go_on.set()
            assert got + await more == await reading == BLOCK
        assert len(node.fleet.peers.reads) == 1


@pytest.mark.parametrize("blind", [False, True])
async def test_a_follower_never_joins_two_fills_in_one_body(
    tmp_path: Path, blind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The filling worker finds its bytes wrong and begins anew; also between two looks of the follower (`blind`)."""
    async with start_node(tmp_path) as node:
        other, go_on = node.second_worker(), asyncio.Event()
        node.serve(in_steps(WRONG, BLOCK_BYTES, go_on, crc32c(BLOCK)), gives(BLOCK))
        reading = asyncio.ensure_future(node.engine.get("k", 0, HOLD_BACK_BYTES - 1))
        await begun(node)
        answer = await other.read("k", 0, BLOCK_BYTES - 1)
        assert answer.body is not None
        async with aclosing(answer.body) as body:  # type: ignore[type-var]
            await take(body, BLOCK_BYTES - HOLD_BACK_BYTES)
            looked = other.followers._looked
            if blind:
                monkeypatch.setattr(other.followers, "_looked", lambda followed, now: False)
            go_on.set()
            assert await reading == BLOCK[:HOLD_BACK_BYTES]
            if blind:
                monkeypatch.setattr(other.followers, "_looked", looked)
            with pytest.raises(OriginUnavailable):
                await rest_of(body)
        assert await other.get("k", 0, BLOCK_BYTES - 1) == BLOCK


async def test_a_fill_that_begins_elsewhere_in_the_block_is_another_one(tmp_path: Path) -> None:
    """It starts behind what the first one had, and so looks further on by its numbers."""
    async with start_node(tmp_path) as node:
        other, go_on, second = node.second_worker(), asyncio.Event(), asyncio.Event()
        node.serve(in_steps(WRONG, PART_BYTES, go_on, StoreUnavailable("full")), in_steps(BLOCK, BLOCK_BYTES, second))
        reading = asyncio.ensure_future(node.engine.get("k", 0, BLOCK_BYTES - 1))
        await begun(node)
        answer = await other.read("k", 0, BLOCK_BYTES - 1)
        assert answer.body is not None
        async with aclosing(answer.body) as body:  # type: ignore[type-var]
            await take(body, PART_BYTES)
            followed = other.flights.find(node.record.version, 0)
            assert followed is not None
            state = (followed.start, followed.progress)
            go_on.set()
            block = node.engine.store.peek_block(node.record.version, 0)
            assert block is not None
            while (writer := block.reserve(3 << 16)) is None:
                await asyncio.sleep(0.001)
            assert (writer.start, writer.progress) > state
            with pytest.raises(OriginUnavailable):
                await rest_of(body)
            writer.abandon()
        second.set()
        await asyncio.gather(reading, return_exceptions=True)


async def test_a_source_that_comes_and_goes_leaves_no_interest_behind(tmp_path: Path) -> None:
    async with start_node(tmp_path, sums=(SumKind.CRC32C,)) as node:
        node.serve(in_steps(BLOCK, PART_BYTES, go_on := asyncio.Event(), PeerFailed(node.owner, "gone", "scripted")))
        answer = await node.engine.read("k")
        assert answer.body is not None
        arrival = node.engine.flights.find(node.record.version, 0)
        assert arrival is not None
        assert arrival.interest == 1
        await answer.body.aclose()  # type: ignore[attr-defined]
        assert arrival.interest == 0
        go_on.set()
        await node.engine.quiet()
        assert await node.engine.get("k") == CONTENT


def leave_behind(node: Node, data: bytes, fill_id: int) -> None:
    """As a worker does that is killed in the middle of a fill."""
    block = node.engine.store.open_block(node.record.version, 0, create=True)
    assert block is not None
    writer = block.reserve(0)
    assert writer is not None
    assert writer.write(memoryview(data)) is None
    writer.leave()
    if fill_id:
        node.fleet.fleet_state.join(node.fleet.block_hash, fill_id)


async def begun(node: Node) -> None:
    """Returns when the first worker has bytes of the first block."""
    async with asyncio.timeout(30):
        while not node.fleet.peers.reads or (found := node.engine.flights.find(node.record.version, 0)) is None:
            await asyncio.sleep(0.001)
        while not found.progress:
            await asyncio.sleep(0.001)
