"""A node that answers other nodes, and one that asks it: the real store, flights and protocol, in one event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from proxy.blocks import ByteSink
from proxy.fleet.fill_ids import ZONE, new_fill_id
from proxy.fleet.protocol import WantedBlock
from proxy.fleet.roster import Member
from proxy.fleet.signing import Signed, sign
from proxy.fleet.state import UPLOADS
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from proxy.objects import ObjectRecord, SumKind
from proxy.peering.blocks import Blocks
from proxy.peering.data_app import DataApp
from proxy.peering.keys import Keys
from proxy.relay.client import PeerClient
from proxy.relay.digests import derive_key
from proxy.wire import WireClient
from tests.fakes.peers import Neighbours, gives, member
from tests.gateway.engine import BLOCK_BYTES, Engine, ObjectOrigin
from tests.waiting import until
from tests.wire.sinks import CopyingSink

# An asker that goes away is seen at once, where a client of another kind may only have said all that it has to say.
LIMITS = Limits(half_close_s=0)

SECRET = b"0123456789abcdef"
ASKER = "ee"
CONTENT = os.urandom(2 * BLOCK_BYTES - 1000)
BLOCK = CONTENT[:BLOCK_BYTES]
HALF = BLOCK_BYTES // 2
LAST_BYTES = len(CONTENT) - BLOCK_BYTES


class AnsweringNode:
    """`me` is this node's place in the order of the first block's owners. `now_s` is its clock, Unix time."""

    def __init__(
        self, path: Path, content: bytes, *, me: int, sums: tuple[SumKind, ...], secrets: Sequence[bytes]
    ) -> None:
        self.path = path
        self.content = content
        self.origin = ObjectOrigin()
        self.record: ObjectRecord = self.origin.put("k", content, sums=sums)
        self.fleet = Neighbours(self.record, 0, [member(f"{number:02x}") for number in range(4)], me=me)
        self.fleet.peers.serves = {name: [self._give] for name in self.fleet.order}
        self.fleet_state = self.fleet.fleet_state
        self.block_hash = self.fleet.block_hash
        self.engine = Engine(path, self.origin, relays=replace(self.fleet.relays, digest_key=derive_key(secrets[0])))
        self.now_s = time.time()
        origins = {self.origin.id: self.origin}
        self.blocks = Blocks(
            self.engine.supply, origins, self.fleet_state, 0, block_bytes=BLOCK_BYTES, secret=secrets[0]
        )
        self.keys = Keys(self.engine.versions, origins)
        self.app = DataApp(
            self.fleet.me, secrets, self.blocks, self.keys, lambda: {"node": self.fleet.me}, lambda: self.now_s
        )
        self.url = ""
        self.connections: set[asyncio.Transport] = set()

    async def _give(self, wanted: WantedBlock, sink: ByteSink) -> int | None:
        """What other nodes do, where a test does not say otherwise."""
        start = wanted.index * BLOCK_BYTES
        return await gives(self.content[start : start + BLOCK_BYTES])(wanted, sink)

    @property
    def member(self) -> Member:
        return Member(self.fleet.me, self.url, self.url)

    @property
    def uploads(self) -> int:
        return self.fleet_state.total(UPLOADS)

    def sign(self, target: bytes, **more: Any) -> Signed:
        values = {"sender": ASKER, "receiver": self.fleet.me, "method": "GET", "now_s": self.now_s, **more}
        return sign([SECRET], target=target, **values)

    def wanted(
        self, fill_id: int, start: int = 0, end: int = BLOCK_BYTES, *, index: int = 0, **more: Any
    ) -> WantedBlock:
        more = {"last": end == BLOCK_BYTES, "sums": self.record.sums, **more}
        return WantedBlock(self.record.version, index, start, end, fill_id, **more)

    async def quiet(self) -> None:
        """Returns when nothing is uploaded, and nothing on its way here."""
        await until(lambda: self.uploads == 0, "the end of the uploads")
        await self.engine.quiet()


class OriginBarrier:
    """Lets the origin give so many bytes of its first request, then waits until it is opened."""

    def __init__(self, node: AnsweringNode, after_bytes: int = BLOCK_BYTES // 2) -> None:
        self.opened = asyncio.Event()
        self.error: Exception | None = None
        self.after_bytes = after_bytes
        node.origin.script = self

    async def __call__(self, number: int, sent: int) -> None:
        if sent >= self.after_bytes:
            await self.opened.wait()
            if self.error is not None:
                raise self.error


class AskingNode:
    """Another node's client; `silence_s`: how long it takes silence."""

    def __init__(self, node: AnsweringNode, silence_s: float, secrets: Sequence[bytes] = (SECRET,)) -> None:
        self.node = node
        self.wire = WireClient(head_timeout_s=silence_s, read_timeout_s=silence_s, lively=True)
        self.peers = PeerClient(self.wire, ASKER, secrets, clock=lambda: node.now_s)

    async def read(self, wanted: WantedBlock, sink: ByteSink | None = None) -> tuple[bytes, int | None]:
        """The bytes, and the checksum behind them. Raises PeerFailed."""
        copying = CopyingSink()
        async with asyncio.timeout(60):
            tail = await self.peers.read_block(self.node.member, wanted, sink or copying)
        return bytes(copying.data), tail.crc32c


@asynccontextmanager
async def start_answering_node(
    path: Path,
    content: bytes,
    *,
    me: int = 0,
    sums: tuple[SumKind, ...] = (),
    secrets: Sequence[bytes] = (SECRET,),
) -> AsyncIterator[AnsweringNode]:
    node = AnsweringNode(path, content, me=me, sums=sums, secrets=secrets)
    config = uvicorn.Config(
        node.app,
        http=ExpressProtocol.limited(LIMITS),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
    )
    config.load()
    state, loop = ServerState(), asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    server = await loop.create_server(
        lambda: ExpressProtocol.limited(LIMITS)(config=config, server_state=state, app_state={}), sock=listener
    )
    node.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield node
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        await until(lambda: not state.tasks, "the end of every request")
        await server.wait_closed()
        await node.engine.aclose()
        assert node.uploads == 0
        node.fleet.close()


@asynccontextmanager
async def start_asking_node(
    node: AnsweringNode, *, silence_s: float = 20.0, secrets: Sequence[bytes] = (SECRET,)
) -> AsyncIterator[AskingNode]:
    asking = AskingNode(node, silence_s, secrets)
    try:
        yield asking
    finally:
        await asking.wire.aclose()


def own(node: AnsweringNode, level: int = ZONE) -> int:
    """As the block directory does at the first ask: the fill is this node's."""
    fill_id = new_fill_id(level)
    node.fleet_state.own(node.block_hash + level, fill_id)
    return fill_id
