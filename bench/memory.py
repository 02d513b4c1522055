"""Many readers of one large object at once, cold and then hot: resident memory of each worker, bytes from the origin.

The origin is a process of its own that sends at most 250 MB/s on each connection; the readers are threads of this
process, a connection each, that read the whole object. A sampler reads /proc twenty times a second: RssAnon is what
a worker has for itself, VmHWM its resident peak with code and mapped files, since its start.
"""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import Row
from bench.client import read_stream
from bench.cold import start_cold_gateway
from bench.loopback import Link, Origin, make_data, read_counts, start_origin
from tests.gateways import GatewayProcess

QUESTION = "How much memory do 64 readers of one 4 GiB object cost, and how many bytes does the origin send?"

OBJECT_BYTES = 4 << 30
READERS = 64
WORKERS = 2
LINK = Link(connection_bytes_per_s=250e6, latency_s=0.005)
TARGET_MIB = 200


def measure(quick: bool) -> list[Row]:
    size_bytes = OBJECT_BYTES // 8 if quick else OBJECT_BYTES
    with tempfile.TemporaryDirectory(prefix="warmstart-bench-") as name:
        folder = Path(name)
        data = make_data(folder / "data", size_bytes)
        with (
            start_origin(data, LINK) as origin,
            start_cold_gateway(folder, origin.url, workers=WORKERS) as gateway,
        ):
            return [_row(way, gateway, origin, size_bytes) for way in ("cold", "hot")]


def _row(way: str, gateway: GatewayProcess, origin: Origin, size_bytes: int) -> Row:
    before = read_counts(origin).sent_bytes
    peaks: dict[int, int] = {}
    done = threading.Event()
    sampler = threading.Thread(target=_sample, args=(gateway.worker_pids(), peaks, done))
    sampler.start()
    try:
        with ThreadPoolExecutor(READERS) as readers:
            found = list(readers.map(lambda _: read_stream(gateway.url, "/bench/object"), range(READERS)))
    finally:
        done.set()
        sampler.join()
    assert all(read.received_bytes == size_bytes for read in found)
    seconds = max(read.seconds for read in found)
    sent = read_counts(origin).sent_bytes
    resident_mib = max(_status_kib(pid, "VmHWM") for pid in peaks) >> 10
    return {
        "read": way,
        "readers": READERS,
        "object MiB": size_bytes >> 20,
        "seconds": round(seconds, 1),
        "GB/s to clients": READERS * size_bytes / seconds / 1e9,
        "own memory MiB, largest worker": max(peaks.values()) >> 10,
        "resident peak MiB, largest worker": resident_mib,
        f"at most {TARGET_MIB}": "yes" if resident_mib <= TARGET_MIB else "no",
        "origin copies": f"{(sent - before) / size_bytes:.4f}",
    }


def _sample(pids: list[int], peaks: dict[int, int], done: threading.Event) -> None:
    while not done.wait(0.05):
        for pid in pids:
            peaks[pid] = max(peaks.get(pid, 0), _status_kib(pid, "RssAnon"))


def _status_kib(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
