"""N gateways, all of whose clients read the same model in lockstep: how long it takes, and what the origin sends.

How it works. Every node is a network namespace with a link of its own, the same in both directions; the origin's link
is twice a node's (`network`). Gateways (one worker each), a real Redis on an unshaped way, and one client beside each
gateway, which reads the whole object as one stream and sums its bytes (`gang`). All of them share this machine's cores:
links are so slow that N of them together carry at most TOTAL_BYTES_PER_S, which leaves CPU for it; `cores busy %` tells
how much was used. Caches lie in memory (/dev/shm) where there is room: the disk is another question.

`ideal` is max(size / origin link, size / node link). Origin copies are the body bytes that the origin sent / size. CPU
is that of all processes of the surviving gateways, divided by the bytes that their clients received.

Modes: `plain`; `kill`: one node is killed (-9) with its client once the origin has sent half; `unsummed`: the same from
an origin that tells no checksum of the object, so that what came from the dead is read again to check; `throttled`: the
origin refuses the first GET of each block with 429 and `Retry-After: 5`, with a smaller model, since each such pause
takes its seconds; `apart`: the same gateways without a fleet, each before the origin, for comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import Row
from bench.gang import Gang, GangRead, file_sum
from bench.loopback import FULL_SPEED, Origin, make_data, read_counts, start_origin
from bench.network import INSTALL, Namespace, Network, permitted
from bench.processes import Missing, back_memory, cpu_seconds
from proxy.config.limits import LimitSettings
from tests.fleet.fleet import kill_all, wait_for_members
from tests.fleet.redis_servers import RedisServer, start_redis
from tests.gateways import GatewayProcess, start_gateway
from tests.waiting import wait_until

QUESTION = "How fast does a gang of N nodes load one model, and how often does the origin send it?"

MIB = 1 << 20
MODEL_BYTES = 512 * MIB
THROTTLED_BYTES = 64 * MIB
BLOCK_BYTES = 8 * MIB
NODES = (2, 4, 8, 12)
QUICK_NODES = (2, 4)
TOTAL_BYTES_PER_S = 150e6
NODE_BYTES_PER_S = 75e6
RETRY_AFTER_S = 5
SECRET = "the secret of a measured fleet"
PORT = 9000
MODES = ("plain", "kill", "unsummed", "throttled", "apart")


@dataclass(frozen=True, slots=True)
class Case:
    nodes: int
    mode: str

    @property
    def size_bytes(self) -> int:
        return THROTTLED_BYTES if self.mode == "throttled" else MODEL_BYTES

    @property
    def node_link(self) -> float:
        """Bytes a second."""
        return min(NODE_BYTES_PER_S, TOTAL_BYTES_PER_S / self.nodes)

    @property
    def origin_link(self) -> float:
        return 2 * self.node_link

    @property
    def ideal_s(self) -> float:
        return max(self.size_bytes / self.origin_link, self.size_bytes / self.node_link)

    @property
    def timeout_s(self) -> float:
        """Of each client's read."""
        return 20 + 6 * self.ideal_s * (self.nodes if self.mode == "apart" else 1) + 60 * (self.mode == "throttled")


@dataclass(frozen=True, slots=True)
class Measured:
    reads: list[GangRead]  # of the nodes that live
    origin_bytes: int
    requests: int
    refused: int
    cpu_s: float
    busy: float  # share of all cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("fleet")
    group.add_argument("--nodes", type=_numbers, metavar="N,N", help="how many gateways, such as 2,4,8,12")
    for mode in MODES:
        group.add_argument(f"--{mode}", dest="modes", action="append_const", const=mode, help=f"the mode {mode}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def measure(quick: bool) -> list[Row]:
    if quick:
        return _rows([*(Case(nodes, "plain") for nodes in QUICK_NODES), Case(4, "kill"), Case(4, "throttled")])
    return _rows(
        [*(Case(nodes, "plain") for nodes in NODES), *(Case(8, mode) for mode in MODES[1:4]), Case(4, "apart")]
    )


def measure_with(arguments: argparse.Namespace) -> list[Row]:
    """What the flags name; without any, `measure`."""
    if not arguments.modes and not arguments.nodes:
        return measure(arguments.quick)
    nodes = arguments.nodes or (QUICK_NODES if arguments.quick else NODES)
    return _rows([Case(number, mode) for mode in arguments.modes or ["plain"] for number in nodes])


def _rows(cases: Sequence[Case]) -> list[Row]:
    rows = []
    for case in cases:
        print(f"{case.mode}, {case.nodes} nodes", file=sys.stderr)
        rows.append(_row(case, run_case(case)))
    return rows


def _row(case: Case, found: Measured) -> Row:
    slowest_s = max(read.seconds for read in found.reads)
    received = sum(read.received_bytes for read in found.reads)
    row: Row = {
        "nodes": case.nodes,
        "mode": case.mode,
        "MiB": case.size_bytes // MIB,
        "node link MB/s": round(case.node_link / 1e6),
        "origin link MB/s": round(case.origin_link / 1e6),
        "seconds": f"{slowest_s:.2f}",
        "time / ideal": f"{slowest_s / case.ideal_s:.2f}",
        "origin copies": f"{found.origin_bytes / case.size_bytes:.4f}",
        "requests": found.requests,
        "blocks": case.size_bytes // BLOCK_BYTES,
        "refused": found.refused,
        "CPU s/GB": f"{found.cpu_s / max(received, 1) * 1e9:.2f}",
        "cores busy %": round(found.busy * 100),
        "failed reads": sum(bool(read.error) for read in found.reads),
    }
    if case.mode == "plain":
        row["predicted"] = _predicted(case)
    return row


def _predicted(case: Case) -> str:
    """time / ideal as the simulation of the same fleet has it."""
    from bench.simulation.prediction import predict  # numpy

    window = LimitSettings().read_ahead_blocks
    found = predict(case.nodes, case.size_bytes, case.node_link, case.origin_link, BLOCK_BYTES, window=window)
    return f"{found.slowest:.2f}"


def run_case(case: Case) -> Measured:
    """Raises RuntimeError on wrong bytes, Missing where no namespaces may be made."""
    if not permitted():
        raise Missing(f"network namespaces can't be made here: {INSTALL}")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="warmstart-bench-", dir=_room(case))))
        data = make_data(folder / "data", case.size_bytes)
        network = stack.enter_context(Network())
        cloud = network.add(case.origin_link)
        namespaces = [network.add(case.node_link) for _ in range(case.nodes)]
        refuse_after_s = RETRY_AFTER_S if case.mode == "throttled" else 0
        origin = stack.enter_context(
            start_origin(
                data,
                FULL_SPEED,
                host="0.0.0.0",
                refuse_after_s=refuse_after_s,
                summed=case.mode != "unsummed",
                prefix=cloud.prefix,
            )
        )
        address = f"http://{cloud.address}:{origin.port}"
        origin = replace(origin, host=cloud.side_address)  # for the counts
        redis = stack.enter_context(_redis(folder, network)) if case.mode != "apart" else None
        gateways = stack.enter_context(_gateways(folder, network, namespaces, address, redis))
        if redis is not None:
            wait_for_members(gateways, case.nodes)
        back_memory(folder, case.size_bytes * case.nodes)
        return _load(case, gateways, namespaces, origin, file_sum(data))


