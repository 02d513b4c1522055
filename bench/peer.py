"""What a gigabyte from another node of a fleet costs: at the node that receives it, and at the one that gives it.

How it works. Two gateways on loopback, one worker each, links and origin unbounded. The first loads a model. Then the
second reads it: what it owns comes from the first as the block's former owner, the rest by the owner's word, nothing
from the origin. The second reads it once more, hot: that is what its client costs, and receiving is the difference. The
bytes are summed and written to the second node's cache on their way.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import Row
from bench.gang import Gang, file_sum
from bench.loopback import FULL_SPEED, Origin, make_data, read_counts, start_origin
from bench.processes import back_memory, cpu_seconds
from tests.fleet.fleet import wait_for_members
from tests.gateways import GatewayProcess, start_gateway

QUESTION = "What does a gigabyte from another node of the fleet cost?"

MODEL_BYTES = 1 << 30
QUICK_BYTES = 512 << 20
ROUNDS, QUICK_ROUNDS = 5, 2
PORT = 9000
SECRET = "the secret of a measured fleet"
TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds per gigabyte, of each node; bytes a second that the client got."""

    first: float
    second: float
    bytes_per_s: float


def measure(quick: bool) -> list[Row]:
    size = QUICK_BYTES if quick else MODEL_BYTES
    rounds = [_round(size, number) for number in range(QUICK_ROUNDS if quick else ROUNDS)]
    receive = [relayed.second - hot.second for relayed, hot, _ in rounds]
    give = [relayed.first for relayed, _, _ in rounds]
    return [
        {
            "MiB": size >> 20,
            "receive CPU s/GB": _spread(receive),
            "give CPU s/GB": _spread(give),
            "GB/s": _spread([relayed.bytes_per_s / 1e9 for relayed, _, _ in rounds]),
            "from the origin": f"{max(copies for _, _, copies in rounds):.4f}",
        }
    ]


def _round(size: int, number: int) -> tuple[Cost, Cost, float]:
    """The second node's first read, its second one, and the share that came from the origin for these."""
    with contextlib.ExitStack() as stack:
        room = "/dev/shm" if Path("/dev/shm").is_dir() else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="warmstart-bench-", dir=room)))
        data = make_data(folder / "data", size)
        origin = stack.enter_context(start_origin(data, FULL_SPEED))
        nodes = stack.enter_context(_nodes(folder, origin, size, number))
        wait_for_members(nodes, 2)
        back_memory(folder, 2 * size)
        expected = file_sum(data)
        _load(nodes, 0, size, expected)
        before = read_counts(origin).sent_bytes
        relayed = _load(nodes, 1, size, expected)
        hot = _load(nodes, 1, size, expected)
        return relayed, hot, (read_counts(origin).sent_bytes - before) / size


@contextlib.contextmanager
def _nodes(folder: Path, origin: Origin, size: int, number: int) -> Iterator[list[GatewayProcess]]:
    net = f"127.{100 + number}.{os.getpid() % 250}"
    urls = [f"http://{net}.{last}:{PORT}" for last in (1, 2)]
    with contextlib.ExitStack() as stack:
        nodes = []
        for url in urls:
            home = folder / url.rpartition(".")[2].replace(":", "-")
            home.mkdir()
            config = {
                "listen": url.removeprefix("http://"),
                "log": {"level": "warning"},
                "cluster": {"peers": urls, "advertise": url, "secret": SECRET},
            }
            place = f"http://{origin.host}:{origin.port}"
            nodes.append(
                stack.enter_context(start_gateway(home, origin=place, config=config, cache_size=f"{4 * size}B"))
            )
        yield nodes


def _load(nodes: list[GatewayProcess], reader: int, size: int, expected: int) -> Cost:
    with Gang([(f"{nodes[reader].url}/bench/model", ())], TIMEOUT_S) as gang:
        pids = [[node.pid, *node.children()] for node in nodes]
        before = [sum(cpu_seconds(each)) for each in pids]
        gang.go()
        (read,) = gang.wait()
        first, second = (sum(cpu_seconds(each)) - start for each, start in zip(pids, before, strict=True))
    if read.error or read.crc32c != expected:
        raise RuntimeError(read.error or "wrong bytes")
    return Cost(first / size * 1e9, second / size * 1e9, size / read.seconds)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
