"""The housekeeping process: accounts, evicts and scrubs, away from the loops that serve."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

from proxy.cache.housekeeper import Housekeeper, HouseRules
from proxy.cache.shared import SharedTables
from proxy.composition.store import build_store
from proxy.config.watermarks import headroom
from proxy.process.children import LaunchSpec, say_ready

if TYPE_CHECKING:
    from proxy.config.settings import Settings


def keep_house(spec: LaunchSpec, settings: Settings) -> None:
    """Returns after SIGTERM. Raises ConfigInvalid."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    tables = SharedTables.attach(spec.tables_fd)
    store = build_store(settings, tables, spec.run_id, f"{spec.name}-{os.getpid()}")
    rules = HouseRules(
        high_watermark=settings.cache.high_watermark,
        low_watermark=settings.cache.low_watermark,
        headroom_bytes=headroom(settings.cache.block_size),
        scrub_bytes_per_s=settings.cache.scrub_rate,
    )
    say_ready(spec.status_fd)
    Housekeeper(store.disks, tables, store.segment_bytes, rules).run(stopping)
    store.close()
    tables.close()
