"""The space of an evicted file is free when the last response that sends from it has ended, collector or not."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.gateways import GatewayProcess, start_gateway
from tests.waiting import wait_until

OBJECT_BYTES = 12 << 20
OBJECTS = 12
CLIENTS = 24


def test_files_that_stalled_clients_held_are_gone_with_them_without_a_garbage_collection(tmp_path: Path) -> None:
    bucket = tmp_path / "origin" / "b"
    bucket.mkdir(parents=True)
    for number in range(OBJECTS):
        (bucket / f"k{number}").write_bytes(random.Random(number).randbytes(OBJECT_BYTES))
    uncollected = tmp_path / "uncollected"
    uncollected.mkdir()
    (uncollected / "sitecustomize.py").write_text("import gc\ngc.disable()\n")
    with start_gateway(
        tmp_path,
        origin={"type": "file", "root": str(tmp_path / "origin")},
        cache_size="64MiB",
        config={"cache": {"block_size": "1MiB"}},
        environment={"PYTHONPATH": str(uncollected)},
    ) as gateway:
        clients = [stalled_client(gateway, f"k{number % 4}") for number in range(CLIENTS)]
        read_all(gateway)
        wait_until(lambda: unlinked(gateway) > 0, "no file is held by a client that stalls")
        for client in clients:
            client.close()
        wait_until(lambda: unlinked(gateway) == 0, "evicted files stay open")
        read_all(gateway)
        wait_until(lambda: unlinked(gateway) == 0, "evicted files stay open")


def stalled_client(gateway: GatewayProcess, key: str) -> socket.socket:
    """One that has asked for an object, got its first bytes, and takes no more."""
    place = urlsplit(gateway.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
    client.connect((place.hostname, place.port))
    client.sendall(f"GET /b/{key} HTTP/1.1\r\nHost: gateway\r\n\r\n".encode())
    assert client.recv(12).startswith(b"HTTP/1.1 200")
    return client


def read_all(gateway: GatewayProcess) -> None:
    with httpx.Client(trust_env=False, timeout=120) as client:
        for number in range(OBJECTS):
            got = client.get(f"{gateway.url}/b/k{number}").content
            assert len(got) == OBJECT_BYTES


def unlinked(gateway: GatewayProcess) -> int:
    """Open files of the cache that are evicted: no name is left of them, or one in the folder of what is leaving."""
    (pid,) = gateway.worker_pids()
    links = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:
            continue  # closed meanwhile
    own = [link for link in links if link.startswith(str(gateway.cache))]
    return sum(link.endswith(" (deleted)") or "/leaving/" in link for link in own)
