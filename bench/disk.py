"""Reads of what is in the cache but not in memory, beside fio on the very same segment file.

Before each run the file's pages are dropped (posix_fadvise, after fsync) and that is verified. A run reads the whole
file once: 8 MiB ranges in order, or 1 MiB ranges at random, that one or eight connections take from one queue. fio does
the same with as many requests under way: `direct` past the page cache (libaio), which is what the disk can do and the
reference; `buffered` (psync, a job for each) through the page cache, as every other server would read.

Meanwhile a small hot object is read on a connection of its own, every 2 ms. Its latency shows whether the worker's loop
ever waits for the disk, beside what it is while the same reads come from memory, on the same two cores. `disk/body` is
what the worker had the disk read, over what it sent.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import Row
from bench.client import cut, read_ranges
from bench.lag import watch_lag
from bench.processes import cpu_seconds, program
from bench.rounds import in_turns, middle, ratios, spread
from bench.sides import BUCKET, make_object, read_digest
from proxy.lanes.residency import cached_pages
from tests.gateways import start_gateway, whole_disk

QUESTION = "How fast are reads from the disk, next to fio on the same file, and does anybody else wait for them?"

OBJECT_BYTES, QUICK_OBJECT_BYTES = 2 << 30, 512 << 20
ROUNDS, QUICK_ROUNDS = 5, 3
SMALL_BYTES = 4 << 10
INSTALL = "apt-get install fio"
REFERENCE, MINE, HOT = "fio direct", "warmstart", "warmstart, in memory"
RESIDENT_SHARE_MAX = 0.01  # of pages that may be left when they were dropped


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    block_bytes: int
    at_random: bool
    connections: int

    def spans(self, size_bytes: int, seed: int) -> list[tuple[int, int]]:
        spans = cut(size_bytes, self.block_bytes)
        if self.at_random:
            random.Random(seed).shuffle(spans)
        return spans


CASES = [
    Case(name, block_bytes, at_random, connections)
    for name, block_bytes, at_random in (("sequential 8 MiB", 8 << 20, False), ("random 1 MiB", 1 << 20, True))
    for connections in (1, 8)
]


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway with one worker, whose cache has one large object in `segment`, and a small one in memory."""

    url: str
    pid: int
    segment: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """`disk_bytes`, CPU and lag are known of the gateway alone."""

    gb_per_s: float
    cpu_s_per_gb: float = float("nan")
    disk_share: float = float("nan")
    p50_ms: float = float("nan")
    p99_ms: float = float("nan")


def measure(quick: bool) -> list[Row]:
    fio = program("fio", INSTALL)
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name:
        folder = Path(name)
        with _opened(folder, QUICK_OBJECT_BYTES if quick else OBJECT_BYTES) as site:
            rows: list[Row] = [_quiet(site)]
            for case in CASES:
                print(f"{case.name}, {case.connections} connections", file=sys.stderr, flush=True)
                seeds = iter(range(1000))
                tasks: dict[str, Callable[[], Run]] = {
                    MINE: lambda case=case, seeds=seeds: _read(site, case, next(seeds)),  # type: ignore[misc]
                    HOT: lambda case=case, seeds=seeds: _read(site, case, next(seeds), hot=True),  # type: ignore[misc]
                    REFERENCE: partial(_run_fio, fio, site, case, direct=True),
                    "fio buffered": partial(_run_fio, fio, site, case, direct=False),
                }
                found = in_turns(tasks, QUICK_ROUNDS if quick else ROUNDS)
                rows += [_row(case, side, found) for side in found]
            return rows


@contextlib.contextmanager
def _opened(folder: Path, size_bytes: int) -> Iterator[Site]:
    root = folder / "root"
    digest = make_object(root / BUCKET / "object", size_bytes)
    make_object(root / BUCKET / "small", SMALL_BYTES)
    config = {
        "log": {"level": "warning"},
        "buckets": {"*": {"consistency": "immutable"}},
        "cache": {"segment_size": "8GiB"},
    }
    with start_gateway(
        folder, origin=f"file://{root}", workers=1, config=config, cache_size=whole_disk(folder)
    ) as gateway:
        for key, wanted in (("object", digest), ("object", digest), ("small", None)):
            found = read_digest(f"{gateway.url}/{BUCKET}/{key}")
            if wanted not in (None, found):
                raise RuntimeError("other bytes than the object has")
        (root / BUCKET / "object").unlink()
        files = sorted((gateway.cache / "v1" / "objects").glob("*/*.data"), key=lambda path: path.stat().st_size)
        yield Site(gateway.url, gateway.worker_pids()[0], files[-1], size_bytes)


