"""What a worker needs of the fleet, built once from the settings: whom to read from, and what to answer other nodes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.cache.shared import SharedTables
from proxy.cache.store import Store
from proxy.composition.store import read_disks
from proxy.fill.limiter import FillLimiter
from proxy.fill.supply import Supply
from proxy.fleet.fill_ids import REGION, ZONE
from proxy.fleet.freshness import Freshness
from proxy.fleet.members.stats import NodeStats
from proxy.fleet.members.status import NodeStatus, status_values
from proxy.fleet.messages import Seals
from proxy.fleet.roster import Member
from proxy.fleet.state import FleetState
from proxy.fleet.view import FleetView
from proxy.gateway.key_owner import KeyOwners
from proxy.gateway.versions import Versions
from proxy.origin import Origin
from proxy.peering.blocks import Blocks
from proxy.peering.data_app import DataApp
from proxy.peering.keys import Keys
from proxy.relay.client import SILENCE_S, PeerClient
from proxy.relay.digests import derive_key
from proxy.relay.lease import Leases
from proxy.relay.relay import Relays
from proxy.wire import WireClient
from proxy.wire.tls import make_tls_context

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from proxy.config.cluster import ProveBlocks
    from proxy.config.settings import Settings
    from proxy.fleet.publisher import InvalidationPublisher

FLEET_WINDOW_BLOCKS = 64  # how far a reader's blocks run ahead of it: some come late, and others must go on meanwhile


@dataclass(slots=True)
class FleetParts:
    """Build it with the event loop running; `row` is the worker's in the fleet state."""

    fleet_state: FleetState
    row: int
    view: FleetView
    relays: Relays
    leases: Leases
    key_owners: KeyOwners
    freshness: Freshness | None
    publisher: InvalidationPublisher | None
    redis: Redis | None
    secrets: tuple[bytes, ...]
    stats: NodeStats
    wire: WireClient

    def peer_app(self, supply: Supply, versions: Versions, origins: Mapping[str, Origin], store: Store) -> DataApp:
        """What the data port answers to other nodes."""
        by_id = {origin.id: origin for origin in origins.values() if origin.id not in self.relays.private}
        blocks = Blocks(
            supply, by_id, self.fleet_state, self.row, block_bytes=store.block_bytes, secret=self.secrets[0]
        )
        keys = Keys(versions, by_id, self.freshness)
        return DataApp(self.view.node_id, self.secrets, blocks, keys, self._describe)

    def is_located(self) -> bool:
        """Whether the control process has written down who is here, this node among them."""
        return self.view.me() is not None

    def _describe(self) -> dict[str, Any]:
        me = self.view.me()
        if me is None:
            raise ValueError("this node does not know its own address yet")
        return status_values(NodeStatus(me, self.stats.read()))

    async def aclose(self) -> None:
        """After the flights have ended."""
        if self.publisher is not None:
            await self.publisher.aclose()
        await self.leases.aclose()
        await self.wire.aclose()
        if self.redis is not None:
            await self.redis.aclose()


def build_fleet(
    settings: Settings,
    tables: SharedTables,
    fleet_state: FleetState,
    row: int,
    node_id: str,
    origins: Mapping[str, Origin],
) -> FleetParts:
    """Contacts nobody. Raises ConfigInvalid."""
    cluster = settings.cluster
    assert cluster is not None
    view = FleetView(fleet_state, node_id)
    redis = publisher = None
    redis_errors: tuple[type[Exception], ...] = ()
    if cluster.redis is not None:
        from proxy.fleet.channel import InvalidationChannel, sender_name
        from proxy.fleet.publisher import InvalidationPublisher
        from proxy.fleet.redis import REDIS_ERRORS, open_configured

        redis_errors = REDIS_ERRORS
        redis = open_configured(cluster.redis.get_secret_value())
        channel = InvalidationChannel(redis, cluster.prefix, Seals(cluster.secrets()))
        publisher = InvalidationPublisher(channel, sender_name(node_id, fleet_state))
    wire = WireClient(
        connect_timeout_s=SILENCE_S,
        tls_timeout_s=2 * SILENCE_S,
        head_timeout_s=SILENCE_S,
        read_timeout_s=SILENCE_S,
        ssl_context=_tls_context(cluster.ca_file),
        tls_name=cluster.tls_name,
        lively=True,
    )
    secrets = cluster.secrets()
    peers = PeerClient(wire, node_id, secrets)
    private = frozenset(origins[name].id for name, rule in settings.origins.items() if rule.private)
    leases = Leases(redis, cluster.prefix, node_id, redis_errors, where=view.url)
    freshness = Freshness(fleet_state) if redis is not None else None
    return FleetParts(
        fleet_state=fleet_state,
        row=row,
        view=view,
        relays=Relays(
            view,
            peers,
            leases,
            row,
            private,
            digest_key=derive_key(secrets[0]),
            prove=partial(_needs_proof, cluster.prove_blocks),
            digested=cluster.prove_blocks == "always" or (cluster.prove_blocks == "auto" and settings.tls is None),
        ),
        leases=leases,
        key_owners=KeyOwners(view, peers, private, freshness),
        freshness=freshness,
        publisher=publisher,
        redis=redis,
        secrets=secrets,
        stats=NodeStats(fleet_state, partial(read_disks, settings, tables)),
        wire=wire,
    )


def room_above(fills_max: int, bytes_in_flight_max: int) -> dict[int, FillLimiter]:
    """Room for fills that wait for other nodes, each level its own."""
    return {
        level: FillLimiter(bytes_in_flight_max=bytes_in_flight_max, fills_max=fills_max) for level in (REGION, ZONE)
    }


def _needs_proof(rule: ProveBlocks, source: Member) -> bool:
    """Whether a source must prove its bytes: where TLS does not do that already."""
    return rule == "always" or (rule == "auto" and not source.url.startswith("https://"))


def _tls_context(ca_file: Path | None) -> ssl.SSLContext | None:
    return make_tls_context(ca_file=ca_file) if ca_file is not None else None
