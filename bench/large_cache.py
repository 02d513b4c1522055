"""A cache that holds very many objects, made without reading them from anywhere.

Each is one block of zeros: a key record, a block map and a data file that is one hole. They are what the gateway itself
would have written, as a run before this one, but in the order of their folders, by a process on each core: some hundred
microseconds an object. A map and a record take a page of the disk each, the data nothing: those of one batch are hard
links to one file.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from proxy.blocks import update_sum
from proxy.cache.blockmap import NONCE_BYTES, MapHeader, pack_present, render_map, run_tag
from proxy.cache.layout import FOLDER, Layout, open_layouts
from proxy.cache.records import KeyFile, render_key_file
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion, SumKind

BUCKET = "bench"
OBJECT_BYTES = 64 << 10
BLOCK_BYTES = 8 << 20
BATCH = 20_000  # objects of one task, sorted by folder
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_ZEROS_CRC32C = update_sum(SumKind.CRC32C, memoryview(bytes(OBJECT_BYTES)))
_ETAG = '"5fc9d9b9b9a2b9f1f2a7c6f8d3d1c9b4"'


@dataclass(frozen=True, slots=True)
class LargeCache:
    """`origin` is the origin's id, by which the objects are known; their numbers run from 0.

    `size_bytes` is the cache's size, as configured: all that its file system has, so that nothing is evicted.
    """

    cache: Path
    origin: str
    objects: int
    size_bytes: int

    def path(self, number: int) -> str:
        return f"/{BUCKET}/{_key(number)}"

    def sample(self, count: int, seed: int) -> list[int]:
        """Different numbers, the same for a seed."""
        return random.Random(seed).sample(range(self.objects), min(count, self.objects))


def make_large_cache(cache: Path, origin: str, objects: int) -> LargeCache:
    """Fills an empty folder; raises OSError."""
    size_bytes = shutil.disk_usage(cache.parent).total
    [layout] = open_layouts([(cache, size_bytes)], BLOCK_BYTES)
    spans = [range(start, min(start + BATCH, objects)) for start in range(0, objects, BATCH)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_make, [(cache, origin, layout, span) for span in spans]))
    os.sync()  # what is written back later would be measured
    return LargeCache(cache, origin, objects, size_bytes)


def remove_large_cache(cache: Path) -> None:
    """By all cores: unlinking millions of files takes a minute."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_remove, (cache / FOLDER).glob("*/*")))
    shutil.rmtree(cache, ignore_errors=True)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _key(number: int) -> str:
    return f"{number // 1000:05}/{number:08}"


def _object_key(origin: str, number: int) -> ObjectKey:
    return ObjectKey(origin, BUCKET, _key(number))


def _record(origin: str, number: int) -> ObjectRecord:
    version = ObjectVersion(origin, BUCKET, _key(number), f"etag {_ETAG}", OBJECT_BYTES)
    headers = (("content-type", "binary/octet-stream"), ("etag", _ETAG))
    return ObjectRecord(version, _ETAG, 1_700_000_000.0, headers, time.time())


def _make(task: tuple[Path, str, Layout, Sequence[int]]) -> None:
    cache, origin, layout, numbers = task
    records: list[tuple[str, bytes]] = []
    maps: list[tuple[str, str, bytes]] = []
    word = struct.pack("=Q", pack_present(run_tag("a run before"), _ZEROS_CRC32C))
    blocks = layout.segment_bytes // layout.block_bytes
    for number in numbers:
        key, record = _object_key(origin, number), _record(origin, number)
        records.append((key.digest.hex(), render_key_file(key, KeyFile(record=record))))
        nonce = secrets.token_bytes(NONCE_BYTES)
        header = MapHeader(record.version, 0, layout.block_bytes, blocks, nonce, None, time.time_ns())
        image = bytearray(render_map(header, int(time.time())))
        image[header.header_bytes : header.header_bytes + 8] = word
        maps.append((record.version.digest.hex(), nonce.hex(), bytes(image)))
    with _Folders(cache / FOLDER / "keys") as folders:
        for name, raw in sorted(records):
            _write(folders.open(name[:2]), name[2:], raw)
    hole = cache / f"hole.{numbers[0]}"
    hole.touch(0o600)
    os.truncate(hole, OBJECT_BYTES)
    with _Folders(cache / FOLDER / "objects") as folders:
        for name, nonce_hex, image_bytes in sorted(maps):
            folder = folders.open(name[:2])
            _write(folder, f"{name[2:]}.0.map", image_bytes)
            os.link(hole, f"{name[2:]}.0.{nonce_hex}.data", dst_dir_fd=folder)


def _write(folder: int, name: str, raw: bytes) -> None:
    fd = os.open(name, _NEW, 0o600, dir_fd=folder)
    os.write(fd, raw)
    os.close(fd)


class _Folders:
    """Descriptors of folders that are asked for in order: one is open."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._name = ""
        self._fd = -1

    def open(self, name: str) -> int:
        if name != self._name:
            self._close()
            (self._root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._name, self._fd = name, os.open(self._root / name, os.O_RDONLY | os.O_DIRECTORY)
        return self._fd

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> _Folders:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
