"""A slow S3 origin as a process, over files with known bytes; reading through a gateway with an eye on every byte."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.gateways import GatewayProcess, clean_environment
from tests.waiting import wait_until

BUCKET = "models"
BLOCK_BYTES = 256 << 10
CONFIG: Mapping[str, Any] = {"cache": {"block_size": "256KiB"}}


def make_objects(root: Path, count: int, size_bytes: int, seed: int = 1) -> dict[str, bytes]:
    """Writes objects of different bytes into the origin's directory."""
    (root / BUCKET).mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    objects = {f"object-{number:03d}": chance.randbytes(size_bytes + number) for number in range(count)}
    for name, content in objects.items():
        (root / BUCKET / name).write_bytes(content)
    return objects


@contextlib.contextmanager
def slow_cloud(root: Path, bytes_per_s: float = 20e6, latency_s: float = 0.002) -> Iterator[str]:
    """The demo's throttled origin over `root`; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "proxy.cli.demo.origin", str(root)]
        command += [str(bytes_per_s), str(latency_s), str(listener.fileno())]
        process = subprocess.Popen(command, pass_fds=(listener.fileno(),), env=clean_environment())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.kill()
            process.wait()


def read_prefix(
    gateway: GatewayProcess,
    key: str,
    after_bytes: int = -1,
    then: Callable[[], None] | None = None,
    *,
    start: int = 0,
) -> tuple[bytes, bool]:
    """What arrives of an object from `start` on, and whether all came; `then` runs once, after so many bytes."""
    got = bytearray()
    headers = {"Range": f"bytes={start}-"} if start else {}
    url = f"{gateway.url}/{BUCKET}/{key}"
    try:
        with httpx.stream("GET", url, headers=headers, trust_env=False, timeout=60) as answer:
            if answer.status_code not in (200, 206):
                return bytes(got), False
            for chunk in answer.iter_raw():
                got += chunk
                if then is not None and len(got) > after_bytes:
                    then()
                    then = None
    except httpx.TransportError:
        return bytes(got), False
    return bytes(got), True


def read_whole(gateway: GatewayProcess, key: str) -> httpx.Response:
    """The whole answer; a worker that has just died may refuse the first tries."""
    answers: list[httpx.Response] = []

    def ask() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answers.append(httpx.get(f"{gateway.url}/{BUCKET}/{key}", trust_env=False, timeout=60))
        return bool(answers) and answers[-1].status_code == 200

    wait_until(ask, f"{key} can't be read:\n{gateway.logs()[-3000:]}", timeout_s=60)
    return answers[-1]


def assert_settled(gateway: GatewayProcess, key: str, content: bytes) -> None:
    """Every byte is right, and no block is left behind: the object becomes a whole hit."""
    assert read_whole(gateway, key).content == content

    def hit() -> bool:
        answer = read_whole(gateway, key)
        assert answer.content == content
        return answer.headers["x-cache"] == "HIT"

    wait_until(hit, f"{key} never becomes a hit", timeout_s=30)
