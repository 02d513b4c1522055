"""The housekeeping process: whatever the cache needs that no request should wait for."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from proxy.cache.shared import SharedTables
from proxy.children import ChildPaper, say_ready
from proxy.config.settings import Settings
from proxy.serve import build_store

TICK_S = 1.0


def keep_house(paper: ChildPaper, settings: Settings) -> None:
    """Returns after SIGTERM. Raises ConfigInvalid."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    tables = SharedTables.attach(paper.tables_fd)
    store = build_store(settings, tables, paper.run_id, f"{paper.name}-{os.getpid()}")
    say_ready(paper.status_fd)
    while not stopping.wait(TICK_S):
        store.tick()
    store.close()
    tables.close()
