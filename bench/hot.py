"""Reads of what is in the cache and in memory, side by side with nginx and with two other caches.

One server process on one core, wrk on the other. Each case is one range size and one number of connections; its ranges
are aligned and at random within a 256 MiB object. The first table's ratios are taken round by round against nginx's
plain file, sent by `sendfile`; `sdk` rows carry the headers of a signing SDK on both sides.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import Row
from bench.processes import cpu_seconds
from bench.rounds import QUICK_ROUNDS, ROUNDS, in_turns, middle, ratios, spread
from bench.sides import BUCKET, Side, make_object, nginx_side, rclone_side, slices_side, warm, warmstart_side
from bench.wrk import Load, aligned_ranges, run_wrk

QUESTION = "How fast are hot reads, next to nginx's sendfile, its slice cache and rclone's VFS cache?"

OBJECT_BYTES = 256 << 20
PATH = f"/{BUCKET}/object"
SIZES = (4 << 10, 64 << 10, 256 << 10, 1 << 20, 8 << 20, OBJECT_BYTES)
CONNECTIONS = (1, 8, 64)
SECONDS = 2.0
QUICK_SECONDS = 1.0
SLOW_BYTES_PER_S = 1.5e9  # what two cores do at least with whole objects
CACHES = ("nginx slices", "rclone VFS")


@dataclass(frozen=True, slots=True)
class Case:
    size_bytes: int
    connections: int
    sdk: bool = False
    caches: bool = False  # measured beside the two caches as well

    def seconds(self, quick: bool) -> float:
        """Long enough for a few answers on every connection, however large they are."""
        return max(QUICK_SECONDS if quick else SECONDS, 2 * self.size_bytes * self.connections / SLOW_BYTES_PER_S)

    def ranges(self) -> list[tuple[str, str]]:
        return [(PATH, "")] if self.size_bytes == OBJECT_BYTES else aligned_ranges(PATH, OBJECT_BYTES, self.size_bytes)


@dataclass(frozen=True, slots=True)
class Measured:
    load: Load
    user_s: float
    kernel_s: float

    @property
    def cpu_us(self) -> float:
        return (self.user_s + self.kernel_s) / self.load.requests * 1e6

    @property
    def cpu_s_per_gb(self) -> float:
        return (self.user_s + self.kernel_s) / self.load.received_bytes * 1e9


def measure(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name, opened(Path(name)) as (sides, folder):
        return [row for case in cases(quick) for row in rows(case, sides, folder, quick)]


def cases(quick: bool) -> list[Case]:
    if quick:
        return [Case(size, 8, caches=size == 64 << 10) for size in SIZES] + [Case(4 << 10, 8, sdk=True)]
    found = [Case(size, count, caches=count == 8) for size in SIZES for count in CONNECTIONS]
    return found + [Case(size, 8, sdk=True) for size in (4 << 10, 64 << 10)]


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[tuple[Sequence[Side], Path]]:
    """All four sides, warmed."""
    root = folder / "root"
    digest = make_object(root / BUCKET / "object", OBJECT_BYTES)
    with (
        warmstart_side(folder / "warmstart", root) as mine,
        nginx_side(folder / "nginx", root) as plain,
        slices_side(folder / "slices", root) as slices,
        rclone_side(folder / "rclone", root) as rclone,
    ):
        sides = (mine, plain, slices, rclone)
        for side in sides:
            warm(side, PATH, digest)
        yield sides, folder


def rows(case: Case, sides: Sequence[Side], folder: Path, quick: bool) -> list[Row]:
    seconds = case.seconds(quick)
    compared = [side for side in sides if case.caches or side.name not in CACHES]
    tasks: dict[str, Callable[[], Measured]] = {
        side.name: partial(load_once, side, folder, case.ranges(), case.connections, seconds, case.sdk)
        for side in compared
    }
    for task in tasks.values():
        task()  # a first run warms the ways that the warming reads did not take
    found = in_turns(tasks, QUICK_ROUNDS if quick else ROUNDS)
    return [row(case, name, found) for name in found]


def load_once(
    side: Side,
    folder: Path,
    wanted: Sequence[tuple[str, str]],
    connections: int,
    seconds: float,
    sdk: bool = False,
) -> Measured:
    before = cpu_seconds(side.pids)
    load = run_wrk(side.url, folder, wanted, connections=connections, seconds=seconds, sdk=sdk)
    after = cpu_seconds(side.pids)
    return Measured(load, after[0] - before[0], after[1] - before[1])


def row(case: Case, name: str, found: dict[str, list[Measured]], reference: str = "nginx file") -> Row:
    mine, theirs = found[name], found[reference]
    size = "256 MiB, whole" if case.size_bytes == OBJECT_BYTES else f"{case.size_bytes >> 10} KiB"
    shown: Row = {
        "size": size + (", sdk" if case.sdk else ""),
        "connections": case.connections,
        "side": name,
        "req/s": round(middle([m.load.per_second for m in mine])),
        "GB/s": middle([m.load.received_bytes / m.load.seconds / 1e9 for m in mine]),
        "CPU us/req": round(middle([m.cpu_us for m in mine]), 1),
        "p99 ms": middle([m.load.p99_ms for m in mine]),
    }
    if name == reference:
        return shown | {"req/s ratio": "1", "CPU ratio": "1", "p99 ratio": "1"}
    return shown | {
        "req/s ratio": spread(ratios([m.load.per_second for m in mine], [t.load.per_second for t in theirs])),
        "CPU ratio": spread(ratios([m.cpu_s_per_gb for m in mine], [t.cpu_s_per_gb for t in theirs])),
        "p99 ratio": spread(ratios([m.load.p99_ms for m in mine], [t.load.p99_ms for t in theirs])),
    }
