"""The control process of a fleet's node: finds the other nodes, and answers them, away from the loops that serve.

How it works. It finds the members (`proxy.fleet.members`) and writes the roster on the node's board, where the workers
read it; it is the one place of the node that answers asks (`proxy.peering.control_app`). At SIGTERM it says at once
that the node is leaving, so that nobody sends it new work, and goes on answering until the supervisor lets it go, when
the workers have drained: only then it takes the node out of the membership. When it dies it is started again, and the
workers go on meanwhile with the roster that they have.
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
from proxy.fleet.channel import Bulletin, sender_name
from proxy.fleet.directory import Desk
from proxy.fleet.members.advertise import Places, known_places
from proxy.fleet.members.heartbeat import Beats
from proxy.fleet.members.registry import Company
from proxy.fleet.members.stats import NodeStats
from proxy.fleet.messages import Seals
from proxy.fleet.rate_store import LimitBoard
from proxy.fleet.redis import REDIS_ERRORS, open_configured
from proxy.fleet.roster import Member
from proxy.fleet.state import Board
from proxy.fleet.subscriber import News
from proxy.lanes.express import ExpressProtocol
from proxy.peering.control_app import Reception
from proxy.process.children import LET_GO, ChildPaper, say_ready
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


def run_control(paper: ChildPaper, settings: Settings) -> None:
    """Returns when the node has left the fleet. Raises ConfigInvalid."""
    loop_factory = asyncio.new_event_loop if settings.event_loop == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(paper, settings))


async def _serve(paper: ChildPaper, settings: Settings) -> None:
    cluster = settings.cluster
    assert cluster is not None
    tables, board = SharedTables.attach(paper.tables_fd), Board.attach(paper.fleet_fd)
    listener = Listener(fileno=paper.listen_fds[0])
    try:
        company = Company(board, describe_node(settings), NodeStats(board, partial(read_disks, settings, tables)).read)
        reception = Reception(company, Desk(company.own.node_id, board), cluster.secrets())
        places = known_places(cluster, paper.served_at, listener.getsockname()[:2], tls=settings.tls is not None)
        server = build_server(settings, reception, lambda: say_ready(paper.status_fd))
        async with contextlib.AsyncExitStack() as stack:
            redis = open_configured(cluster.redis.get_secret_value()) if cluster.redis is not None else None
            if redis is not None:
                stack.push_async_callback(redis.aclose)
            membership = _open_membership(settings, company, board, places, redis)
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, _drain, company, membership)
            loop.add_signal_handler(LET_GO, setattr, server, "should_exit", True)
            tasks = [membership.run(), *parts_beside(paper, settings, company, tables, board, redis)]
            async with _running(*tasks):
                with watched(settings.limits.slow_callback):
                    await server.serve([listener])
                await membership.leave()
    finally:
        tables.close()
        board.close()


def build_server(settings: Settings, reception: Reception, on_started: Callable[[], None]) -> Server:
    """Anybody may connect, and is told apart by a signature: heads have the same limits as on the data port."""
    protocol = ExpressProtocol.limited(connection_limits(settings.limits))
    config = server_config(reception, protocol, settings.tls, keep_alive_s=KEEP_ALIVE_S, end_timeout_s=END_TIMEOUT_S)
    return Server(config, on_started)


def parts_beside(
    paper: ChildPaper, settings: Settings, company: Company, tables: SharedTables, board: Board, redis: Redis | None
) -> list[Coroutine[Any, Any, None]]:
    """What else runs in this process, each until it is cancelled; `company.roster` and `company.own` are the fleet."""
    assert settings.cluster is not None
    shared_limiters = build_shared_limiters(settings, tables)
    if redis is None:
        return [Sharing(shared_limiters, lambda: len(company.roster.members)).run()]
    store = build_store(settings, tables, paper.run_id, f"{paper.name}-{os.getpid()}")
    seals = Seals(settings.cluster.secrets())
    bulletin = Bulletin(redis, settings.cluster.prefix, seals)
    name = sender_name(company.own.node_id, board)
    news = News(bulletin, name, board, lambda key: store.keys.remove(key) is not None)
    limits = LimitBoard(redis, settings.cluster.prefix, name, seals)
    sharing = Sharing(shared_limiters, lambda: len(company.roster.members), limits, REDIS_ERRORS)
    return [_running_to_the_end(news.run(), store.close), sharing.run()]


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
    settings: Settings, company: Company, board: Board, places: Places, redis: Redis | None
) -> Membership:
    cluster = settings.cluster
    assert cluster is not None
    if redis is not None:
        return Beats(company, board, redis, cluster.prefix, places, Seals(cluster.secrets()))
    from proxy.fleet.members.discovery import open_greetings

    return open_greetings(company, cluster, places)


def _drain(company: Company, membership: Membership) -> None:
    company.drain()
    membership.hurry()


@contextlib.asynccontextmanager
async def _running(*parts: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """The parts run beside the body, and end with it; one that fails ends it all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in parts]
        yield
        for task in tasks:
            task.cancel()
