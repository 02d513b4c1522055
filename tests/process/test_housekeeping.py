"""The housekeeping process of a running gateway: it makes room, and is replaced when it dies."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import httpx
import pytest

from tests.gateways import GatewayProcess, start_gateway
from tests.waiting import wait_until

MIB = 1 << 20
OBJECT_BYTES = 3 * MIB
OBJECT_COUNT = 40  # about twice what the cache holds


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shelf")
    (root / "models").mkdir()
    for number in range(OBJECT_COUNT):
        (root / "models" / f"shard-{number}").write_bytes(random.Random(number).randbytes(OBJECT_BYTES))
    return root


def start(tmp_path: Path, shelf: Path) -> GatewayProcess:
    config = {"cache": {"block_size": "1MiB"}}
    return start_gateway(tmp_path, origin=f"file://{shelf}", cache_size="64MiB", config=config)


def read(gateway: GatewayProcess, shelf: Path, number: int) -> str:
    """Reads a shard, compares every byte, and returns X-Cache."""
    answer = httpx.get(f"{gateway.url}/models/shard-{number}", trust_env=False, timeout=60)
    assert answer.status_code == 200
    assert answer.content == (shelf / "models" / f"shard-{number}").read_bytes()
    return answer.headers["x-cache"]


def allocated_bytes(gateway: GatewayProcess) -> int:
    total = 0
    for folder, _, names in os.walk(gateway.cache / "v1" / "objects"):
        for name in names:
            try:
                total += (Path(folder) / name).stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return total


def test_a_cache_that_is_read_past_its_size_stays_within_it(tmp_path: Path, shelf: Path) -> None:
    with start(tmp_path, shelf) as gateway:
        for number in range(OBJECT_COUNT):
            read(gateway, shelf, number)
            assert allocated_bytes(gateway) <= 64 * MIB
        wait_until(lambda: allocated_bytes(gateway) <= 0.95 * 64 * MIB, "nobody makes room")
        assert gateway.metric("warmstart_evicted_segments_total", reason="space") > 0
        assert gateway.metric("warmstart_disk_used_bytes") <= 64 * MIB
        read(gateway, shelf, OBJECT_COUNT - 1)
        wait_until(lambda: read(gateway, shelf, OBJECT_COUNT - 1) == "HIT", "nothing new is kept")


def test_a_killed_housekeeper_is_replaced_and_its_successor_makes_room(tmp_path: Path, shelf: Path) -> None:
    with start(tmp_path, shelf) as gateway:
        for number in range(15):
            read(gateway, shelf, number)
        victim = gateway.housekeeper_pid()
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: gateway.housekeeper_pid() not in (None, victim), "no new housekeeper")
        for number in range(15, OBJECT_COUNT):
            read(gateway, shelf, number)
        wait_until(lambda: allocated_bytes(gateway) <= 0.95 * 64 * MIB, "nobody makes room")
        wait_until(lambda: gateway.metric("warmstart_evicted_segments_total", reason="space") > 0, "nothing counted")