def _room(case: Case) -> str | None:
    """A folder in memory for all caches and the model, if it has room twice; else the default one."""
    shared = Path("/dev/shm")
    needed = case.size_bytes * (case.nodes + 1) * 2
    return str(shared) if shared.is_dir() and shutil.disk_usage(shared).free > needed else None


@contextlib.contextmanager
def _redis(folder: Path, network: Network) -> Iterator[str]:
    """Its URL, for the places' other interface."""
    open_to_all = ("--bind", "127.0.0.1", network.host_address, "--protected-mode", "no")
    with start_redis(folder, arguments=open_to_all) as server:
        assert isinstance(server, RedisServer)
        yield f"redis://{network.host_address}:{server.port}/0"


@contextlib.contextmanager
def _gateways(
    folder: Path, network: Network, namespaces: Sequence[Namespace], origin: str, redis: str | None
) -> Iterator[list[GatewayProcess]]:
    """One in each place, all started at once, each with the URL by which this machine reaches it."""
    with contextlib.ExitStack() as stack:
        gateways = []
        for place in namespaces:
            home = folder / place.name
            home.mkdir()
            config: dict[str, Any] = {"listen": f"0.0.0.0:{PORT}", "auth": "none", "log": {"level": "warning"}}
            if redis is not None:
                advertise = f"http://{place.address}:{PORT}"
                config["cluster"] = {"redis": redis, "advertise": advertise, "secret": SECRET}
            gateway = start_gateway(home, origin=origin, config=config, wait=False, prefix=place.prefix)
            gateway.url = f"http://{place.side_address}:{PORT}"
            gateways.append(stack.enter_context(gateway))
        for place, gateway in zip(namespaces, gateways, strict=True):
            ready = folder / place.name / "gateway.url"
            wait_until(lambda: ready.exists() or not gateway.running, "a gateway did not start", 120)  # noqa: B023
            if not gateway.running:
                raise RuntimeError(f"a gateway did not start:\n{gateway.logs()}")
        yield gateways


def _load(
    case: Case, gateways: Sequence[GatewayProcess], namespaces: Sequence[Namespace], origin: Origin, expected: int
) -> Measured:
    clients = [(f"http://127.0.0.1:{PORT}/bench/model", place.prefix) for place in namespaces]
    living = list(range(case.nodes))
    with Gang(clients, case.timeout_s) as gang:
        pids = [[gateway.pid, *gateway.children()] for gateway in gateways]
        before, busy_before, since_s = [sum(cpu_seconds(each)) for each in pids], _busy_s(), time.monotonic()
        gang.go()
        if case.mode in ("kill", "unsummed"):
            doomed = case.nodes // 2
            wait_until(
                lambda: read_counts(origin).sent_bytes > case.size_bytes / 2 or gang.done > 0,
                "the origin is not asked",
                case.timeout_s,
            )
            kill_all(gateways[doomed])
            gang.kill(doomed)
            living.remove(doomed)
        reads = gang.wait()
        busy = (_busy_s() - busy_before) / (time.monotonic() - since_s) / len(os.sched_getaffinity(0))
        cpu_s = sum(sum(cpu_seconds(pids[number])) - before[number] for number in living)
    counts = read_counts(origin)
    found = [reads[number] for number in living]
    for read in found:
        if read.error:
            print(read.error, file=sys.stderr)
        elif read.crc32c != expected:
            raise RuntimeError(f"wrong bytes: crc32c {read.crc32c:08x}, not {expected:08x}")
    return Measured(found, counts.sent_bytes, counts.requests, counts.refused, cpu_s, busy)


def _busy_s() -> float:
    """CPU seconds that all cores of this machine have worked."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
