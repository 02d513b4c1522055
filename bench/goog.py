"""Cold reads from Google Cloud Storage beside those from S3: the same bytes from the same server, by the two dialects.

One gateway for each dialect before one origin (`loopback`), at full speed; one stream, or eight connections that take
32 MiB ranges in order. Every read has a new key. `ratio` is GCS's CPU seconds per GB over S3's, round by round.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench import Row
from bench.client import cut, read_ranges, read_stream
from bench.loopback import make_data, start_origin
from bench.processes import back_memory, cpu_seconds
from bench.rounds import in_turns, middle, ratios, spread
from tests.gateways import GatewayProcess, start_gateway

QUESTION = "Does a cold gigabyte cost the same from Google Cloud Storage as from S3?"

RANGE_BYTES = 32 << 20
STREAMS = (1, 8)
_ORIGINS = {
    "gcs": {"type": "gcs", "anonymous": True},
    "s3": {"type": "s3", "region": "us-east-1", "anonymous": True, "addressing": "path"},
}
_names = itertools.count()


def measure(quick: bool) -> list[Row]:
    size_bytes = (256 << 20) if quick else (512 << 20)
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as folder, _opened(Path(folder), size_bytes) as sides:
        found = in_turns(sides, 3 if quick else 9)
    rows: list[Row] = []
    for side, costs in found.items():
        others = found[side.replace("gcs", "s3")]
        rows.append({"side": side, "CPU s/GB": middle(costs), "ratio": spread(ratios(costs, others))})
    return rows


@contextlib.contextmanager
def _opened(folder: Path, size_bytes: int) -> Iterator[dict[str, Callable[[], float]]]:
    """Each side as a call that reads one new key and gives the gateway's CPU seconds per GB."""
    data = make_data(folder / "data", size_bytes)
    with start_origin(data) as origin, contextlib.ExitStack() as stack:
        sides: dict[str, Callable[[], float]] = {}
        for name, settings in _ORIGINS.items():
            (folder / name).mkdir()
            upstream = {**settings, "endpoint": origin.url}
            gateway = stack.enter_context(
                start_gateway(folder / name, origin=upstream, config={"log": {"level": "warning"}}, cache_size="40GiB")
            )
            for streams in STREAMS:
                sides[f"{name}, {streams}"] = partial(_cost, gateway, size_bytes, streams)
        yield sides


def _cost(gateway: GatewayProcess, size_bytes: int, streams: int) -> float:
    back_memory(Path(tempfile.gettempdir()), size_bytes + (256 << 20))
    path = f"/bench/object-{next(_names)}"
    before = sum(cpu_seconds(gateway.worker_pids()))
    if streams == 1:
        read = read_stream(gateway.url, path)
    else:
        read = read_ranges(gateway.url, path, cut(size_bytes, RANGE_BYTES), streams)
    assert read.received_bytes == size_bytes
    return (sum(cpu_seconds(gateway.worker_pids())) - before) / (size_bytes / 1e9)
