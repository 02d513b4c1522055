"""More connections than descriptors: those who are in are served, the log says it once, and it passes."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.gateways import log_lines, start_gateway
from tests.waiting import wait_until

LIMIT = 300
LIMITED = """import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])"""
CONNECTIONS = 350


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_worker_out_of_descriptors_serves_and_does_not_flood_the_log(tmp_path: Path, loop: str) -> None:
    bucket = tmp_path / "shelf" / "b"
    bucket.mkdir(parents=True)
    (bucket / "k").write_bytes(b"content")
    with (
        start_gateway(
            tmp_path,
            origin=f"file://{bucket.parent}",
            config={"event_loop": loop, "limits": {"connections": 1000, "connections_per_address": 1000}},
            prefix=[sys.executable, "-c", LIMITED, str(LIMIT)],
        ) as gateway,
        httpx.Client(trust_env=False, timeout=30) as first,
        contextlib.ExitStack() as stack,
    ):
        assert first.get(f"{gateway.url}/b/k").content == b"content"
        [worker] = gateway.worker_pids()
        url = urlsplit(gateway.url)
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection((url.hostname, url.port), 30))
        wait_until(lambda: len(list(Path(f"/proc/{worker}/fd").iterdir())) > LIMIT - 10, "descriptors are left")
        for _ in range(100):
            assert first.get(f"{gateway.url}/b/k").content == b"content"
        if loop == "asyncio":
            wait_until(lambda: "no connection can be accepted" in gateway.logs(), "it is not said")
        stack.close()
        wait_until(lambda: _answers(f"{gateway.url}/b/k"), "it does not pass")
        said = [line for line in log_lines(gateway.logs()) if "accept" in line["message"]]
        assert len(said) <= 3
        assert len(gateway.logs()) < 100_000


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    return False
