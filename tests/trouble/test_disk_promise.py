"""What is on disk stays within the cache's size, whatever is read and by whom, and the cache goes on caching."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cache.nodes import allocated_on
from tests.gateways import GatewayProcess, send_signal, start_gateway
from tests.trouble.slow_origin import BUCKET, make_objects
from tests.waiting import wait_until

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
PROMISE = 1.01  # of the size


class Client:
    """Reads from several threads at once, and looks at the disk between the reads."""

    def __init__(self, gateway: GatewayProcess, *, threads: int = 4) -> None:
        self.gateway = gateway
        self.most_bytes = 0
        self._threads = threads

    def each(self, keys: Iterable[str], read: Callable[[httpx.Client, str], None], *, look_each: int = 50) -> None:
        with (
            httpx.Client(base_url=f"{self.gateway.url}/{BUCKET}", trust_env=False, timeout=60) as client,
            ThreadPoolExecutor(self._threads) as pool,
        ):
            for number, _ in enumerate(pool.map(lambda key: read(client, key), keys)):
                if number % look_each == 0:
                    self.look()
        self.look()

    def look(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # evicted in this moment
            self.most_bytes = max(self.most_bytes, allocated_on(self.gateway.cache / "v1"))


def head(client: httpx.Client, key: str) -> None:
    assert client.head(f"/{key}").status_code == 200


def read(client: httpx.Client, key: str) -> None:
    assert client.get(f"/{key}").status_code == 200


def gateway_over(tmp_path: Path, size_bytes: int = SIZE_BYTES, **config: object) -> GatewayProcess:
    """Two workers over the files in `root`. Fills wait for eviction however slow a loaded machine makes it."""
    origin = f"file://{tmp_path / 'root'}"
    config = {"limits": {"room_wait": "10s"}, **config}
    cache_size = f"{size_bytes // MIB}MiB"
    return start_gateway(tmp_path, origin=origin, workers=2, cache_size=cache_size, config=config)


def assert_counted(gateway: GatewayProcess) -> None:
    """What the gateway says is on disk is what lies there."""

    def differs_by() -> float:
        return abs(allocated_on(gateway.cache / "v1") - gateway.metric("warmstart_disk_used_bytes"))

    wait_until(lambda: differs_by() <= MIB / 4, "the account differs from the disk")


def make_small(root: Path, count: int, size_bytes: int) -> list[str]:
    (root / BUCKET).mkdir(parents=True, exist_ok=True)
    names = [f"small-{number:05d}" for number in range(count)]
    for number, name in enumerate(names):
        (root / BUCKET / name).write_bytes(number.to_bytes(4, "big") * (size_bytes // 4))
    return names


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.long)])
def test_small_reads_of_a_large_object_stay_within_the_size(tmp_path: Path, count: int) -> None:
    """What readers of headers and lazy loaders do: 4 KiB at a stride of a block."""
    (tmp_path / "root" / BUCKET).mkdir(parents=True)
    with (tmp_path / "root" / BUCKET / "model").open("wb") as file:
        file.truncate(count * 8 * MIB)

    def read_at(client: httpx.Client, offset: str) -> None:
        first = int(offset)
        answer = client.get("/model", headers={"Range": f"bytes={first}-{first + 4095}"})
        assert (answer.status_code, len(answer.content)) == (206, 4096)

    with gateway_over(tmp_path) as gateway:
        client = Client(gateway)
        client.each([str(number * 8 * MIB) for number in range(count)], read_at, look_each=5)
        # The rest of a block comes in the background: the promise leaves out the fill under way.
        assert client.most_bytes <= PROMISE * SIZE_BYTES + 8 * MIB
        used = gateway.metric("warmstart_disk_used_bytes")
        assert client.most_bytes <= PROMISE * SIZE_BYTES
        assert used <= PROMISE * SIZE_BYTES


@pytest.mark.parametrize("count", [1200, pytest.param(6000, marks=pytest.mark.long)])
@pytest.mark.parametrize("ask", [head, read])
def test_many_small_objects_beside_large_ones_stay_within_the_size(
    tmp_path: Path, count: int, ask: Callable[[httpx.Client, str], None]
) -> None:
    large = make_objects(tmp_path / "root", 7, 8 * MIB)
    small = make_small(tmp_path / "root", count, 1024)
    with gateway_over(tmp_path) as gateway:
        client = Client(gateway)
        client.each(large, read)
        client.each(small, ask, look_each=200)
        client.each(large, read)
        assert client.most_bytes <= PROMISE * SIZE_BYTES
        wait_until(
            lambda: gateway.metric("warmstart_disk_used_bytes") <= 0.95 * SIZE_BYTES, "it stays above its watermark"
        )
        assert_counted(gateway)


@pytest.mark.parametrize(
    ("size_bytes", "high"),
    [(64 * MIB, "95%"), (128 * MIB, "95%"), pytest.param(512 * MIB, "99%", marks=pytest.mark.long)],
)
def test_a_full_cache_goes_on_caching(tmp_path: Path, size_bytes: int, high: str) -> None:
    objects = make_objects(tmp_path / "root", size_bytes // (8 * MIB) + 6, 8 * MIB)
    with gateway_over(tmp_path, size_bytes, cache={"high_watermark": high}) as gateway:
        client = Client(gateway, threads=1)
        client.each(objects, read, look_each=1)
        for key in list(objects)[-3:]:
            answer = httpx.get(f"{gateway.url}/{BUCKET}/{key}", trust_env=False, timeout=60)
            assert answer.headers["x-cache"] == "HIT", key
            assert answer.content == objects[key]
        assert gateway.metric("warmstart_evicted_segments_total", reason="space") > 0
        assert gateway.metric("warmstart_uncached_reads_total") == 0
        assert client.most_bytes <= PROMISE * size_bytes


@pytest.mark.parametrize("readers", [2, pytest.param(3, marks=pytest.mark.long)])
def test_cold_reads_at_capacity_go_into_the_cache(tmp_path: Path, readers: int) -> None:
    """Eviction keeps ahead of readers who are only as fast as this machine's files."""
    size_bytes = 256 * MIB * (readers - 1)
    objects = make_objects(tmp_path / "root", 4 * readers, size_bytes // 4)
    with gateway_over(tmp_path, size_bytes) as gateway:
        client = Client(gateway, threads=readers)
        client.each(objects, read, look_each=1)
        blocks = sum(len(content) for content in objects.values()) // (8 * MIB)
        assert gateway.metric("warmstart_uncached_reads_total") <= blocks / 50
        assert client.most_bytes <= PROMISE * size_bytes + 4 * 8 * MIB


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 200 MiB with 1,500 inodes at the cache's folder."""
    image, folder = tmp_path / "image", tmp_path / "cache"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(200 * MIB)
    try:
        made = subprocess.run(["mkfs.ext4", "-q", "-N", "1500", str(image)], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("mkfs.ext4 is missing")
    mount = ["mount", "-o", "loop", str(image), str(folder)]
    if made.returncode != 0 or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system from a file is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_runs_out_of_inodes_evicts_and_goes_on_caching(tmp_path: Path, few_inodes: Path) -> None:
    small = make_small(tmp_path / "root", 700, 1024)
    with gateway_over(tmp_path, 150 * MIB) as gateway:
        client = Client(gateway)
        client.each(small, read, look_each=1000)
        assert gateway.metric("warmstart_evicted_segments_total", reason="space") > 0
        assert gateway.metric("warmstart_uncached_reads_total") <= 20
        for key in small[-5:]:
            answer = httpx.get(f"{gateway.url}/{BUCKET}/{key}", trust_env=False, timeout=60)
            assert answer.headers["x-cache"] == "HIT", key
    assert os.statvfs(few_inodes).f_favail > 0


@contextlib.contextmanager
def stalled(gateway: GatewayProcess, keys: Iterable[str]) -> Iterator[None]:
    """Clients that ask for objects and take nothing but the first bytes."""
    address = urlsplit(gateway.url)
    with contextlib.ExitStack() as clients:
        for key in keys:
            client = clients.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((address.hostname, address.port))
            client.sendall(f"GET /{BUCKET}/{key} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        yield


@pytest.mark.parametrize("worker_dies", [False, True])
def test_evicted_files_that_are_still_being_sent_count(tmp_path: Path, worker_dies: bool) -> None:
    objects = make_objects(tmp_path / "root", 20, 8 * MIB)
    held, others = list(objects)[:3], list(objects)[3:]

    def leaving() -> float:
        return gateway.metric("warmstart_disk_leaving_bytes")

    with gateway_over(tmp_path) as gateway:
        client = Client(gateway)
        client.each(held, read)
        with stalled(gateway, held):
            for _ in range(10):  # what is used but once goes first
                client.each(others, read, look_each=1)
                if leaving() >= 8 * MIB:
                    break
            assert leaving() >= 8 * MIB, "the stalled clients keep what was evicted"
            assert client.most_bytes <= PROMISE * SIZE_BYTES
            if worker_dies:
                for pid in gateway.worker_pids():
                    send_signal(pid, signal.SIGKILL)
                wait_until(lambda: len(gateway.worker_pids()) == 2, "the workers do not come back")
                wait_until(lambda: gateway.metric("warmstart_disk_leaving_bytes") == 0, "what the dead held stays")
        wait_until(lambda: leaving() == 0, "what nobody is sent stays")
        assert_counted(gateway)
