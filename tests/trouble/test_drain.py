"""SIGTERM while a large hot answer has hardly begun to leave: the client gets all of it."""

from __future__ import annotations

import random
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.gateways import start_gateway

SIZE = 64 << 20


def test_answer_that_is_parked_at_4_of_64_mib_survives_sigterm(tmp_path: Path) -> None:
    content = random.Random(5).randbytes(1 << 20) * (SIZE >> 20)
    (tmp_path / "root" / "b").mkdir(parents=True)
    (tmp_path / "root" / "b" / "model").write_bytes(content)
    with start_gateway(tmp_path, origin=f"file://{tmp_path / 'root'}") as gateway:

        def read() -> None:
            assert httpx.get(f"{gateway.url}/b/model", trust_env=False, timeout=60).content == content

        gateway.wait_until_hot(read)
        before = gateway.metric("warmstart_requests_total", lane="express")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            client.settimeout(60)
            client.connect(("127.0.0.1", urlsplit(gateway.url).port or 80))
            client.sendall(b"GET /b/model HTTP/1.1\r\nHost: here\r\n\r\n")
            received = bytearray()
            while len(received) < 4 << 20:
                received += client.recv(1 << 16)
            assert gateway.metric("warmstart_requests_total", lane="express") == before + 1
            stopping = threading.Thread(target=gateway.stop)
            stopping.start()
            while data := client.recv(1 << 20):
                received += data
            stopping.join(60)
        _, _, body = bytes(received).partition(b"\r\n\r\n")
        assert body == content
