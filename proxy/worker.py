"""A worker process: one event loop that serves both lanes on the inherited listeners until it is told to stop.

How it works. uvicorn drives the connections; signals are ours. At SIGTERM the worker says "not ready", closes its
listeners, lets the bodies in flight end for the drain time-out, then closes the parts in order. Once a second it
lets the store drop what other processes have retired, and tells the gauges how the origins fare.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from proxy.cache.shared import SharedTables
from proxy.children import ChildPaper, say_ready
from proxy.gates import publish
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from proxy.lanes.hot import HotLane
from proxy.listeners import BACKLOG
from proxy.logs import log_hot_answer
from proxy.serve import Parts, build_parts, load_later

if TYPE_CHECKING:
    from proxy.config.settings import Settings

TICK_S = 1.0

log = logging.getLogger("warmstart.worker")


class Server(uvicorn.Server):
    """uvicorn's server with our signals; `on_started` runs when the listeners are served."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


def run_worker(paper: ChildPaper, settings: Settings) -> None:
    """Returns when the worker has drained. Raises ConfigInvalid."""
    loop_factory = asyncio.new_event_loop if settings.event_loop == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(paper, settings))


async def _serve(paper: ChildPaper, settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(settings.limits.disk_threads, "disk"))
    tables = SharedTables.attach(paper.tables_fd)
    writer_id = f"{paper.name}-{os.getpid()}"
    try:
        listeners = [socket.socket(fileno=fd) for fd in paper.listen_fds]
        parts = build_parts(settings, tables, paper.run_id, writer_id, listeners)
        lane = HotLane(
            parts.answer_hot,
            at=parts.answers_at,
            on_read_error=parts.store.note_read_error,
            log=log_hot_answer if settings.log.access else None,
        )
        try:
            server = Server(server_config(settings, parts, lane), lambda: _started(paper, settings))
            loop.add_signal_handler(signal.SIGTERM, _stop, server, parts)
            async with _ticking(parts):
                await server.serve(listeners)
        finally:
            lane.flush()
            await parts.aclose()
    finally:
        tables.close()


def _started(paper: ChildPaper, settings: Settings) -> None:
    """Serving: hits at once, and what misses need is loaded meanwhile, in a thread."""
    say_ready(paper.status_fd)
    loading = asyncio.get_running_loop().run_in_executor(None, load_later, settings.origins.values())
    loading.add_done_callback(_loaded)


def _loaded(loading: asyncio.Future[None]) -> None:
    if not loading.cancelled() and loading.exception() is not None:
        log.error("a library can't be loaded: %s", loading.exception())


def server_config(settings: Settings, parts: Parts, lane: HotLane) -> uvicorn.Config:
    limits = settings.limits
    protocol = ExpressProtocol.limited(
        Limits(
            head_bytes=limits.request_head,
            head_timeout_s=limits.request_head_timeout,
            send_timeout_s=limits.send_timeout,
            read_ahead_bytes=limits.disk_read_ahead,
        ),
        lane,
    )
    return uvicorn.Config(
        parts.app,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(limits.keep_alive_timeout),
        timeout_graceful_shutdown=math.ceil(limits.drain_timeout),
        ssl_certfile=settings.tls.certificate if settings.tls is not None else None,
        ssl_keyfile=str(settings.tls.key) if settings.tls is not None else None,
    )


def _stop(server: Server, parts: Parts) -> None:
    log.debug("draining")
    parts.readiness.draining = True
    server.should_exit = True


@contextlib.asynccontextmanager
async def _ticking(parts: Parts) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            parts.store.tick()
            publish(parts.gates)

    task = asyncio.get_running_loop().create_task(tick())
    try:
        yield
    finally:
        task.cancel()
