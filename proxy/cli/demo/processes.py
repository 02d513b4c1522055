"""The processes of the demo: they end with it, and report why they did not start."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from proxy.errors import ConfigInvalid

BUCKET, PREFIX = "models", "demo-1b/"
CACHE_BYTES_MIN = 512 << 20
CACHE_SHARE = 1.25  # of the model
START_TIMEOUT_S = 120.0  # a start takes one second, or many on a busy machine


@contextlib.contextmanager
def child_process(command: list[str], log: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child process and stop it at the end; its output goes to a file."""
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
    """Start the origin and yield its URL. `total_bytes_per_s` is for all connections together; 0: no limit."""
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
    """Raises ConfigInvalid if the process has ended or does not answer in time."""
    status = child.poll()
    if status is None and time.monotonic() <= give_up_at:
        return
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    if status is None:
        raise ConfigInvalid(
            f"the demo's {log.stem} did not answer within {START_TIMEOUT_S:.0f} s; is this machine very busy? "
            f"Its log ends with: {' '.join(last) or 'nothing'}"
        )
    raise ConfigInvalid(f"the demo's {log.stem} ended with status {status}: {' '.join(last) or 'no output'}")


@contextlib.contextmanager
def free_ports(listen: str, nodes: int) -> Iterator[list[tuple[str, int]]]:
    """A pair of free ports for each node, held until the end; each node's place is the first of its pair.

    Raises ConfigInvalid for a port that is taken and for an invalid address.
    """
    try:
        address = urlsplit(f"//{listen}")
        host, first = address.hostname or "", address.port
    except ValueError:
        host, first = "", None
    if not host or first is None:
        raise ConfigInvalid(f"--listen {listen!r}: write host:port, such as 127.0.0.1:9000")
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        for number in range(nodes):
            try:
                ports.append(first + 2 * number if first else _free_pair(stack, host))
                if first:
                    for port in (ports[-1], ports[-1] + 1)[: 2 if nodes > 1 else 1]:
                        stack.enter_context(socket.create_server((host, port)))
            except OSError as error:
                taken = ports[-1] if ports else first
                raise ConfigInvalid(
                    f"--listen {listen!r}: port {taken}: {error.strerror}; choose another port, or 127.0.0.1:0 for any"
                ) from None
        yield [(host, port) for port in ports]


def _free_pair(stack: contextlib.ExitStack, host: str) -> int:
    while True:
        holder = stack.enter_context(socket.create_server((host, 0)))
        port = int(holder.getsockname()[1])
        with contextlib.suppress(OSError, OverflowError):
            stack.enter_context(socket.create_server((host, port + 1)))
            return port


def cache_bytes(model_bytes: float) -> int:
    """Return the size of a node's cache: the model, with room to spare before anything is evicted."""
    return max(CACHE_BYTES_MIN, int(model_bytes * CACHE_SHARE))


def read_metric(gateway_url: str, name: str) -> int:
    """Return the sum of a gateway's counter over its labels, or one sample by its full name."""
    text = httpx.get(f"{gateway_url}/-/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def origin_bytes(gateway_url: str) -> int:
    """Return the bytes that the gateway has received from its origin so far."""
    return read_metric(gateway_url, "warmstart_origin_bytes_total")
