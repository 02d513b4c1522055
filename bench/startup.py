"""How soon a start serves what is in its cache, beside a start with a small cache; and what a look-up costs then.

Both caches lie on file systems of their own, mounted anew before each start: nothing of them is in memory (without root
it stays there, and the last line says so). A client tries to connect from the moment on that `python -m proxy serve` is
run, and reads one object; then, on one connection, objects at random that nobody has asked for yet, and the same ones
again. The origin is an empty directory, and the objects' bucket immutable: everything comes from the cache, and is
checked at its first touch. All this happens while the housekeeper counts what the cache holds; after the last start
its whole count is waited for.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles

import yaml

from bench import Row
from bench.client import Connection
from bench.large_cache import BUCKET, LargeCache, make_large_cache, remove_large_cache
from bench.processes import children, cpu_seconds, free_port, running
from bench.rounds import in_turns, middle, ratios, spread
from bench.volume import Volume, own_volume

QUESTION = "How soon does a start serve from a cache of a million objects, and what does a look-up cost there?"

OBJECTS, QUICK_OBJECTS, FEW_OBJECTS = 1_000_000, 100_000, 1_000
ROUNDS, QUICK_ROUNDS = 5, 3
LOOK_UPS = 500
START_TIMEOUT_S, COUNT_TIMEOUT_S = 60.0, 900.0
FILES_BYTES = 16 << 10  # of the volume, for each object: two pages, two inodes, names


@dataclass(frozen=True, slots=True)
class Site:
    """One cache, and the settings of the gateway before it."""

    folder: Path
    volume: Volume
    large: LargeCache
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Start:
    """Times in ms; `cpu_s` is that of all processes until the first object was there."""

    served_s: float
    cpu_s: float
    first_ms: Sequence[float]
    again_ms: Sequence[float]


def measure(quick: bool) -> list[Row]:
    objects = QUICK_OBJECTS if quick else OBJECTS
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="warmstart-bench-")))
        stack.enter_context(_compiled(folder / "compiled"))
        _say(f"making a cache of {objects} objects")
        many = stack.enter_context(_site(folder / "many", objects))
        few = stack.enter_context(_site(folder / "few", FEW_OBJECTS))
        sides = {f"{site.large.objects:,} objects": site for site in (many, few)}
        rounds = iter(range(1000))
        tasks = {name: partial(_measure_start, site, rounds) for name, site in sides.items()}
        found = in_turns(tasks, QUICK_ROUNDS if quick else ROUNDS)
        few_name = list(sides)[1]
        rows = [_row(name, found, few_name) for name in sides]
        return [*rows, _count(many)]


@contextlib.contextmanager
def _compiled(folder: Path) -> Iterator[None]:
    """Programs started meanwhile find their modules compiled, as an installed package's are."""
    changed = {"PYTHONPYCACHEPREFIX": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        modules = "import proxy.composition.app, proxy.cli.serve, proxy.process.housekeeping, "
        modules += "proxy.process.supervisor, proxy.process.worker"
        subprocess.run([sys.executable, "-c", modules], check=True, timeout=120)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _site(folder: Path, objects: int) -> Iterator[Site]:
    folder.mkdir()
    root = folder / "origin"
    root.mkdir()
    with own_volume(folder, (1 << 30) + objects * FILES_BYTES, 100_000 + 2 * objects) as volume:
        cache = volume.path / "cache"
        large = make_large_cache(cache, f"file://{root}", objects)
        site = Site(folder, volume, large, free_port())
        settings = {
            "listen": f"127.0.0.1:{site.port}",
            "cache": {"disks": [{"path": str(cache), "size": large.size_bytes}]},
            "origins": {"origin": {"type": "file", "root": str(root)}},
            "buckets": {BUCKET: {"origin": "origin", "consistency": "immutable"}},
            "log": {"level": "warning"},
        }
        (folder / "gateway.yaml").write_text(yaml.safe_dump(settings))
        try:
            yield site
        finally:
            if volume.device is None:
                remove_large_cache(cache)


@contextlib.contextmanager
def _started(site: Site) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(site.folder / "gateway.yaml")]
    with running(command, site.folder / "log") as process:
        yield process


