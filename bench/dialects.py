"""Hits in GCS's dialect beside hits in S3's: the same object, the same gateway, the same ranges.

`sdk` rows carry the headers of each dialect's usual SDK, the others none but what tells the dialect. Ratios are against
S3, round by round.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import Row
from bench.hits import Hits, Measured, measure_once
from bench.rounds import QUICK_ROUNDS, ROUNDS, in_turns, middle, ratios, spread
from bench.sides import BUCKET, Side, make_object, warm, warmstart_side
from bench.wrk import SDK_HEADERS, Headers, aligned_ranges

OBJECT_BYTES = 256 << 20
SIZES = (4 << 10, 64 << 10, 1 << 20)
CONNECTIONS = 8
REFERENCE = "S3"
_BEARER = ("Authorization", "Bearer ya29." + "x" * 180)
_GOOGLE_SDK = (
    _BEARER,
    ("Accept-Encoding", "gzip"),
    ("User-Agent", "gcloud-python/3.17.1 gl-python/3.11.9 grpc/1.85.1 gax/2.44.0 gccl/3.17.1"),
    ("X-Goog-Api-Client", "gcloud-python/3.17.1 gl-python/3.11.9 grpc/1.85.1 gax/2.44.0 gccl/3.17.1"),
    ("X-Goog-User-Project", "project"),
)


@dataclass(frozen=True, slots=True)
class Dialect:
    path: str
    headers: Headers = ()
    sdk_headers: Headers = _GOOGLE_SDK


DIALECTS = {
    REFERENCE: Dialect(f"/{BUCKET}/object", sdk_headers=SDK_HEADERS),
    "GCS JSON": Dialect(f"/storage/v1/b/{BUCKET}/o/object?alt=media"),
    "GCS XML": Dialect(f"/{BUCKET}/object", (_BEARER,)),
}


def measure(quick: bool) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name:
        folder = Path(name)
        digest = make_object(folder / "root" / BUCKET / "object", OBJECT_BYTES)
        with warmstart_side(folder / "warmstart", folder / "root") as side:
            for dialect in DIALECTS.values():
                warm(side, dialect.path, digest)
            rows: list[Row] = []
            for size_bytes in SIZES:
                for sdk in (False, True):
                    rows += _compare(side, size_bytes, sdk, QUICK_ROUNDS if quick else ROUNDS, folder)
            return rows


def _compare(side: Side, size_bytes: int, sdk: bool, rounds: int, folder: Path) -> list[Row]:
    label: Row = {"size": f"{size_bytes >> 10} KiB" + ", sdk" * sdk}
    print(label["size"], file=sys.stderr, flush=True)
    tasks: dict[str, Callable[[], Measured]] = {}
    for name, dialect in DIALECTS.items():
        requests = aligned_ranges(dialect.path, OBJECT_BYTES, size_bytes)
        headers = dialect.sdk_headers if sdk else dialect.headers
        tasks[name] = partial(measure_once, side, Hits(requests, size_bytes, CONNECTIONS, 1.0, headers=headers), folder)
    found = in_turns(tasks, rounds)
    theirs = found[REFERENCE]
    return [
        label
        | {
            "dialect": name,
            "req/s": round(middle([m.requests_per_s for m in mine])),
            "CPU us/req": middle([m.server_cpu_us for m in mine]),
            "p99 ms": middle([m.load.p99_ms for m in mine]),
            "req/s ratio": spread(ratios([m.requests_per_s for m in mine], [t.requests_per_s for t in theirs])),
            "CPU ratio": spread(ratios([m.server_cpu_us for m in mine], [t.server_cpu_us for t in theirs])),
        }
        for name, mine in found.items()
    ]
