"""Reads of what is in the cache and in memory, side by side with nginx and with two other caches.

One server process on one core, wrk on the other. Each case is one range size and one number of connections; its ranges
are aligned and at random within a 256 MiB object. `sdk` rows carry the headers of a signing SDK, on all sides.
Beside the reference, nginx that sends files with `tcp_nopush`, stands one without it at eight connections: over
loopback the option costs it stalls of 40 ms at 64 KiB.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import Row, dialects
from bench.hits import Hits, compare
from bench.rounds import QUICK_ROUNDS, ROUNDS
from bench.sides import BUCKET, Side, make_object, nginx_side, rclone_side, slices_side, warm, warmstart_side
from bench.wrk import Request, aligned_ranges

QUESTION = "How fast are hot reads, next to nginx's sendfile, its slice cache and rclone's VFS cache?"
QUESTION_GCS = "How fast are hot reads in GCS's dialect, next to those in S3's?"

OBJECT_BYTES = 256 << 20
PATH = f"/{BUCKET}/object"
SIZES = (4 << 10, 64 << 10, 256 << 10, 1 << 20, 8 << 20, OBJECT_BYTES)
QUICK_SIZES = (4 << 10, 64 << 10, 1 << 20, 8 << 20, OBJECT_BYTES)
CONNECTIONS = (1, 8, 64)
SLOW_BYTES_PER_S = 1e9  # what one core does at least with whole objects


@dataclass(frozen=True, slots=True)
class Case:
    """`wide`: measured beside all sides, not the two main ones alone."""

    size_bytes: int
    connections: int
    sdk: bool = False
    wide: bool = False

    @property
    def rounds(self) -> int:
        """Fewer where a run takes long."""
        return ROUNDS if self.seconds < 5 else QUICK_ROUNDS

    @property
    def seconds(self) -> float:
        """Long enough for an answer or more on every connection, however large they are."""
        return max(1.0, self.size_bytes * self.connections / SLOW_BYTES_PER_S)

    @property
    def label(self) -> Row:
        return {"size": render_size(self.size_bytes) + ", sdk" * self.sdk, "connections": self.connections}

    def hits(self) -> Hits:
        return Hits(ranges_of(self.size_bytes), self.size_bytes, self.connections, self.seconds, self.sdk)


def measure(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name, _opened(Path(name)) as sides:
        rows: list[Row] = []
        for case in cases(quick):
            compared = sides if case.wide else sides[:2]
            rows += compare(case.label, case.hits(), compared, QUICK_ROUNDS if quick else case.rounds, Path(name))
        return rows


def measure_gcs(quick: bool) -> list[Row]:
    """Hits in GCS's dialect, beside those in S3's."""
    return dialects.measure(quick)


def cases(quick: bool) -> list[Case]:
    if quick:
        return [Case(size, 8, wide=size == 64 << 10) for size in QUICK_SIZES] + [Case(4 << 10, 8, sdk=True)]
    found = [Case(size, count, wide=count == 8) for size in SIZES for count in CONNECTIONS]
    return found + [Case(size, 8, sdk=True) for size in (4 << 10, 64 << 10)]


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Sequence[Side]]:
    """All sides, warmed: the two main ones come first."""
    root = folder / "root"
    digest = make_object(root / BUCKET / "object", OBJECT_BYTES)
    with (
        warmstart_side(folder / "warmstart", root) as mine,
        nginx_side(folder / "nginx", root) as plain,
        nginx_side(folder / "push", root, nopush=False) as pushing,
        slices_side(folder / "slices", root) as slices,
        rclone_side(folder / "rclone", root) as rclone,
    ):
        sides = (mine, plain, pushing, slices, rclone)
        for side in sides:
            warm(side, PATH, digest)
        yield sides


def ranges_of(size_bytes: int) -> list[Request]:
    return [(PATH, "")] if size_bytes == OBJECT_BYTES else aligned_ranges(PATH, OBJECT_BYTES, size_bytes)


def render_size(size_bytes: int) -> str:
    if size_bytes == OBJECT_BYTES:
        return "256 MiB, whole"
    return f"{size_bytes >> 10} KiB" if size_bytes < 1 << 20 else f"{size_bytes >> 20} MiB"
