"""Other nodes of a fleet, in memory: owners that name sources, sources that do what a test tells them; and a Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxy.blocks import ByteSink, update_sum
from proxy.fleet.fill_ids import new_fill_id
from proxy.fleet.owners import hash_block
from proxy.fleet.protocol import Ask, NamedSource, WantedBlock
from proxy.fleet.redis import REDIS_ERRORS
from proxy.fleet.roster import Member, Roster, render_roster
from proxy.fleet.state import FleetState
from proxy.fleet.tail import Tail
from proxy.fleet.view import FleetView
from proxy.objects import ObjectRecord, ObjectVersion, SumKind
from proxy.relay import lease
from proxy.relay.errors import PeerFailed
from proxy.relay.relay import Relays
from tests.fakes.memory import pump

Serve = Callable[[WantedBlock, ByteSink], Awaitable[int | None]]
BLOCK_BYTES = 100


def member(node_id: str, zone: str = "", **more: Any) -> Member:
    return Member(node_id, f"http://{node_id}", f"http://{node_id}:1", zone, 1 << 30, **more)


def record_of(content: bytes, *, sums: bool = False, key: str = "k") -> ObjectRecord:
    version = ObjectVersion("s3://test", "b", key, 'etag "1"', len(content))
    values = ((SumKind.CRC32C, update_sum(SumKind.CRC32C, memoryview(content))),) if sums else ()
    return ObjectRecord(version, '"1"', None, (), 0.0, sums=values)


def crc32c(data: bytes) -> int:
    return update_sum(SumKind.CRC32C, memoryview(data))


@dataclass
class ScriptedPeers:
    """`serves`: what each node does at its first read, its second, and so on; the last one again and again.

    An owner names itself, unless `names` says whom; a name that was tried is passed over, as a directory does. `gone`
    owners answer nothing. `whole`: what nodes do that are asked for the block only if they have all of it, by no fill's
    name; all others have nothing.
    """

    serves: dict[str, list[Serve]] = field(default_factory=dict)
    names: dict[str, Sequence[str | None]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    asks: list[tuple[str, Ask]] = field(default_factory=list)
    reads: list[tuple[str, WantedBlock]] = field(default_factory=list)
    fill_ids: dict[tuple[str, int], int] = field(default_factory=dict)
    whole: dict[str, Serve] = field(default_factory=dict)
    whole_asked: list[str] = field(default_factory=list)

    async def ask(self, owner: Member, ask: Ask) -> NamedSource:
        self.asks.append((owner.node_id, ask))
        if owner.node_id in self.gone:
            raise PeerFailed(owner.node_id, "gone", "no connection")
        fill_id = self.fill_ids.setdefault((owner.node_id, ask.level), new_fill_id(ask.level))
        named = self.names.get(owner.node_id, [owner.node_id])
        return NamedSource(next((name for name in named if name not in ask.tried), None), fill_id)

    async def read_block(self, source: Member, wanted: WantedBlock, sink: ByteSink) -> Tail:
        return Tail(await self._serve(source, wanted, sink))

    async def _serve(self, source: Member, wanted: WantedBlock, sink: ByteSink) -> int | None:
        if not wanted.fill_id:
            self.whole_asked.append(source.node_id)
            if source.node_id not in self.whole:
                raise PeerFailed(source.node_id, "missing", "not here")
            return await self.whole[source.node_id](wanted, sink)
        self.reads.append((source.node_id, wanted))
        turns = self.serves[source.node_id]
        return await (turns.pop(0) if len(turns) > 1 else turns[0])(wanted, sink)

    def spans(self, node_id: str) -> list[tuple[int, int]]:
        """What was asked of a node, within the block."""
        return [(wanted.start, wanted.end) for name, wanted in self.reads if name == node_id]


def gives(block: bytes, *, tail: bool = True, crc: int | None = None) -> Serve:
    """All that is asked for. `tail` False: a body whose tail knows nothing."""

    async def serve(wanted: WantedBlock, sink: ByteSink) -> int | None:
        step = max(10, len(block) // 16)
        for start in range(wanted.start, wanted.end, step):
            await pump(sink, block[start : min(start + step, wanted.end)])
        return (crc32c(block) if crc is None else crc) if wanted.last and tail else None

    return serve


def breaks(node_id: str, block: bytes, after_bytes: int, reason: str = "gone") -> Serve:
    """So many bytes, then nothing more."""

    async def serve(wanted: WantedBlock, sink: ByteSink) -> int | None:
        data = block[wanted.start : min(wanted.start + after_bytes, wanted.end)]
        if data:
            await pump(sink, data)
        raise PeerFailed(node_id, reason, "as scripted")

    return serve


class MemoryRedis:
    """What the leases' two scripts do, and no clock: nothing expires but by `keys.clear`."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.commands: list[tuple[str, ...]] = []
        self.error: Exception | None = None

    async def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        assert numkeys == 1
        if self.error is not None:
            raise self.error
        key, first, second, third = keys_and_args
        held = self.keys.get(key)
        if script == lease._TAKE:
            if held is not None and held != third:
                return held.encode()
            self.keys[key] = first
            return None
        assert script == lease._KEEP
        if held != first:
            return 0
        if second == "":
            del self.keys[key]
        else:
            self.keys[key] = second
        return 1


class Neighbours:
    """One node's view of a fleet. `order` is that of the block's owners; `me` names this node."""

    def __init__(
        self, record: ObjectRecord, index: int, members: Sequence[Member], *, me: int = -1, redis: Any = None
    ) -> None:
        self.block_hash = hash_block(record.version.digest, index)
        self.fleet_state = FleetState.create()
        self.fleet_state.publish_roster(render_roster(Roster(tuple(members))))
        names = [each.node_id for each in FleetView(self.fleet_state, "?").order(self.block_hash)]
        self.order = names
        self.me = names[me]
        self.now_s = 1000.0
        self.view = FleetView(self.fleet_state, self.me, clock=lambda: self.now_s)
        self.peers = ScriptedPeers()
        self.leases = lease.Leases(redis, "test", self.me, REDIS_ERRORS)
        self.relays = Relays(self.view, self.peers, self.leases, 0)

    def close(self) -> None:
        self.fleet_state.close()
