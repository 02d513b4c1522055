"""Hits under load: what one run of wrk cost a side, and rows that compare sides.

A side's run gives requests and bytes per second, latencies, and CPU seconds, of the server's processes and of wrk.
Both are shown, because the kernel's work for a connection over loopback falls to whichever end is running just then.
Ratios are taken round by round against the reference, with their median, least and greatest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import Row
from bench.processes import cpu_seconds
from bench.rounds import in_turns, middle, ratios, spread
from bench.sides import NGINX_FILE, Side
from bench.wrk import SDK_HEADERS, Headers, Load, Request, run_wrk

LARGE_BYTES = 1 << 20  # answers of this size and more: what wrk has of an answer at the end counts, too


@dataclass(frozen=True, slots=True)
class Hits:
    """What is asked of each side in a run; each answer has `size_bytes` of body."""

    requests: Sequence[Request]
    size_bytes: int
    connections: int
    seconds: float
    sdk: bool = False
    headers: Headers = ()  # beside the SDK's


@dataclass(frozen=True, slots=True)
class Measured:
    load: Load
    size_bytes: int
    server_cpu_s: float

    @property
    def body_bytes(self) -> int:
        """Heads aren't counted: a side gains nothing by longer ones."""
        return self.load.received_bytes if self.size_bytes >= LARGE_BYTES else self.load.requests * self.size_bytes

    @property
    def bytes_per_s(self) -> float:
        return self.body_bytes / self.load.seconds

    @property
    def requests_per_s(self) -> float:
        return self.bytes_per_s / self.size_bytes

    @property
    def server_cpu_s_per_gb(self) -> float:
        return self.server_cpu_s / self.body_bytes * 1e9

    @property
    def server_cpu_us(self) -> float:
        return self.server_cpu_s_per_gb * self.size_bytes / 1e3

    @property
    def client_cpu_us(self) -> float:
        return self.load.cpu_s / self.body_bytes * self.size_bytes * 1e6


def compare(label: Row, hits: Hits, sides: Sequence[Side], rounds: int, folder: Path) -> list[Row]:
    """One row for each side, `label`'s columns first. One of the sides is the reference."""
    print(*label.values(), sep=", ", file=sys.stderr, flush=True)
    tasks: dict[str, Callable[[], Measured]] = {side.name: partial(measure_once, side, hits, folder) for side in sides}
    found = in_turns(tasks, rounds)
    return [label | _row(name, found) for name in found]


def measure_once(side: Side, hits: Hits, folder: Path) -> Measured:
    before = cpu_seconds(side.pids)
    headers = (SDK_HEADERS if hits.sdk else ()) + hits.headers
    load = run_wrk(side.url, folder, hits.requests, connections=hits.connections, seconds=hits.seconds, headers=headers)
    return Measured(load, hits.size_bytes, sum(cpu_seconds(side.pids)) - sum(before))


def _row(name: str, found: Mapping[str, Sequence[Measured]]) -> Row:
    mine, theirs = found[name], found[NGINX_FILE]
    row: Row = {
        "side": name,
        "req/s": round(middle([m.requests_per_s for m in mine])),
        "GB/s": middle([m.bytes_per_s / 1e9 for m in mine]),
        "CPU us/req": middle([m.server_cpu_us for m in mine]),
        "CPU s/GB": middle([m.server_cpu_s_per_gb for m in mine]),
        "wrk us/req": middle([m.client_cpu_us for m in mine]),
        "p50 ms": middle([m.load.p50_ms for m in mine]),
        "p99 ms": middle([m.load.p99_ms for m in mine]),
    }
    if name == NGINX_FILE:
        return row | {"req/s ratio": "1", "CPU ratio": "1", "p99 ratio": "1"}
    return row | {
        "req/s ratio": spread(ratios([m.requests_per_s for m in mine], [t.requests_per_s for t in theirs])),
        "CPU ratio": spread(ratios([m.server_cpu_s_per_gb for m in mine], [t.server_cpu_s_per_gb for t in theirs])),
        "p99 ratio": spread(ratios([m.load.p99_ms for m in mine], [t.load.p99_ms for t in theirs])),
    }
