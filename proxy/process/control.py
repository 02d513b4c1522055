"""The control process of a fleet's node: finds the other nodes, and answers them, away from the loops that serve.

How it works. It finds the members (`proxy.fleet.members`) and writes the roster in the node's fleet state, where the
workers read it; it is the one place of the node that answers asks (`proxy.peering.control_app`). At SIGTERM it says at
once that the node is leaving, so that nobody sends it new work, and goes on answering until the supervisor lets it go,
when the workers have drained: only then it takes the node out of the membership. When it dies it is started again, and
the workers go on meanwhile with the roster that they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from proxy.cache.layout import open_layouts
from proxy.cache.shared import SharedTables
from proxy.composition.store import build_store, read_disks
from proxy.composition.upstream import build_shared_limiters
from proxy.fleet.channel import InvalidationChannel, sender_name
from proxy.fleet.directory import BlockDirectory
from proxy.fleet.members.advertise import AddressFinder, address_finder
from proxy.fleet.members.heartbeat import RedisMembership
from proxy.fleet.members.registry import MemberRegistry
from proxy.fleet.members.stats import NodeStats
from proxy.fleet.messages import Seals
from proxy.fleet.rate_store import RateStore
from proxy.fleet.redis import REDIS_ERRORS, open_configured
from proxy.fleet.roster import Member
from proxy.fleet.state import FleetState
from proxy.fleet.subscriber import InvalidationSubscriber
from proxy.lanes.express import ExpressProtocol
from proxy.peering.control_app import ControlApp
from proxy.process.children import LET_GO, LaunchSpec, say_ready
from proxy.process.listeners import Listener
from proxy.process.server import Server, connection_limits, server_config
from proxy.process.watchdog import watched
from proxy.upstream.sharing import Sharing

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from proxy.config.settings import Settings
    from proxy.fleet.members import Membership

END_TIMEOUT_S = 3  # for answers under way, all of them small
KEEP_ALIVE_S = 60  # asks come in bursts


def run_control(spec: LaunchSpec, settings: Settings) -> None:
    """Returns when the node has left the fleet. Raises ConfigInvalid."""
    loop_factory = asyncio.new_event_loop if settings.event_loop == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(spec, settings))


async def _serve(spec: LaunchSpec, settings: Settings) -> None:
    cluster = settings.cluster
    assert cluster is not None
    tables, fleet_state = SharedTables.attach(spec.tables_fd), FleetState.attach(spec.fleet_fd)
    listener = Listener(fileno=spec.listen_fds[0])
    try:
        registry = MemberRegistry(
            fleet_state, describe_node(settings), NodeStats(fleet_state, partial(read_disks, settings, tables)).read
        )
        control_app = ControlApp(registry, BlockDirectory(registry.own.node_id, fleet_state), cluster.secrets())
        finder = address_finder(cluster, spec.served_at, listener.getsockname()[:2], tls=settings.tls is not None)
        server = build_server(settings, control_app, lambda: say_ready(spec.status_fd))
        async with contextlib.AsyncExitStack() as stack:
            redis = open_configured(cluster.redis.get_secret_value()) if cluster.redis is not None else None
            if redis is not None:
                stack.push_async_callback(redis.aclose)
            membership = _open_membership(settings, registry, fleet_state, finder, redis)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, _drain, registry, membership)
            loop.add_signal_handler(LET_GO, setattr, server, "should_exit", True)
            tasks = [membership.run(), *parts_beside(spec, settings, registry, tables, fleet_state, redis)]
            async with _running(*tasks):
                with watched(settings.limits.slow_callback):
                    await server.serve([listener])
                await membership.leave()
    finally:
        tables.close()
        fleet_state.close()


def build_server(settings: Settings, control_app: ControlApp, on_started: Callable[[], None]) -> Server:
    """Anybody may connect, and is told apart by a signature: heads have the same limits as on the data port."""
    protocol = ExpressProtocol.limited(connection_limits(settings.limits))
    config = server_config(control_app, protocol, settings.tls, keep_alive_s=KEEP_ALIVE_S, end_timeout_s=END_TIMEOUT_S)
    return Server(config, on_started)


def parts_beside(
    spec: LaunchSpec,
    settings: Settings,
    registry: MemberRegistry,
    tables: SharedTables,
    fleet_state: FleetState,
    redis: Redis | None,
) -> list[Coroutine[Any, Any, None]]:
    """What else runs in this process, each until it is cancelled; `registry.roster` and `registry.own` are the
    fleet."""
    assert settings.cluster is not None
    shared_limiters = build_shared_limiters(settings, tables)
    if redis is None:
        return [Sharing(shared_limiters, lambda: len(registry.roster.members)).run()]
    store = build_store(settings, tables, spec.run_id, f"{spec.name}-{os.getpid()}")
    seals = Seals(settings.cluster.secrets())
    channel = InvalidationChannel(redis, settings.cluster.prefix, seals)
    name = sender_name(registry.own.node_id, fleet_state)
    subscriber = InvalidationSubscriber(channel, name, fleet_state, lambda key: store.keys.remove(key) is not None)
    rates = RateStore(redis, settings.cluster.prefix, name, seals)
    sharing = Sharing(shared_limiters, lambda: len(registry.roster.members), rates, REDIS_ERRORS)
    return [_running_to_the_end(subscriber.run(), store.close), sharing.run()]


async def _running_to_the_end(part: Coroutine[Any, Any, None], end: Callable[[], None]) -> None:
    try:
        await part
    finally:
        end()


def describe_node(settings: Settings) -> Member:
    """This node, its addresses still unknown. Raises ConfigInvalid."""
    disks, cluster = settings.cache.disks, settings.cluster
    layouts = open_layouts(
        [(disk.path, disk.size) for disk in disks], settings.cache.block_size, settings.cache.segment_size
    )
    zone = (cluster.zone if cluster is not None else None) or ""
    return Member(layouts[0].node_id, "", "", zone=zone, capacity_bytes=sum(disk.size for disk in disks))


def _open_membership(
    settings: Settings, registry: MemberRegistry, fleet_state: FleetState, finder: AddressFinder, redis: Redis | None
) -> Membership:
    cluster = settings.cluster
    assert cluster is not None
    if redis is not None:
        return RedisMembership(registry, fleet_state, redis, cluster.prefix, finder, Seals(cluster.secrets()))
    from proxy.fleet.members.discovery import open_discovery

    return open_discovery(registry, cluster, finder)


def _drain(registry: MemberRegistry, membership: Membership) -> None:
    registry.drain()
    membership.hurry()


@contextlib.asynccontextmanager
async def _running(*parts: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """The parts run beside the body, and end with it; one that fails ends it all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in parts]
        yield
        for task in tasks:
            task.cancel()
