"""The processes of the demo: each ends with it, and one that does not start says why."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from proxy.errors import ConfigInvalid

BUCKET, PREFIX = "models", "demo-1b/"
START_TIMEOUT_S = 30.0


@contextlib.contextmanager
def child_process(command: list[str], log: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, stopped at the end; its output goes to a file."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def slow_origin(root: Path, bytes_per_s: float, latency_s: float, total_bytes_per_s: float = 0.0) -> Iterator[str]:
    """Its URL. `total_bytes_per_s`: of all connections together; 0: no limit."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "proxy.cli.demo.origin"]
        command += [str(root), str(bytes_per_s), str(latency_s), str(listener.fileno()), str(total_bytes_per_s)]
        with child_process(command, root.parent / "origin.log", pass_fds=(listener.fileno(),)) as child:
            url = f"http://127.0.0.1:{port}"
            await_answer(child, f"{url}/{BUCKET}", root.parent / "origin.log")
            yield url


def await_file(child: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while not path.exists() or not path.read_text().strip():
        _check_alive(child, log, give_up_at)
        time.sleep(0.05)


def await_answer(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.head(url, trust_env=False).status_code < 500:
                return
        _check_alive(child, log, give_up_at)
        time.sleep(0.05)


def _check_alive(child: subprocess.Popen[bytes], log: Path, give_up_at: float) -> None:
    if child.poll() is not None or time.monotonic() > give_up_at:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise ConfigInvalid(f"the demo's {log.stem} did not start: {' '.join(last) or 'no word from it'}")


def read_metric(gateway_url: str, name: str) -> int:
    """The sum of a counter of the gateway's over its labels, or one sample by its whole name."""
    text = httpx.get(f"{gateway_url}/-/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def origin_bytes(gateway_url: str) -> int:
    """What the gateway has received from its origin so far."""
    return read_metric(gateway_url, "warmstart_origin_bytes_total")
