"""A fleet in one process: real stores, flights, block directories, relays and sockets, and whatever a test lets go
wrong.

`Faults` decide, by a seed, what happens to each ask, each body and each request to the origin. Wrong bytes come to who
reads them as they would from a broken machine: on the wire, before any checksum.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
from uvicorn.server import ServerState

from proxy.blocks import ByteSink
from proxy.cache.shared import SharedTables
from proxy.errors import OriginUnavailable
from proxy.fleet.directory import BlockDirectory
from proxy.fleet.protocol import Ask, NamedSource, WantedBlock
from proxy.fleet.roster import Member, Roster, render_roster
from proxy.fleet.state import UPLOADS, FleetState
from proxy.fleet.tail import Tail
from proxy.fleet.view import FleetView
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from proxy.peering.blocks import Blocks
from proxy.peering.data_app import DataApp
from proxy.peering.keys import Keys
from proxy.relay.client import PeerClient
from proxy.relay.digests import derive_key
from proxy.relay.errors import PeerFailed
from proxy.relay.lease import Leases
from proxy.relay.relay import Relays
from proxy.wire import WireClient
from tests.fakes.peers import MemoryRedis
from tests.gateway.engine import BLOCK_BYTES, Engine, ObjectOrigin
from tests.waiting import until

SECRET = b"0123456789abcdef"


@dataclass
class Faults:
    """Each is the share of its occasions at which it happens."""

    seed: int = 0
    ask_fails: float = 0.0
    body_breaks: float = 0.0
    body_lies: float = 0.0
    tail_is_lost: float = 0.0
    origin_breaks: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def happens(self, share: float) -> bool:
        return self.random.random() < share

    def end(self) -> None:
        self.ask_fails = self.body_breaks = self.body_lies = self.tail_is_lost = self.origin_breaks = 0.0


class _Broken(Exception):
    pass


class _FaultySink:
    """Changes a byte, or breaks off."""

    def __init__(self, sink: ByteSink, faults: Faults, length: int) -> None:
        self._sink = sink
        self._breaks_at = faults.random.randrange(length) if faults.happens(faults.body_breaks) else length + 1
        self._lies_at = faults.random.randrange(length) if faults.happens(faults.body_lies) else length + 1
        self._taken = 0

    def write(self, data: memoryview) -> Awaitable[None] | None:
        if self._taken + len(data) > self._breaks_at:
            raise _Broken
        if self._taken <= self._lies_at < self._taken + len(data):
            wrong = bytearray(data)
            wrong[self._lies_at - self._taken] ^= 0xFF
            data = memoryview(wrong)
        self._taken += len(data)
        return self._sink.write(data)


class SimulatedPeers:
    """One node's way to the others."""

    def __init__(self, fleet: SimulatedFleet, node_id: str) -> None:
        self._fleet = fleet
        self._node_id = node_id
        self.wire = WireClient(head_timeout_s=2.0, read_timeout_s=2.0, lively=True)
        self._client = PeerClient(self.wire, node_id, [SECRET])

    async def ask(self, owner: Member, ask: Ask) -> NamedSource:
        await asyncio.sleep(0)
        faults = self._fleet.faults
        if faults.happens(faults.ask_fails):
            raise PeerFailed(owner.node_id, faults.random.choice(["gone", "silent", "unavailable"]), "a fault")
        _, _, query = ask.target().decode().partition("?")
        values = self._fleet.nodes[owner.node_id].directory.answer(
            {name: value.replace("%2C", ",") for name, _, value in (pair.partition("=") for pair in query.split("&"))},
            self._node_id,
        )
        return NamedSource.parse(json.loads(json.dumps(values)))

    async def read_block(self, source: Member, wanted: WantedBlock, sink: ByteSink) -> Tail:
        faults = self._fleet.faults
        try:
            worker = faults.random.choice(self._fleet.nodes[source.node_id].workers)  # as the kernel picks one
            tail = await self._client.read_block(
                replace(source, url=worker.url), wanted, _FaultySink(sink, faults, wanted.end - wanted.start)
            )
        except _Broken:
            raise PeerFailed(source.node_id, faults.random.choice(["gone", "silent"]), "a fault") from None
        if faults.happens(faults.tail_is_lost):
            raise PeerFailed(source.node_id, faults.random.choice(["gone", "silent"]), "a fault at the end")
        return tail


