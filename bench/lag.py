"""How long small hot reads take while something else goes on: what an event loop that is held up shows.

A process of its own asks for one object, over and over on one connection with a pause between, until its input ends.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from bench.client import Connection

PAUSE_S = 0.002


@dataclass(slots=True)
class Lag:
    """Milliseconds, once the block has ended."""

    latencies_ms: list[float] = field(default_factory=list)

    def percentile(self, percent: int) -> float:
        return quantiles(self.latencies_ms, n=100)[percent - 1]


@contextlib.contextmanager
def watch_lag(url: str, path: str) -> Iterator[Lag]:
    """While the block runs."""
    command = [sys.executable, "-m", "bench.lag", url, path]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdout.readline()  # it has begun
        lag = Lag()
        yield lag
        process.stdin.close()
        lag.latencies_ms = json.loads(process.stdout.read())
        process.wait()
    finally:
        process.kill()
        process.wait()


def _watch(url: str, path: str) -> Sequence[float]:
    connection = Connection(url)
    connection.get(path)
    print("begun", flush=True)
    latencies_ms = []
    while not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        began_s = time.perf_counter()
        connection.get(path)
        latencies_ms.append((time.perf_counter() - began_s) * 1e3)
    return latencies_ms


if __name__ == "__main__":
    print(json.dumps(_watch(sys.argv[1], sys.argv[2])))
