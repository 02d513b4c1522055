"""Many readers of one large object at once, cold and then hot: resident memory of each worker, bytes from the origin.

The origin is a process of its own that sends at most 250 MB/s on each connection; the readers are curl processes. A
sampler reads /proc: RssAnon is what a worker has for itself, VmHWM its resident peak with code and mapped files.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from bench import Row
from tests.gateways import GatewayProcess, start_gateway
from tests.trouble.cloud import BUCKET, slow_cloud

QUESTION = "How much memory do 16 readers of one 2 GiB object cost, and how many bytes does the origin send?"

READERS = 16
WORKERS = 2
TIMEOUT_S = 600


def measure(quick: bool) -> list[Row]:
    size_bytes = (256 << 20) if quick else (2 << 30)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_object(folder / "root" / BUCKET / "object", size_bytes)
        with (
            slow_cloud(folder / "root", bytes_per_s=250e6, latency_s=0.005) as origin,
            start_gateway(folder, origin=origin, workers=WORKERS, cache_size="20GiB") as gateway,
        ):
            for way in ("cold", "hot"):
                rows.append(_round(way, gateway, size_bytes))
    return rows


def _make_object(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for _ in range(size_bytes >> 20):
            file.write(os.urandom(1 << 20))


def _round(way: str, gateway: GatewayProcess, size_bytes: int) -> Row:
    before = gateway.metric("warmstart_origin_bytes_total")
    peaks: dict[int, int] = {}
    done = threading.Event()
    sampler = threading.Thread(target=_sample, args=(gateway.worker_pids(), peaks, done))
    sampler.start()
    began = time.perf_counter()
    command = ["curl", "-sf", "-o", "/dev/null", "-w", "%{size_download}", f"{gateway.url}/{BUCKET}/object"]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(READERS)]
    received = [int(reader.communicate(timeout=TIMEOUT_S)[0]) for reader in readers]
    seconds = time.perf_counter() - began
    done.set()
    sampler.join()
    assert received == [size_bytes] * READERS, received
    sent = gateway.metric("warmstart_origin_bytes_total") - before
    return {
        "read": way,
        "readers": READERS,
        "object MiB": size_bytes >> 20,
        "seconds": seconds,
        "GB/s to clients": READERS * size_bytes / seconds / 1e9,
        "own memory MiB, largest worker": max(peaks.values()) >> 10,
        "resident peak MiB, largest worker": max(_status_kib(pid, "VmHWM") for pid in peaks) >> 10,
        "origin copies": f"{sent / size_bytes:.4f}",
    }


def _sample(pids: list[int], peaks: dict[int, int], done: threading.Event) -> None:
    while not done.wait(0.05):
        for pid in pids:
            peaks[pid] = max(peaks.get(pid, 0), _status_kib(pid, "RssAnon"))


def _status_kib(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
