"""The real gateway for end-to-end tests: `python -m proxy serve` on a free port of 127.0.0.1.

    with start_gateway(tmp_path, origin=moto) as gateway:
        boto3.client("s3", endpoint_url=gateway.url, ...)

Start it in the main thread (it dies with the thread that started it). The cache lies in `tmp_path/cache`: a second
start with the same `tmp_path` finds what the first one left there. `WARMSTART_TEST_EVENT_LOOP` (asyncio, uvloop) names
the event loop of every gateway that does not say its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from tests.servers import S3Server
from tests.waiting import wait_until

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0

# Runs a program that is killed when its parent is: exec keeps the death signal.
_LAUNCH = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
_SAMPLE = re.compile(r"^(\w+(?:\{.*\})?) (\S+)$")


@dataclass(slots=True)
class GatewayProcess:
    """A running gateway. `pid` is the supervisor's, `url` its first listener's, without a trailing slash."""

    url: str
    urls: tuple[str, ...]
    pid: int
    cache: Path
    config: Path
    _process: subprocess.Popen[bytes]
    _log: Path

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM: drain and exit. Returns the exit status; twice does no harm."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the gateway did not stop in {timeout_s} s:\n{self.logs()}") from None

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Its exit status, once it has ended by itself."""
        return self._process.wait(timeout_s)

    def kill(self) -> None:
        """kill -9 of the supervisor alone; returns when its children are gone too, as they must be."""
        children = self.children()
        self._process.kill()
        self._process.wait()
        wait_until(lambda: not any(alive(pid) for pid in children), "the children outlive their supervisor")

    @property
    def running(self) -> bool:
        """Whether the supervisor is."""
        return self._process.poll() is None

    def children(self) -> list[int]:
        return [pid for pid, _ in _children(self.pid)]

    def worker_pids(self) -> list[int]:
        """Of the workers alive now, in the order of their numbers."""
        return [pid for pid, arguments in _children(self.pid) if "worker" in arguments]

    def control_pid(self) -> int:
        """Of a fleet's node."""
        return next(pid for pid, arguments in _children(self.pid) if "control" in arguments)

    def housekeeper_pid(self) -> int | None:
        found = [pid for pid, arguments in _children(self.pid) if "housekeep" in arguments]
        return found[0] if found else None

    def metrics(self) -> dict[str, float]:
        """Every sample of `/-/metrics`, by its name with labels as printed: `name{a="b",c="d"}`."""
        answer = httpx.get(f"{self.url}/-/metrics", trust_env=False, timeout=30, verify=False)
        answer.raise_for_status()
        found = (_SAMPLE.match(line) for line in answer.text.splitlines() if not line.startswith("#"))
        return {sample[1]: float(sample[2]) for sample in found if sample}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(
            value
            for sample, value in self.metrics().items()
            if re.split(r"[{ ]", sample)[0] == name and all(text in sample for text in wanted)
        )

    def wait_until_hot(self, read: Callable[[], object]) -> None:
        """Repeat a read of one request until the express lane answers it.

        The bytes of a fill reach the client before their block is stored, so the next read may still join the fill.
        For a gateway with one worker: another's counters come later.
        """

        def is_hot() -> bool:
            before = self.metric("warmstart_requests_total", lane="express")
            read()
            return self.metric("warmstart_requests_total", lane="express") > before

        wait_until(is_hot, "the express lane does not answer")

    def logs(self) -> str:
        """What all its processes printed so far, JSON lines."""
        return self._log.read_text("utf-8", "replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_gateway(
    tmp_path: Path,
    *,
    origin: S3Server | str | Mapping[str, Any] | None = None,
    workers: int = 1,
    config: Mapping[str, Any] | None = None,
    cache_size: str = "1GiB",
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    wait: bool = True,
    prefix: Sequence[str] = (),
    stdin: int = subprocess.DEVNULL,
) -> GatewayProcess:
    """Start it and wait until it is ready.

    `origin` serves every bucket: a server of `tests.servers`, a URL (http: read without credentials; file:), or the
    settings of one. `config` is laid over the written configuration, mapping by mapping. `prefix` goes before the
    command, which it must become (`ip netns exec`). Raises RuntimeError with what was printed when it does not start.
    """
    settings: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "workers": workers,
        "cache": {"disks": [{"path": str(tmp_path / "cache"), "size": cache_size}]},
        "log": {"level": "debug"},
    }
    if (loop := os.environ.get("WARMSTART_TEST_EVENT_LOOP")) is not None:
        settings["event_loop"] = loop
    if origin is not None:
        settings["origins"] = {"origin": origin_settings(origin)}
        settings["buckets"] = {"*": {"origin": "origin"}}
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(overlay(settings, config or {})), "utf-8")
    return _start(tmp_path, path, arguments, environment or {}, wait, prefix, stdin)


def whole_disk(folder: Path) -> str:
    """The size of a cache that may take all that the folder's file system has."""
    return f"{shutil.disk_usage(folder).total}B"


def origin_settings(origin: S3Server | str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(origin, Mapping):
        return dict(origin)
    if isinstance(origin, str):
        if origin.startswith("file://"):
            return {"type": "file", "root": origin.removeprefix("file://")}
        return {"type": "s3", "endpoint": origin, "region": "us-east-1", "anonymous": True, "addressing": "path"}
    return {
        "type": "s3",
        "endpoint": origin.url,
        "region": origin.region,
        "access_key_id": origin.access_key_id,
        "secret_access_key": origin.secret_access_key,
        "addressing": "path",
    }


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, mapping by mapping."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = overlay(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _start(
    tmp_path: Path,
    config: Path,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    wait: bool,
    prefix: Sequence[str],
    stdin: int,
) -> GatewayProcess:
    url_file, log = tmp_path / "gateway.url", tmp_path / "gateway.log"
    url_file.unlink(missing_ok=True)
    command = [*prefix, sys.executable, "-m", "proxy", "serve", "--config", str(config), "--url-file", str(url_file)]
    command += arguments
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, *command],
            cwd=Path(__file__).parent.parent,
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**clean_environment(), **environment},
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while wait and not url_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError(f"the gateway did not start:\n{log.read_text('utf-8', 'replace')}")
        time.sleep(0.01)
    urls = tuple(url_file.read_text("utf-8").split()) if wait else ("",)
    return GatewayProcess(urls[0], urls, process.pid, tmp_path / "cache", config, process, log)


def clean_environment() -> dict[str, str]:
    """This process's environment without proxies and AWS or warmstart settings that a test did not make."""
    refused = ("AWS_", "WARMSTART_", "PROMETHEUS_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(refused) and not name.lower().endswith("_proxy")
    }
    return kept | {"AWS_EC2_METADATA_DISABLED": "true"}


def alive(pid: int) -> bool:
    """True while a process of that id runs (a zombie does not)."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def send_signal(pid: int, number: signal.Signals) -> None:
    """Signal a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def log_lines(text: str) -> list[dict[str, Any]]:
    """The JSON lines among what a gateway printed."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _children(parent: int) -> list[tuple[int, list[str]]]:
    """Pids and arguments of a process's children that run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            state, parent_pid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent_pid) == parent and state != "Z":
                arguments = (entry / "cmdline").read_text("utf-8", "replace").split("\0")
                found.append((int(entry.name), arguments))
    return sorted(found, key=lambda child: child[1])