class SimulatedWorker:
    """One of a node's processes: all its own but the fleet state and the disk."""

    def __init__(
        self, fleet: SimulatedFleet, node: SimulatedNode, path: Path, row: int, tables: SharedTables | None
    ) -> None:
        self.peers = SimulatedPeers(fleet, node.node_id)
        self.view = FleetView(node.fleet_state, node.node_id)
        self.leases = Leases(fleet.redis, "test", node.node_id, where=self.view.url)
        self.relays = Relays(
            self.view, self.peers, self.leases, row, digest_key=derive_key(SECRET), prove=lambda source: True
        )
        self.engine = Engine(path, fleet.origin, relays=self.relays, tables=tables, writer_id=f"w{row}")
        origins = {fleet.origin.id: fleet.origin}
        blocks = Blocks(self.engine.supply, origins, node.fleet_state, row, block_bytes=BLOCK_BYTES, secret=SECRET)
        self.app = DataApp(node.node_id, [SECRET], blocks, Keys(self.engine.versions, origins), dict)
        self.state = ServerState()
        self.url = ""
        self.server: asyncio.Server | None = None

    async def serve(self) -> None:
        protocol = ExpressProtocol.limited(Limits())
        config = uvicorn.Config(self.app, http=protocol, ws="none", lifespan="off", access_log=False, log_config=None)
        config.load()
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = await asyncio.get_running_loop().create_server(
            lambda: protocol(config=config, server_state=self.state, app_state={}), sock=listener
        )

    def break_off(self) -> None:
        """Ends every fill that has bytes, and leaves those to others."""
        flights = self.engine.flights
        for key, task in flights._tasks.items():
            if flights._arrivals[key].progress:
                task.cancel()

    async def aclose(self) -> None:
        assert self.server is not None
        self.server.close()
        await self.engine.aclose()
        for connection in list(self.state.connections):
            connection.shutdown()
        await self.peers.wire.aclose()
        await until(lambda: not self.state.tasks, "the end of every request")
        await self.server.wait_closed()
        await self.leases.aclose()


class SimulatedNode:
    def __init__(self, fleet: SimulatedFleet, path: Path, node_id: str, workers: int) -> None:
        self.node_id = node_id
        self.fleet_state = FleetState.create()
        self.directory = BlockDirectory(node_id, self.fleet_state)
        self.workers: list[SimulatedWorker] = []
        for row in range(workers):
            tables = self.workers[0].engine.tables if self.workers else None
            self.workers.append(SimulatedWorker(fleet, self, path / node_id, row, tables))

    @property
    def member(self) -> Member:
        return Member(self.node_id, self.workers[0].url, self.workers[0].url, capacity_bytes=1)

    def know(self, members: list[Member]) -> None:
        self.fleet_state.publish_roster(render_roster(Roster(tuple(members))))

    @property
    def idle(self) -> bool:
        return self.fleet_state.total(UPLOADS) == 0 and all(
            worker.engine.flights.count() == 0 for worker in self.workers
        )


class SimulatedFleet:
    """`nodes` by their ids; all of them know each other."""

    def __init__(self, path: Path, count: int, faults: Faults, workers: int) -> None:
        self.faults = faults
        self.redis = MemoryRedis()
        self.origin = ObjectOrigin()
        self.origin.script = self._origin_script
        names = [f"{number:02x}" for number in range(1, count + 1)]
        self.nodes = {name: SimulatedNode(self, path, name, workers) for name in names}

    async def _origin_script(self, number: int, sent: int) -> None:
        if self.faults.happens(self.faults.origin_breaks):
            raise OriginUnavailable("a fault")

    @property
    def members(self) -> list[Member]:
        return [node.member for node in self.nodes.values()]

    async def quiet(self) -> None:
        await until(lambda: all(node.idle for node in self.nodes.values()), "nothing under way", 60.0)

    @property
    def workers(self) -> list[SimulatedWorker]:
        return [worker for node in self.nodes.values() for worker in node.workers]


@asynccontextmanager
async def start_simulated_fleet(
    path: Path, count: int, faults: Faults | None = None, *, workers: int = 1
) -> AsyncIterator[SimulatedFleet]:
    fleet = SimulatedFleet(path, count, faults or Faults(), workers)
    for worker in fleet.workers:
        await worker.serve()
    for node in fleet.nodes.values():
        node.know(fleet.members)
    try:
        yield fleet
    finally:
        fleet.faults.end()
        for worker in reversed(fleet.workers):
            await worker.aclose()
        for node in fleet.nodes.values():
            node.fleet_state.close()
