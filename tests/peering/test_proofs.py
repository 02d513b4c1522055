"""Between a node and the one that asks it sits somebody who has no secret: whatever it changes is found out."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from proxy.blocks import Piece, update_sum
from proxy.fleet.protocol import HELLO_PATH, WantedBlock, WantedRecord
from proxy.fleet.signing import PROOF_HEADER
from proxy.fleet.state import SLOT_COUNT
from proxy.fleet.tail import KNOWN, MAC_BYTES, TAIL_BYTES, Tail
from proxy.objects import ObjectKey, SumKind
from proxy.peering import blocks as blocks_module
from proxy.relay.digests import derive_key, digest_bytes, sum_and_digest
from proxy.relay.errors import PeerFailed
from tests.fakes.scripted import Exchange, ScriptedServer
from tests.gateway.engine import BLOCK_BYTES
from tests.peering.answering_node import (
    BLOCK,
    CONTENT,
    SECRET,
    AnsweringNode,
    AskingNode,
    own,
    start_answering_node,
    start_asking_node,
)
from tests.wire.sinks import CopyingSink

KEY = derive_key(SECRET)
NEW_SECRET = b"the new secret....."
Change = Callable[[int, dict[str, str], bytes], tuple[int, dict[str, str], bytes]]


def crc32c(data: bytes) -> int:
    return update_sum(SumKind.CRC32C, memoryview(data))


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[AnsweringNode]:
    async with start_answering_node(tmp_path, CONTENT) as made:
        await made.engine.get("k")
        yield made


@asynccontextmanager
async def between(node: AnsweringNode, change: Change) -> AsyncIterator[None]:
    """Passes requests on to the node as they come, and its answers as `change` makes them."""

    async def handler(exchange: Exchange) -> None:
        request = exchange.request
        headers = {"authorization": request.get("authorization") or ""}
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
            answer = await client.get(real + request.target.decode(), headers=headers)
        proof = {PROOF_HEADER: answer.headers[PROOF_HEADER]} if PROOF_HEADER in answer.headers else {}
        status, said, body = change(answer.status_code, proof, answer.content)
        await exchange.respond(status, body, list(said.items()))

    real = node.url
    async with ScriptedServer(handler) as server:
        node.url = server.url
        try:
            yield
        finally:
            node.url = real


async def read(asking: AskingNode, wanted: WantedBlock) -> tuple[bytes, Tail]:
    sink = CopyingSink()
    tail = await asking.peers.read_block(asking.node.member, replace(wanted, proved=True), sink)
    return bytes(sink.data), tail


def fits(data: bytes, tail: Tail, key: bytes = KEY) -> bool:
    return tail.fits(crc32c(data), digest_bytes(key, memoryview(data)))


async def test_a_tail_proves_the_blocks_bytes_and_no_others(node: AnsweringNode) -> None:
    async with start_asking_node(node) as asking:
        data, tail = await read(asking, node.wanted(own(node)))
        assert tail.proved
        assert (data, fits(data, tail)) == (BLOCK, True)
        assert not fits(BLOCK[:-1] + b"?", tail)
        assert not fits(BLOCK, tail, derive_key(b"another secret, as long"))
        forged = replace(tail, crc32c=crc32c(BLOCK[:-1] + b"?"))
        assert not fits(BLOCK[:-1] + b"?", forged), "the checksum may be had by anybody"
    await node.quiet()


async def test_bytes_and_checksum_changed_on_the_way_do_not_fit_the_tail(node: AnsweringNode) -> None:
    def change(status: int, said: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        block = bytearray(body[:-TAIL_BYTES])
        block[77] ^= 1
        return status, said, bytes(block) + struct.pack("<II", KNOWN | 2, crc32c(bytes(block))) + body[-MAC_BYTES:]

    async with start_asking_node(node) as asking, between(node, change):
        data, tail = await read(asking, node.wanted(own(node)))
    assert data != BLOCK
    assert tail.crc32c == crc32c(data)
    assert not fits(data, tail)
    await node.quiet()


async def test_a_tail_without_its_mac_is_refused_where_one_was_asked_for(node: AnsweringNode) -> None:
    def change(status: int, said: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        return status, said, body[:-TAIL_BYTES] + struct.pack("<II", KNOWN, crc32c(BLOCK)) + bytes(MAC_BYTES)

    async with start_asking_node(node) as asking, between(node, change):
        with pytest.raises(PeerFailed) as failed:
            await read(asking, node.wanted(own(node)))
    assert failed.value.reason == "wrong"
    await node.quiet()


async def test_a_tail_of_another_request_for_the_same_block_is_worth_nothing(node: AnsweringNode) -> None:
    earlier: list[bytes] = []

    def change(status: int, said: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        earlier.append(body[-TAIL_BYTES:])
        return status, said, body[:-TAIL_BYTES] + earlier[0]

    async with start_asking_node(node) as asking, between(node, change):
        fill_id = own(node)
        assert fits(*await read(asking, node.wanted(fill_id)))
        assert not fits(*await read(asking, node.wanted(fill_id)))
    await node.quiet()


@pytest.mark.parametrize("what", ["status", "length", "no proof", "two proofs", "proof of another"])
async def test_a_blocks_head_that_was_changed_is_refused_before_a_byte_is_taken(node: AnsweringNode, what: str) -> None:
    first: list[str] = []

    def change(status: int, said: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        first.append(said[PROOF_HEADER])
        match what:
            case "status":
                return 206, said, body
            case "length":
                return status, said, body[:-1]
            case "no proof":
                return status, {}, body
            case "two proofs":
                return status, {**said, PROOF_HEADER.upper(): "0" * 64}, body
            case _:
                return status, {PROOF_HEADER: first[0]}, body

    async with start_asking_node(node) as asking, between(node, change):
        fill_id, sink = own(node), CopyingSink()
        if what == "proof of another":
            await read(asking, node.wanted(fill_id))
        with pytest.raises(PeerFailed) as failed:
            await asking.peers.read_block(node.member, node.wanted(fill_id), sink)
    assert failed.value.reason == "foreign"
    assert failed.value.faulty
    assert bytes(sink.data) == b""
    await node.quiet()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda status, said, body: (status, said, body.replace(b"age_s", b"age_t")), id="body"),
        pytest.param(lambda status, said, body: (404, said, body), id="status"),
        pytest.param(lambda status, said, body: (status, {}, body), id="no proof"),
        pytest.param(lambda status, said, body: (status, said, body + b" "), id="longer"),
        pytest.param(lambda status, said, body: (status, said, b""), id="empty"),
    ],
)
async def test_a_record_that_was_changed_is_refused(node: AnsweringNode, change: Change) -> None:
    wanted = WantedRecord(ObjectKey(node.origin.id, "b", "k"), 60.0)
    async with start_asking_node(node) as asking:
        assert "record" in await asking.peers.read_record(node.member, wanted)
        async with between(node, change):
            with pytest.raises(PeerFailed) as failed:
                await asking.peers.read_record(node.member, wanted)
    assert failed.value.reason == "foreign"


async def test_a_refusal_by_a_member_is_proved_and_one_by_a_stranger_is_not_believed(node: AnsweringNode) -> None:
    """Else whoever sits between could make a node believe that a block is nowhere, or busy for ever."""
    async with start_asking_node(node) as asking:
        wanted = node.wanted(0, index=1, end=100)
        nowhere = replace(wanted, version=replace(wanted.version, validator="etag other"))
        with pytest.raises(PeerFailed) as failed:
            await asking.peers.read_block(node.member, nowhere, CopyingSink())
        assert failed.value.reason == "missing"
        async with between(node, lambda status, said, body: (409, said, body)):
            with pytest.raises(PeerFailed) as failed:
                await asking.peers.read_block(node.member, nowhere, CopyingSink())
    assert failed.value.reason == "foreign"
    await node.quiet()


async def test_a_hello_proves_what_it_says(node: AnsweringNode) -> None:
    signed = node.sign(HELLO_PATH.encode(), receiver="")
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.get(node.url + HELLO_PATH, headers={"authorization": signed.authorization})
    assert signed.proves_answer(answer.headers[PROOF_HEADER], 200, answer.content)
    assert not signed.proves_answer(answer.headers[PROOF_HEADER], 200, answer.content + b" ")


async def test_bytes_asked_for_with_a_sum_of_their_own_are_proved_alone(node: AnsweringNode) -> None:
    async with start_asking_node(node) as asking:
        wanted = node.wanted(own(node), 1000, 5000, last=False, summed=True)
        data, tail = await read(asking, wanted)
    assert (data, fits(data, tail)) == (BLOCK[1000:5000], True)
    await node.quiet()


async def test_the_digest_on_the_board_spares_the_giver_the_reading(
    node: AnsweringNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks_module, "sum_and_digest", lambda piece, key: pytest.fail("it read the block"))
    async with start_asking_node(node) as asking:
        assert fits(*await read(asking, node.wanted(own(node))))
    await node.quiet()


async def test_a_block_of_an_earlier_run_is_read_for_its_digest_once(
    node: AnsweringNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Piece] = []

    def count(piece: Piece, key: bytes) -> tuple[int, bytes]:
        reads.append(piece)
        return sum_and_digest(piece, key)

    monkeypatch.setattr(blocks_module, "sum_and_digest", count)
    node.fleet_state.keep_digest(node.block_hash + SLOT_COUNT, bytes(16))  # another block takes the slot
    async with start_asking_node(node) as asking:
        for _ in range(3):
            assert fits(*await read(asking, node.wanted(own(node))))
    assert len(reads) == 1
    await node.quiet()


async def test_while_a_fleet_changes_its_secret_each_side_proves_with_the_askers(tmp_path: Path) -> None:
    async with start_answering_node(tmp_path, CONTENT, secrets=(SECRET, NEW_SECRET)) as node:
        await node.engine.get("k")
        for secret in (SECRET, NEW_SECRET):
            async with start_asking_node(node, secrets=(secret,)) as asking:
                data, tail = await read(asking, node.wanted(own(node)))
                assert fits(data, tail, derive_key(secret))
        await node.quiet()


async def test_a_block_filled_from_its_middle_is_proved_like_any_other(tmp_path: Path) -> None:
    async with start_answering_node(tmp_path, CONTENT) as node:
        await node.engine.get("k", 3 * BLOCK_BYTES // 4, 3 * BLOCK_BYTES // 4 + 10)
        async with start_asking_node(node) as asking:
            data, tail = await read(asking, node.wanted(own(node)))
            assert (data, fits(data, tail)) == (BLOCK, True)
        await node.quiet()
