"""Who is answered: members of the fleet, for what they signed, once; everyone else is told nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from proxy.fleet.fill_ids import ZONE, new_fill_id
from proxy.fleet.protocol import HELLO_PATH
from proxy.fleet.signing import PROOF_HEADER, WINDOW_S
from proxy.relay.errors import PeerFailed
from tests.gateway.engine import BLOCK_BYTES
from tests.peering.answering_node import SECRET, AnsweringNode, start_answering_node, start_asking_node

CONTENT = os.urandom(BLOCK_BYTES)


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[AnsweringNode]:
    async with start_answering_node(tmp_path, CONTENT) as made:
        await made.engine.get("k")
        yield made


async def ask(node: AnsweringNode, target: bytes, authorization: str | None, method: str = "GET") -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return await client.request(method, node.url + target.decode(), headers=headers)


async def test_a_member_gets_the_block_and_the_proof_that_a_member_gave_it(node: AnsweringNode) -> None:
    target = node.wanted(new_fill_id(ZONE)).target()
    signed = node.sign(target)
    answer = await ask(node, target, signed.authorization)
    assert answer.status_code == 200
    assert signed.proves_stream(answer.headers[PROOF_HEADER], 200, len(answer.content))
    assert answer.content[:BLOCK_BYTES] == CONTENT
    await node.quiet()


@pytest.mark.parametrize(
    "change",
    [
        {"receiver": "ff"},
        {"receiver": ""},
        {"method": "PUT"},
        {"now_s": 0},
        {"target": b"/-/peer/block?other"},
    ],
)
async def test_what_was_signed_for_something_else_is_refused(node: AnsweringNode, change: dict[str, object]) -> None:
    target = node.wanted(new_fill_id(ZONE)).target()
    signed = node.sign(**({"target": target} | change))  # type: ignore[arg-type]
    answer = await ask(node, target, signed.authorization)
    assert answer.status_code == 401
    assert PROOF_HEADER not in answer.headers
    assert CONTENT[:100] not in answer.content


@pytest.mark.parametrize("authorization", [None, "", "Warmstart nonsense", "AWS4-HMAC-SHA256 x", "Bearer x"])
async def test_who_has_no_signature_learns_nothing_whatever_it_asks(
    node: AnsweringNode, authorization: str | None
) -> None:
    for target in (node.wanted(1).target(), HELLO_PATH.encode(), b"/-/peer/record?key=k", b"/-/peer/", b"/"):
        for method in ("GET", "POST", "DELETE"):
            answer = await ask(node, target, authorization, method)
            assert answer.status_code == 401
            assert PROOF_HEADER not in answer.headers


async def test_a_request_that_was_caught_on_the_wire_is_answered_once(node: AnsweringNode) -> None:
    target = node.wanted(new_fill_id(ZONE)).target()
    signed = node.sign(target)
    assert (await ask(node, target, signed.authorization)).status_code == 200
    assert (await ask(node, target, signed.authorization)).status_code == 401
    node.now_s += WINDOW_S + 2
    assert (await ask(node, target, signed.authorization)).status_code == 401


async def test_a_member_with_another_method_is_told_so(node: AnsweringNode) -> None:
    target = node.wanted(new_fill_id(ZONE)).target()
    for method in ("POST", "PUT", "DELETE"):
        signed = node.sign(target, method=method)
        answer = await ask(node, target, signed.authorization, method)
        assert answer.status_code == 405
        assert signed.proves_answer(answer.headers[PROOF_HEADER], 405, answer.content)


async def test_hello_is_answered_to_whoever_is_a_member_and_does_not_know_this_node(node: AnsweringNode) -> None:
    for receiver in ("", node.fleet.me):
        signed = node.sign(HELLO_PATH.encode(), receiver=receiver)
        answer = await ask(node, HELLO_PATH.encode(), signed.authorization)
        assert answer.json() == {"node": node.fleet.me}
    signed = node.sign(HELLO_PATH.encode(), receiver="ff")
    assert (await ask(node, HELLO_PATH.encode(), signed.authorization)).status_code == 401


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/-/peer/block", 400),
        (b"/-/peer/block?key=a&key=b", 400),
        (b"/-/peer/block?key=%ff", 400),
        (b"/-/peer/record?origin=x", 400),
        (b"/-/peer/ask?digest=00", 404),
        (b"/-/peer/else", 404),
    ],
)
async def test_what_makes_no_sense_is_refused(node: AnsweringNode, target: bytes, status: int) -> None:
    answer = await ask(node, target, node.sign(target).authorization)
    assert answer.status_code == status
    assert PROOF_HEADER in answer.headers


async def test_an_asker_believes_only_a_member(node: AnsweringNode) -> None:
    """A stranger at a member's address, and a member that has another secret by now."""

    async def stranger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = bytes(BLOCK_BYTES + 8)
        writer.write(b"HTTP/1.1 200 OK\r\nx-warmstart-proof: 00\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with start_asking_node(node, secrets=[b"another secret, as long"]) as asking:
        with pytest.raises(PeerFailed) as refused:
            await asking.read(node.wanted(new_fill_id(ZONE)))
        assert (refused.value.reason, refused.value.faulty) == ("refused", True)
    server = await asyncio.start_server(stranger, "127.0.0.1", 0)
    async with start_asking_node(node) as asking:
        node.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(PeerFailed) as refused:
            await asking.read(node.wanted(new_fill_id(ZONE)))
        assert (refused.value.reason, refused.value.faulty) == ("foreign", True)
    server.close()
    await server.wait_closed()


async def test_while_the_fleet_changes_its_secret_both_are_good(node: AnsweringNode) -> None:
    async with start_asking_node(node, secrets=[b"the new one, as long", SECRET]) as asking:
        with pytest.raises(PeerFailed) as refused:
            await asking.read(node.wanted(new_fill_id(ZONE)))
        assert refused.value.reason == "refused"
    async with start_asking_node(node, secrets=[SECRET, b"the new one, as long"]) as asking:
        assert (await asking.read(node.wanted(new_fill_id(ZONE))))[0] == CONTENT


async def test_nobody_there_is_gone(node: AnsweringNode) -> None:
    async with start_asking_node(node) as asking:
        node.url = "http://127.0.0.1:1"
        with pytest.raises(PeerFailed) as failed:
            await asking.read(node.wanted(new_fill_id(ZONE)))
        assert (failed.value.reason, failed.value.faulty) == ("gone", True)