def _measure_start(site: Site, rounds: Iterator[int]) -> Start:
    number = next(rounds)
    paths = [site.large.path(chosen) for chosen in site.large.sample(LOOK_UPS + 1, number)]
    _say(f"start {number + 1}, {site.large.objects} objects")
    site.volume.forget()
    began_s = time.monotonic()
    with _started(site) as process:
        _wait_for(site, process)
        client = Connection(site.url)
        client.get(paths[0])
        served_s = time.monotonic() - began_s
        cpu_s = sum(cpu_seconds([process.pid, *children(process.pid)]))
        first, again = (list(_look_up(client, paths[1:])) for _ in range(2))
        client.close()
    return Start(served_s, cpu_s, first, again)


def _wait_for(site: Site, process: subprocess.Popen[bytes]) -> None:
    """Until it listens. Raises RuntimeError with what it printed when it does not in time."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", site.port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"it did not start:\n{(site.folder / 'log').read_text('utf-8', 'replace')}")
        time.sleep(0.002)


def _look_up(client: Connection, paths: Sequence[str]) -> Iterator[float]:
    for path in paths:
        began_s = time.monotonic()
        client.get(path)
        yield (time.monotonic() - began_s) * 1e3


def _row(name: str, found: Mapping[str, Sequence[Start]], few: str) -> Row:
    mine, theirs = found[name], found[few]
    row: Row = {
        "cache": name,
        "first read after s": spread([start.served_s for start in mine]),
        "CPU s until then": spread([start.cpu_s for start in mine]),
    }
    for column, pick in (("first touch", _first), ("again", _again)):
        row[f"{column} p50 ms"] = middle([_percentile(pick(start), 50) for start in mine])
        row[f"{column} p99 ms"] = middle([_percentile(pick(start), 99) for start in mine])
        if name != few:
            medians = [[_percentile(pick(start), 50) for start in side] for side in (mine, theirs)]
            row[f"{column} ratio"] = spread(ratios(*medians))
    return row


def _first(start: Start) -> Sequence[float]:
    return start.first_ms


def _again(start: Start) -> Sequence[float]:
    return start.again_ms


def _percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1]


def _count(site: Site) -> Row:
    """The housekeeper's first count of a cache, while somebody reads one object all the time."""
    site.volume.forget()
    with _started(site) as process:
        _wait_for(site, process)
        client, path = Connection(site.url), site.large.path(0)
        client.get(path)
        keeper, began_s = _housekeeper(process), time.monotonic()
        busy_ms: list[float] = []
        while not _counted(site):
            if time.monotonic() - began_s > COUNT_TIMEOUT_S:
                raise RuntimeError("the housekeeper does not come to an end")
            busy_ms += _look_up(client, [path] * 500)
            time.sleep(0.5)
        seconds = time.monotonic() - began_s
        used_s = sum(cpu_seconds([keeper]))
        quiet_ms = list(_look_up(client, [path] * 2000))
        row: Row = {
            "cache": "counting" if site.volume.device is not None else "counting, in memory",
            "count took s": seconds,
            "housekeeper CPU s": used_s,
            "housekeeper MiB": _peak_mib(keeper),
            "hot p50 ms": f"{_percentile(busy_ms, 50):.2f}, then {_percentile(quiet_ms, 50):.2f}",
            "hot p99 ms": f"{_percentile(busy_ms, 99):.2f}, then {_percentile(quiet_ms, 99):.2f}",
        }
        client.close()
    return row


def _housekeeper(process: subprocess.Popen[bytes]) -> int:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        for pid in children(process.pid):
            with contextlib.suppress(OSError):
                if b"housekeep" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        time.sleep(0.01)
    raise RuntimeError("there is no housekeeper")


def _counted(site: Site) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=30)) as connection:
        connection.request("GET", "/-/metrics")
        return b"\nwarmstart_disk_used_bytes{" in connection.getresponse().read()


def _peak_mib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) >> 10


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
