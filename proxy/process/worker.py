"""A worker process: one event loop that serves both lanes on the inherited listeners until it is told to stop.

How it works. uvicorn drives the connections; signals are ours. At SIGTERM the worker says "not ready", closes its
listeners, lets the bodies in flight end for the drain time-out, then closes the parts in order. Ten times a second it
lets the store drop what other processes have evicted; once a second it tells the gauges how the origins fare.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from proxy.cache.shared import SharedTables
from proxy.composition.app import Parts, build_parts, load_later
from proxy.composition.upstream import publish
from proxy.fleet.state import FleetState
from proxy.lanes.express import ExpressProtocol
from proxy.lanes.hot import HotLane
from proxy.process.children import LaunchSpec, say_ready
from proxy.process.counters import WorkerCounters
from proxy.process.listeners import Listener
from proxy.process.logs import log_hot_answer
from proxy.process.server import Server, connection_limits, server_config
from proxy.process.watchdog import watched

if TYPE_CHECKING:
    from proxy.config.settings import Settings

TICK_S = 1.0
LOOKS_PER_TICK = 10  # for evicted files that are open here

log = logging.getLogger("warmstart.worker")


def run_worker(spec: LaunchSpec, settings: Settings) -> None:
    """Returns when the worker has drained. Raises ConfigInvalid."""
    loop_factory = asyncio.new_event_loop if settings.event_loop == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(spec, settings))


async def _serve(spec: LaunchSpec, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(settings.limits.disk_threads, "disk"))
    tables = SharedTables.attach(spec.tables_fd)
    fleet_state = FleetState.attach(spec.fleet_fd) if spec.fleet_fd >= 0 else None
    writer_id = f"{spec.name}-{os.getpid()}"
    try:
        listeners: list[socket.socket] = [Listener(fileno=fd) for fd in spec.listen_fds]
        parts = build_parts(settings, tables, spec.run_id, writer_id, listeners, fleet_state, spec.number)
        lane = HotLane(
            parts.answer_hot,
            at=parts.answers_at,
            on_read_error=parts.store.note_read_error,
            log=log_hot_answer if settings.log.access else None,
        )
        try:
            server = build_server(spec, settings, parts, lane)
            loop.add_signal_handler(signal.SIGTERM, _stop, server, parts)
            tables.beat(spec.number, time.monotonic())
            async with _ticking(
                parts,
                partial(tables.beat, spec.number),
                WorkerCounters(fleet_state, spec.number) if fleet_state is not None else None,
            ):
                with watched(settings.limits.slow_callback):
                    await server.serve(listeners)
        finally:
            lane.flush()
            await parts.aclose()
    finally:
        tables.close()
        if fleet_state is not None:
            fleet_state.close()


def _started(spec: LaunchSpec, settings: Settings) -> None:
    """Serving: hits at once, and what misses need is loaded meanwhile, in a thread."""
    say_ready(spec.status_fd)
    loading = asyncio.get_running_loop().run_in_executor(None, load_later, settings.origins.values())
    loading.add_done_callback(_loaded)


def _loaded(loading: asyncio.Future[None]) -> None:
    if not loading.cancelled() and loading.exception() is not None:
        log.error("a library can't be loaded: %s", loading.exception())


def build_server(spec: LaunchSpec, settings: Settings, parts: Parts, lane: HotLane) -> Server:
    limits = settings.limits
    protocol = ExpressProtocol.limited(connection_limits(limits), lane, parts.admission.connections)
    config = server_config(
        parts.app,
        protocol,
        settings.tls,
        keep_alive_s=limits.keep_alive_timeout,
        end_timeout_s=limits.drain_timeout,
    )
    return Server(config, lambda: _started(spec, settings))


def _stop(server: Server, parts: Parts) -> None:
    log.debug("draining")
    parts.readiness.draining = True
    server.should_exit = True


@contextlib.asynccontextmanager
async def _ticking(parts: Parts, beat: Callable[[float], None], counters: WorkerCounters | None) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            for _ in range(LOOKS_PER_TICK):
                await asyncio.sleep(TICK_S / LOOKS_PER_TICK)
                parts.store.tick_where_due()
            beat(time.monotonic())
            parts.store.tick()
            publish(parts.throttles, parts.origins.values())
            for origin in parts.origins.values():
                origin.incidents.tick()
            parts.admission.publish()
            if counters is not None:
                counters.publish(parts.flights.count())

    task = asyncio.get_running_loop().create_task(tick())
    try:
        yield
    finally:
        task.cancel()