def _drop(site: Site) -> None:
    """Raises RuntimeError where the file stays in memory: on this file system nothing can be measured."""
    fd = os.open(site.segment, os.O_RDONLY)
    try:
        os.fsync(fd)
        pages = site.size_bytes // os.sysconf("SC_PAGE_SIZE")
        for _ in range(5):  # pages that somebody is just sending stay once
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            left = cached_pages(fd, 0, site.size_bytes)
            if left is None or left <= RESIDENT_SHARE_MAX * pages:
                return
            time.sleep(0.1)
        raise RuntimeError(f"{left} of {pages} pages stay in memory: name a disk's folder in TMPDIR")
    finally:
        os.close(fd)


def _bring(site: Site) -> None:
    with site.segment.open("rb", buffering=0) as file:
        while file.read(8 << 20):
            pass


def _quiet(site: Site) -> Row:
    with watch_lag(site.url, f"/{BUCKET}/small") as lag:
        time.sleep(1.0)
    return {"reads": "none", "side": MINE, "small p50 ms": lag.percentile(50), "small p99 ms": lag.percentile(99)}


def _read(site: Site, case: Case, seed: int, *, hot: bool = False) -> Run:
    if hot:
        _bring(site)
    else:
        _drop(site)
    spans = case.spans(site.size_bytes, seed)
    with watch_lag(site.url, f"/{BUCKET}/small") as lag:
        cpu_s, disk_bytes = sum(cpu_seconds([site.pid])), _disk_bytes(site.pid)
        read = read_ranges(site.url, f"/{BUCKET}/object", spans, case.connections)
        cpu_s, disk_bytes = sum(cpu_seconds([site.pid])) - cpu_s, _disk_bytes(site.pid) - disk_bytes
    if read.received_bytes != site.size_bytes:
        raise RuntimeError(f"{read.received_bytes} bytes of {site.size_bytes}")
    return Run(
        read.gb_per_s,
        cpu_s / site.size_bytes * 1e9,
        disk_bytes / site.size_bytes,
        lag.percentile(50),
        lag.percentile(99),
    )


def _disk_bytes(pid: int) -> int:
    """What the process has made disks read so far."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def _run_fio(fio: str, site: Site, case: Case, *, direct: bool) -> Run:
    _drop(site)
    command = [fio, "--name=bench", f"--filename={site.segment}", "--readonly", "--output-format=json"]
    command += [f"--rw={'randread' if case.at_random else 'read'}", f"--bs={case.block_bytes}"]
    if direct:
        command += ["--direct=1", "--ioengine=libaio", f"--iodepth={case.connections}", f"--size={site.size_bytes}"]
    else:
        share_bytes = site.size_bytes // case.connections
        command += ["--ioengine=psync", f"--numjobs={case.connections}", "--group_reporting", f"--size={share_bytes}"]
        command += [f"--offset_increment={share_bytes}", "--invalidate=0"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Run(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"] / 1e9)


def _row(case: Case, side: str, found: Mapping[str, Sequence[Run]]) -> Row:
    mine, theirs = found[side], found[REFERENCE]
    row: Row = {
        "reads": case.name,
        "connections": case.connections,
        "side": side,
        "GB/s": middle([run.gb_per_s for run in mine]),
    }
    if side != REFERENCE:
        row["ratio"] = spread(ratios([run.gb_per_s for run in mine], [run.gb_per_s for run in theirs]))
    if side in (MINE, HOT):
        row |= {
            "CPU s/GB": middle([run.cpu_s_per_gb for run in mine]),
            "disk/body": middle([run.disk_share for run in mine]),
            "small p50 ms": middle([run.p50_ms for run in mine]),
            "small p99 ms": middle([run.p99_ms for run in mine]),
        }
    return row
