"""Where the microseconds of a hit and the CPU seconds of a cold gigabyte go, by layer and by function.

Two runs of the same load: one alone, whose CPU time (`/proc/PID/stat`, the worker's) is the whole that is divided, with
its user's and kernel's part; one under the sampler (`samples`), which gives the shares. The sampler slows the worker
down, but every part of it alike. A function's time is its own, without what it calls. Eight connections read hits; a
cold gigabyte is read as one stream from a loopback origin at full speed. Samples of the event loop's wait are left out:
most of them are idle time, of which CPU time has none.
"""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench import Row
from bench.client import read_stream
from bench.hits import Hits
from bench.hot import OBJECT_BYTES, PATH, ranges_of, render_size
from bench.loopback import make_data, start_origin
from bench.processes import SERVER_CORES, back_memory, cpu_seconds, pin
from bench.samples import WAITING, CodePosition, by_layer, read_positions, sampled
from bench.sides import BUCKET, Side, make_object, warm, warmstart_side
from bench.wrk import run_wrk
from tests.gateways import start_gateway

QUESTION = "Where do the microseconds of a hit and the CPU seconds of a cold gigabyte go?"

SIZES = (4 << 10, 64 << 10, 1 << 20)
CONNECTIONS = 8
COLD_BYTES = 1 << 30
FUNCTIONS_SHOWN = 25
SHARE_MIN = 0.005  # less than that is noise in some thousand samples


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU time of one unit: a request in microseconds, or a gigabyte in seconds."""

    unit: str
    user: float
    kernel: float

    @property
    def total(self) -> float:
        return self.user + self.kernel


def measure(quick: bool) -> list[Row]:
    seconds = 4 if quick else 10
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name:
        folder = Path(name)
        return [*_profile_hits(folder / "hot", seconds), *_profile_cold(folder / "cold", seconds)]


def _profile_hits(folder: Path, seconds: int) -> list[Row]:
    rows: list[Row] = []
    digest = make_object(folder / "root" / BUCKET / "object", OBJECT_BYTES)
    with warmstart_side(folder / "warmstart", folder / "root") as side:
        warm(side, PATH, digest)
        for size_bytes in SIZES:
            hits = Hits(ranges_of(size_bytes), size_bytes, CONNECTIONS, seconds)
            cost = _cost_of_hit(side, hits, folder)
            with ThreadPoolExecutor(1) as pool, sampled(side.pids[0], seconds, folder / "stacks") as sampler:
                load = pool.submit(_load, side, hits, folder, seconds + 2)
                said = sampler.communicate()[0]
                load.result()
            rows += _rows(f"{render_size(size_bytes)}, hit", cost, _positions(folder / "stacks", said))
    return rows


def _load(side: Side, hits: Hits, folder: Path, seconds: float) -> int:
    return run_wrk(side.url, folder, hits.requests, connections=hits.connections, seconds=seconds).requests


def _cost_of_hit(side: Side, hits: Hits, folder: Path) -> Cost:
    before = cpu_seconds(side.pids)
    requests = _load(side, hits, folder, hits.seconds)
    user, kernel = (after - earlier for after, earlier in zip(cpu_seconds(side.pids), before, strict=True))
    return Cost("us/req", user / requests * 1e6, kernel / requests * 1e6)


def _profile_cold(folder: Path, seconds: int) -> list[Row]:
    folder.mkdir()
    data, keys = make_data(folder / "data", COLD_BYTES), itertools.count()
    with start_origin(data) as origin:
        upstream = {
            "type": "s3",
            "endpoint": origin.url,
            "region": "us-east-1",
            "anonymous": True,
            "addressing": "path",
        }
        config = {"log": {"level": "warning"}}
        with start_gateway(folder, origin=upstream, workers=1, config=config, cache_size="60GiB") as gateway:
            pids = gateway.worker_pids()
            pin((*pids, *gateway.children(), gateway.pid), SERVER_CORES)

            def read() -> None:
                back_memory(folder, COLD_BYTES + (256 << 20))
                read_stream(gateway.url, f"/bench/{next(keys)}")

            read()
            cost = _cost_of_gigabyte(read, pids)
            with sampled(pids[0], seconds, folder / "stacks") as sampler:
                while sampler.poll() is None:
                    read()
                said = sampler.communicate()[0]
            positions = _positions(folder / "stacks", said)
    return _rows("cold", cost, positions)


def _cost_of_gigabyte(read: Callable[[], None], pids: list[int], reads: int = 2) -> Cost:
    before = cpu_seconds(pids)
    for _ in range(reads):
        read()
    user, kernel = (after - earlier for after, earlier in zip(cpu_seconds(pids), before, strict=True))
    gigabytes = reads * COLD_BYTES / 1e9
    return Cost("s/GB", user / gigabytes, kernel / gigabytes)


def _positions(stacks: Path, said: str) -> Counter[CodePosition]:
    """Raises RuntimeError with what the sampler said where it may not look into another process."""
    if not stacks.exists():
        raise RuntimeError(f"py-spy gave no stacks:\n{said}")
    positions = read_positions(stacks.read_text())
    stacks.unlink()
    del positions[WAITING]
    return positions


def _rows(read: str, cost: Cost, positions: Counter[CodePosition]) -> list[Row]:
    count = positions.total()

    def row(layer: str, where: str, samples: int) -> Row:
        share = samples / count
        return {
            "read": read,
            "layer": layer,
            "where": where,
            "CPU": f"{share * cost.total:.3g} {cost.unit}",
            "share": f"{share:.1%}",
        }

    measured = f"user {cost.user / cost.total:.0%}, kernel {cost.kernel / cost.total:.0%}; {count} samples"
    rows = [row("all", measured, count)]
    rows += [row(layer, "(sum)", n) for layer, n in by_layer(positions).most_common() if n / count >= SHARE_MIN]
    shown = positions.most_common(FUNCTIONS_SHOWN)
    return rows + [row(position.layer, position.where, n) for position, n in shown if n / count >= SHARE_MIN]
