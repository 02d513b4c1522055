"""Opens the store by the settings, for workers and for the housekeeper, which needs nothing else of a worker."""

from __future__ import annotations

import resource
from concurrent.futures import Executor
from typing import TYPE_CHECKING

from proxy.cache.disks import DiskSpec
from proxy.cache.shared import SharedTables
from proxy.cache.store import DESCRIPTORS_PER_SEGMENT, Store

if TYPE_CHECKING:
    from proxy.config.settings import Settings

OPEN_SEGMENTS_MAX = 16_384  # each is a memory map, and the kernel allows a process 65,530 of them


def build_store(
    settings: Settings, tables: SharedTables, run_id: str, writer_id: str, writer_threads: Executor | None = None
) -> Store:
    """Raises ConfigInvalid."""
    cache = settings.cache
    tables.locks.stripe_wait_s = settings.limits.record_wait
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_segments = int(descriptors * cache.open_files_share) // DESCRIPTORS_PER_SEGMENT
    return Store(
        [DiskSpec(disk.path, disk.size) for disk in cache.disks],
        block_bytes=cache.block_size,
        run_id=run_id,
        writer_id=writer_id,
        tables=tables,
        max_open_segments=max(1, min(open_segments, OPEN_SEGMENTS_MAX)),
        segment_bytes=cache.segment_size,
        writer_threads=writer_threads,
    )


def read_disks(settings: Settings, tables: SharedTables) -> tuple[int, int]:
    """Used and whole bytes of all disks of the cache. Inline."""
    disks = settings.cache.disks
    return sum(tables.usage.used(index) or 0 for index in range(len(disks))), sum(disk.size for disk in disks)
