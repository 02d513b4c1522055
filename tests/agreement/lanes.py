"""One gateway in this process, on two ports: with the hot lane and without."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from pathlib import Path
from types import TracebackType

import uvicorn
import uvloop

from proxy.cache.shared import SharedTables
from proxy.composition.app import Parts, build_parts
from proxy.config.settings import Settings
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from proxy.lanes.hot import HotLane
from proxy.metrics import REQUESTS, flush_tallies
from proxy.process.server import server_config

HOST_SUFFIX = "s3.test"
BLOCK_BYTES = 64 << 10
DEADLINE_S = 60.0


class TwoLanes:
    """Serves the folders of `root` as buckets, in a thread, until it is left. `loop` is uvloop or asyncio."""

    def __init__(self, folder: Path, root: Path, loop: str) -> None:
        self._settings = Settings.model_validate(
            {
                "cache": {"disks": [{"path": str(folder / "cache"), "size": "1GiB"}], "block_size": "64KiB"},
                "origins": {"shelf": {"type": "file", "root": str(root)}},
                "buckets": {"*": {"origin": "shelf", "consistency": "immutable"}},
                "host_suffixes": [HOST_SUFFIX],
            }
        )
        self._loop = loop
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.hot_port, self.cold_port = (sock.getsockname()[1] for sock in self._sockets)
        self._servers: list[uvicorn.Server] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        factory = uvloop.new_event_loop if self._loop == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(debug=self._loop == "asyncio-debug", loop_factory=factory) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        tables = SharedTables.create()
        parts = build_parts(self._settings, tables, "run", f"w-{os.getpid()}")
        lane = HotLane(parts.answer_hot)
        self._servers = [uvicorn.Server(_config(parts, found)) for found in (lane, None)]
        try:
            async with asyncio.TaskGroup() as tasks:
                for server, sock in zip(self._servers, self._sockets, strict=True):
                    tasks.create_task(server.serve([sock]))
                while not all(server.started for server in self._servers):
                    await asyncio.sleep(0.01)
                self._ready.set()
        finally:
            await parts.aclose()
            tables.close()

    def __enter__(self) -> TwoLanes:
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.handle_exit(signal.SIGTERM, None)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the servers did not drain"


def _config(parts: Parts, lane: HotLane | None) -> uvicorn.Config:
    protocol = ExpressProtocol.limited(Limits(), lane)
    return server_config(parts.app, protocol, None, keep_alive_s=5, end_timeout_s=DEADLINE_S)


def hot_answers() -> float:
    """How many answers of this process the hot lane has given, by its counters."""
    flush_tallies()
    return sum(
        sample.value
        for metric in REQUESTS.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["lane"] == "express"
    )
