"""A member of the fleet that knows the secret and can't be relied on: it owns blocks, names itself, and misbehaves.

    with Liar("short", secret, cloud) as liar:
        ... a fleet whose static list has liar.url ...
        assert liar.deceived > 0

Manners that no client notices; of its answers to asks: `nonsense` (no JSON), `nobody` (a source that is no member); of
those for blocks: `short` (half of the bytes, and an end), `stalls` (half of them, and silence), `long`, `silent`,
`refuses` (500), `unproven` (no proof that it is a member). And two that may cost a client its read, for bytes go out as
they come: `wrong` (a byte is not what the checksum says), `consistent` (nor is that).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from typing import Any, Self

from proxy.blocks import update_sum
from proxy.fleet.fill_ids import new_fill_id
from proxy.fleet.members.status import NodeStatus, render_status
from proxy.fleet.protocol import ASK_PATH, BLOCK_PATH, HELLO_PATH, Ask, NamedSource, WantedBlock, parse_query
from proxy.fleet.roster import Member
from proxy.fleet.signing import PROOF_HEADER, Caller, Proofs, verify
from proxy.fleet.tail import render_tail
from proxy.objects import SumKind
from proxy.relay.digests import derive_key, digest_bytes
from tests.fakes.scripted import Exchange, ScriptedServer
from tests.fleet.held_origin import HeldOrigin

MANNERS = ("nonsense", "nobody", "short", "stalls", "long", "silent", "refuses", "unproven")
WAIT_S = 30.0


class Liar:
    """Runs in a thread. `deceived` counts the requests that it has answered by its manner."""

    def __init__(self, manner: str, secret: str, cloud: HeldOrigin, capacity_bytes: int = 1 << 30) -> None:
        self.manner = manner
        self.node_id = secrets.token_hex(16)
        self.url = ""
        self.deceived = 0
        self._secret = secret.encode()
        self._cloud = cloud
        self._capacity_bytes = capacity_bytes
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._ending: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(WAIT_S)

    async def _run(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        async with ScriptedServer(self._handle) as server:
            self.url = server.url
            self._ready.set()
            await self._ending.wait()

    async def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        caller = verify(
            [self._secret],
            request.get("authorization"),
            receivers=(self.node_id, ""),
            method=request.method,
            target=request.target,
            now_s=time.time(),
        )
        if not isinstance(caller, Caller):
            await exchange.respond(401)
            return
        path, _, query = request.target.partition(b"?")
        if path == HELLO_PATH.encode():
            member = Member(self.node_id, self.url, self.url, capacity_bytes=self._capacity_bytes)
            await _say(exchange, caller.proofs, render_status(NodeStatus(member)))
        elif path == ASK_PATH.encode():
            await self._answer_ask(exchange, Ask.parse(parse_query(query)), caller.proofs)
        elif path == BLOCK_PATH.encode():
            self.deceived += 1
            await self._answer_block(exchange, WantedBlock.parse(parse_query(query)), caller.proofs)
        else:
            await _say(exchange, caller.proofs, b"{}", 404)

    async def _answer_ask(self, exchange: Exchange, ask: Ask, proofs: Proofs) -> None:
        answer: Any = NamedSource(self.node_id, new_fill_id(ask.level)).render()
        if self.manner in ("nonsense", "nobody"):
            self.deceived += 1
            answer = "nonsense" if self.manner == "nonsense" else NamedSource("f" * 32, new_fill_id(ask.level)).render()
        await _say(exchange, proofs, json.dumps(answer).encode())

    async def _answer_block(self, exchange: Exchange, wanted: WantedBlock, proofs: Proofs) -> None:
        start = wanted.index * self._cloud.block_bytes
        block = bytearray(self._cloud.content(wanted.version.key)[start : start + self._cloud.block_bytes])
        crc32c = update_sum(SumKind.CRC32C, memoryview(block))
        digest = digest_bytes(derive_key(self._secret), memoryview(block))
        if self.manner in ("wrong", "consistent"):
            block[(wanted.start + wanted.end) // 2] ^= 1
        if self.manner == "consistent":
            crc32c = update_sum(SumKind.CRC32C, memoryview(block))
            digest = digest_bytes(derive_key(self._secret), memoryview(block))
        body = bytes(block[wanted.start : wanted.end])
        half, whole = body[: len(body) // 2], body + render_tail(crc32c, proofs, digest if wanted.proved else None)
        proof = [(PROOF_HEADER, proofs.stream(200, len(whole)))]
        match self.manner:
            case "silent":
                await exchange.stall()
            case "refuses":
                await _say(exchange, proofs, b"", 500)
            case "unproven":
                await exchange.respond(200, whole)
            case "long":
                await exchange.respond(200, whole + b"more", [(PROOF_HEADER, proofs.stream(200, len(whole) + 4))])
            case "short" | "stalls":
                await exchange.send_head(200, proof, content_length=len(whole))
                await exchange.send(half)
                await exchange.stall() if self.manner == "stalls" else exchange.close()
            case _:
                await exchange.respond(200, whole, proof)


async def _say(exchange: Exchange, proofs: Proofs, body: bytes, status: int = 200) -> None:
    await exchange.respond(status, body, [(PROOF_HEADER, proofs.answer(status, body))])
