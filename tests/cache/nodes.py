"""A node's disks for tests of the store: each `Store` made here is what a process of its own would have."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

from prometheus_client import REGISTRY

from proxy.cache.block import Block
from proxy.cache.blockmap import BlockKind
from proxy.cache.disks import DiskSpec
from proxy.cache.leaving import Leaving
from proxy.cache.recordsweep import RecordSweep
from proxy.cache.scan import DiskScan
from proxy.cache.shared import SharedTables
from proxy.cache.space import Space
from proxy.cache.store import Store
from proxy.cache.writeback import SyncBy
from proxy.objects import ObjectVersion

KIB = 1 << 10
BLOCK_BYTES = 256 * KIB
SEGMENT_BYTES = 4 * BLOCK_BYTES
ROOMY = Space(1 << 40, 1 << 39)

# What a process of a test starts with: `store`, and `content(version)` as below.
PRELUDE = """
import os, sys
from pathlib import Path
from tests.cache.nodes import *
tables = SharedTables.attach(int(sys.argv[1]))
store = open_store(eval(sys.argv[2]), tables, run_id=sys.argv[3], writer_id=sys.argv[4])
def say(word):
    print(word, flush=True)
"""


def make_version(name: str = "model", size: int = 10 * BLOCK_BYTES + 1234) -> ObjectVersion:
    return ObjectVersion("s3://origin", "bucket", name, 'etag "1"', size)


def content(version: ObjectVersion, start: int = 0, end: int | None = None) -> bytes:
    """The object's bytes; every 8 of them say where they are."""
    end = version.size_bytes if end is None else end
    salt = int.from_bytes(version.digest[:4], "big") << 32
    first, last = start // 8, -(-end // 8)
    raw = b"".join((salt + number).to_bytes(8, "big") for number in range(first, last))
    return raw[start - first * 8 : end - first * 8]


def block_content(version: ObjectVersion, index: int, block_bytes: int = BLOCK_BYTES) -> bytes:
    return content(version, index * block_bytes, min((index + 1) * block_bytes, version.size_bytes))


def open_store(
    paths: list[Path],
    tables: SharedTables,
    *,
    run_id: str = "run 1",
    writer_id: str = "writer",
    block_bytes: int = BLOCK_BYTES,
    segment_bytes: int | None = SEGMENT_BYTES,
    max_open_segments: int = 100,
    size_bytes: int = 1 << 40,
    writer_threads: Executor | None = None,
) -> Store:
    store = Store(
        [DiskSpec(path, size_bytes) for path in paths],
        block_bytes=block_bytes,
        run_id=run_id,
        writer_id=writer_id,
        tables=tables,
        max_open_segments=max_open_segments,
        segment_bytes=segment_bytes,
        writer_threads=writer_threads,
    )
    for disk in store.disks:
        disk.space = lambda _: ROOMY  # the test machine's own disk is not what is tested
    return store


def on_a_disk(store: Store, by: SyncBy = SyncBy.RANGE) -> Store:
    """The store as on a file system that needs that call to tell what is stored, wherever the test's folder lies."""
    for disk in store.disks:
        disk.syncer.by = by
    return store


class Node:
    """Disks, and the tables of one run; `restart` begins another."""

    def __init__(self, *paths: Path) -> None:
        self.paths = list(paths)
        self.run_id = "run 1"
        self.tables = SharedTables.create()
        self.stores: list[Store] = []
        self._numbers = itertools.count(1)

    def store(self, **settings: object) -> Store:
        writer_id = f"writer {next(self._numbers)}"
        store = open_store(self.paths, self.tables, run_id=self.run_id, writer_id=writer_id, **settings)  # type: ignore[arg-type]
        self.stores.append(store)
        return store

    def restart(self) -> None:
        self.close()
        self.run_id = f"run {next(self._numbers)}"
        self.tables = SharedTables.create()

    def spawn(self, script: str) -> subprocess.Popen[str]:
        """A real process of this run, with `store` and all of this module's names, talking over pipes."""
        writer_id = f"process {next(self._numbers)}"
        return subprocess.Popen(
            [
                sys.executable,
                "-c",
                PRELUDE + script,
                str(self.tables.fd),
                repr_paths(self.paths),
                self.run_id,
                writer_id,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[self.tables.fd],
        )

    def lost_segments(self) -> float:
        """By the metric."""
        labels = {"disk": str(self.paths[0])}
        return REGISTRY.get_sample_value("warmstart_write_back_failures_total", labels) or 0.0

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.stores.clear()
        self.tables.close()


def repr_paths(paths: list[Path]) -> str:
    return "[" + ", ".join(f"Path({str(path)!r})" for path in paths) + "]"


def fill(store: Store, version: ObjectVersion, index: int, *, start: int = 0) -> Block:
    """Bring one block in, in two writes."""
    block = store.open_block(version, index, create=True)
    assert block is not None
    writer = block.reserve(start)
    assert writer is not None
    data = memoryview(block_content(version, index, store.block_bytes))
    data = memoryview(bytes(data[start:]) + bytes(data[:start]))
    half = len(data) // 2
    assert writer.write(data[:half]) is None
    assert writer.write(data[half:]) is None
    writer.commit()
    return block


def fill_all(store: Store, version: ObjectVersion) -> None:
    for index in range(-(-version.size_bytes // store.block_bytes)):
        fill(store, version, index)


def read_block(store: Store, block: Block) -> bytes:
    piece = block.piece(0, block.length)
    return os.pread(piece.file.fd, piece.length, piece.offset)


def kind(block: Block | None) -> BlockKind:
    assert block is not None
    return block.state().kind


def scan_disk(store: Store, tables: SharedTables, *, index: int = 0, later_s: float = 0.0) -> DiskScan:
    """A whole scan of one disk, as of so many seconds from now."""
    sweep = RecordSweep(store.disks[index], store.disks, tables, store.segment_bytes)
    made = DiskScan(store.disks[index], sweep, tables, clock=lambda: time.time() + later_s)
    for _ in made.steps():
        pass
    return made


def clear_leaving(store: Store, index: int = 0) -> None:
    """As the housekeeper does: unlink what was retired and is open nowhere."""
    Leaving(store.disks[index], time.monotonic).clear()


def allocated_on(path: Path) -> int:
    """What `du` says of a folder."""
    total = 0
    for found in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # it has just been evicted
            total += found.lstat().st_blocks * 512
    return total


def files(node: Node, suffix: str) -> list[Path]:
    return sorted(path for disk in node.paths for path in disk.glob(f"v1/objects/*/*{suffix}"))
