"""A small cold read while one client loads a large cold object through the same node.

The origin is cloud-like (50 MB/s on each connection, 20 ms before each answer) behind a link of 250 MB/s, which the
load fills. The small reads are 64 KiB of a new object each, one after the other on one connection: first alone, then
while the load runs. The last column says how much of the link the load had; one stream direct can't fill it.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from bench import Row
from bench.client import Connection, Read, read_stream
from bench.cold import CLOUD, start_cold_gateway
from bench.loopback import make_data, start_origin
from bench.rounds import middle, ratios, spread

QUESTION = "How long does a 64 KiB cold read take while a 4 GiB cold load runs on the same node?"

LINK = replace(CLOUD, total_bytes_per_s=250e6)
READ_BYTES = 64 << 10
READS = 30
LOAD_BYTES = 4 << 30
SETTLE_S = 2.0  # for the load to fill the link
_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Round:
    alone_ms: list[float]
    beside_ms: list[float]
    load: Read


def measure(quick: bool) -> list[Row]:
    load_bytes = LOAD_BYTES // 2 if quick else LOAD_BYTES
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name:
        folder = Path(name)
        data = make_data(folder / "data", load_bytes)
        with start_origin(data, LINK) as origin, start_cold_gateway(folder, origin.url) as gateway:
            rows = []
            for side, url in (("warmstart", gateway.url), ("direct", origin.url)):
                rounds = [_round(url) for _ in range(1 if quick else 3)]
                rows.append(_row(side, rounds))
            return rows


def _round(url: str) -> Round:
    connection = Connection(url)
    connection.get(_small())  # the connections are not what is asked
    alone = [_read_small(connection) for _ in range(READS)]
    load: list[Read] = []
    loading = threading.Thread(target=lambda: load.append(read_stream(url, f"/bench/large-{next(_names)}")))
    loading.start()
    time.sleep(SETTLE_S)
    beside: list[float] = []
    while loading.is_alive() and len(beside) < READS:
        beside.append(_read_small(connection))
    assert loading.is_alive(), "the load was over before the small reads were"
    loading.join()
    connection.close()
    return Round(alone, beside, load[0])


def _small() -> str:
    return f"/bench/small-{next(_names)}.{READ_BYTES}"


def _read_small(connection: Connection) -> float:
    began_s = time.monotonic()
    length, _ = connection.get(_small())
    assert length == READ_BYTES
    return (time.monotonic() - began_s) * 1e3


def _row(side: str, rounds: list[Round]) -> Row:
    alone = [middle(found.alone_ms) for found in rounds]
    beside = [middle(found.beside_ms) for found in rounds]
    return {
        "side": side,
        "alone ms": round(middle(alone), 1),
        "beside the load ms": round(middle(beside), 1),
        "p90 beside ms": round(middle([sorted(found.beside_ms)[int(READS * 0.9)] for found in rounds]), 1),
        "ratio": spread(ratios(beside, alone)),
        "load GB/s": middle([found.load.gb_per_s for found in rounds]),
    }
