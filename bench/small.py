"""The first byte of what is not in the cache: small ranges at random offsets of one cold object, and whole new objects.

The origin is cloud-like: 50 MB/s on each connection, 20 ms before each answer. On both sides one keep-alive connection
asks for one thing after the other, and the sides take turns; a new object, a pause and all the same offsets again make
a round. Then the bench waits until the gateway has stopped fetching what was left of the touched blocks:
amplification is the origin's bytes over the bytes that were asked for, at the last read and when all is quiet.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import Row
from bench.client import Connection
from bench.cold import CLOUD, start_cold_gateway
from bench.loopback import Counts, Origin, make_data, read_counts, start_origin
from bench.rounds import middle

QUESTION = "How late does the first byte of a small cold read come, next to the origin, and what does it fetch?"

OBJECT_BYTES = 1 << 30
RANGE_BYTES = 64 << 10
WHOLE_BYTES = 8 << 20  # a new object, whole: as a loader's first read
READS = 40
ROUNDS = 3
QUIET_S = 1.5  # without a byte from the origin
QUIET_TIMEOUT_S = 120.0
_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Reads:
    """First bytes in ms, and what the origin sent for them: at the last read, and in the end."""

    first_byte_ms: list[float]
    asked_bytes: int
    sent_bytes: int
    sent_bytes_at_last: int
    requests: int


def measure(quick: bool) -> list[Row]:
    rounds = 1 if quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name:
        folder = Path(name)
        data = make_data(folder / "data", OBJECT_BYTES)
        with start_origin(data, CLOUD) as origin, start_cold_gateway(folder, origin.url) as gateway:
            rows = []
            for kind in ("64 KiB at random", "64 KiB, new object", "8 MiB, new object"):
                found: dict[str, list[Reads]] = {"warmstart": [], "direct": []}
                for number in range(rounds):
                    for side in list(found)[:: -1 if number % 2 else 1]:
                        url = gateway.url if side == "warmstart" else origin.url
                        found[side].append(_read(kind, url, origin, number))
                rows += _rows(kind, found)
            return rows


def _read(kind: str, url: str, origin: Origin, seed: int) -> Reads:
    wanted = _wanted(kind, seed)
    connection = Connection(url)
    connection.get(f"/bench/first-{next(_names)}.1")  # the connection, here and to the origin, is not what is asked
    requests, sent_bytes, _ = read_counts(origin)
    first_ms, asked = [], 0
    for path, span in wanted:
        began_s = time.monotonic()
        length, first_at_s = connection.get(path, span)
        first_ms.append((first_at_s - began_s) * 1e3)
        asked += length
    connection.close()
    at_last = read_counts(origin).sent_bytes - sent_bytes
    requests_after, sent_after, _ = _quiet_counts(origin)
    return Reads(first_ms, asked, sent_after - sent_bytes, at_last, requests_after - requests)


def _wanted(kind: str, seed: int) -> list[tuple[str, tuple[int, int] | None]]:
    if kind == "64 KiB at random":
        path, chance = f"/bench/random-{next(_names)}", random.Random(seed)
        starts = [chance.randrange(OBJECT_BYTES - RANGE_BYTES) for _ in range(READS)]
        return [(path, (start, start + RANGE_BYTES)) for start in starts]
    if kind == "64 KiB, new object":
        return [(f"/bench/new-{next(_names)}.{RANGE_BYTES}", None) for _ in range(READS)]
    return [(f"/bench/new-{next(_names)}.{WHOLE_BYTES}", None) for _ in range(READS // 4)]


def _quiet_counts(origin: Origin) -> Counts:
    """The counts once no byte has come for `QUIET_S`."""
    counts, since_s = read_counts(origin), time.monotonic()
    deadline_s = since_s + QUIET_TIMEOUT_S
    while time.monotonic() - since_s < QUIET_S and time.monotonic() < deadline_s:
        time.sleep(0.1)
        if (now := read_counts(origin)) != counts:
            counts, since_s = now, time.monotonic()
    return counts


def _rows(kind: str, found: dict[str, list[Reads]]) -> list[Row]:
    rows: list[Row] = []
    direct = sorted(ms for reads in found["direct"] for ms in reads.first_byte_ms)
    for side, rounds in found.items():
        mine = sorted(ms for reads in rounds for ms in reads.first_byte_ms)
        row: Row = {
            "read": kind,
            "side": side,
            "reads": len(mine),
            "first byte ms": round(middle(mine), 1),
            "p90 ms": round(_p90(mine), 1),
            "over direct ms": round(middle(mine) - middle(direct), 1) if side != "direct" else "",
            "p90 over direct ms": round(_p90(mine) - _p90(direct), 1) if side != "direct" else "",
            "requests a read": middle([r.requests / len(r.first_byte_ms) for r in rounds]),
            "amplification at the last read": middle([r.sent_bytes_at_last / r.asked_bytes for r in rounds]),
            "amplification in the end": middle([r.sent_bytes / r.asked_bytes for r in rounds]),
        }
        rows.append(row)
    return rows


def _p90(ordered: list[float]) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))]
