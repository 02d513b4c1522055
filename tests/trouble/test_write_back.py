"""A disk that could not store what it had taken: no zero is ever served in place of the bytes it lost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.gateways import GatewayProcess, start_gateway
from tests.trouble.slow_origin import CONFIG, make_objects, read_whole
from tests.trouble.thin_disk import ThinDisk, thin_disk
from tests.waiting import wait_until

OBJECT_BYTES = 6 << 20


def hears_of_it(gateway: GatewayProcess) -> bool:
    """Whether the metrics say that the disk has lost bytes, or is out of service."""
    lost, failed = gateway.metric("warmstart_write_back_failures_total"), gateway.metric("warmstart_disk_failed")
    return lost + failed > 0


def read_all(gateway: GatewayProcess, objects: Mapping[str, bytes]) -> None:
    for key, content in objects.items():
        assert read_whole(gateway, key).content == content, key


def lose_and_read_again(disk: ThinDisk, gateway: GatewayProcess, objects: Mapping[str, bytes]) -> None:
    disk.take_room()
    read_all(gateway, objects)
    wait_until(lambda: hears_of_it(gateway), "no metric tells of the bytes that were lost")
    disk.drop_pages()
    read_all(gateway, objects)
    disk.give_room()
    for _ in range(2):
        disk.drop_pages()
        read_all(gateway, objects)
    assert gateway.metric("warmstart_worker_restarts_total") == 0
    assert "has lost bytes" in gateway.logs() or "out of service" in gateway.logs()


@pytest.mark.parametrize(
    ("kind", "workers"),
    [
        ("xfs", 1),
        pytest.param("ext4", 1, marks=pytest.mark.long),
        pytest.param("btrfs", 1, marks=pytest.mark.long),
        pytest.param("xfs", 3, marks=pytest.mark.long),
        pytest.param("ext4", 3, marks=pytest.mark.long),
        pytest.param("btrfs", 3, marks=pytest.mark.long),
    ],
)
def test_bytes_that_a_disk_could_not_store_are_fetched_again(tmp_path: Path, kind: str, workers: int) -> None:
    objects = make_objects(tmp_path / "root", 3, OBJECT_BYTES)
    origin = f"file://{tmp_path / 'root'}"
    with (
        thin_disk(kind, tmp_path / "cache", tmp_path / "pool") as disk,
        start_gateway(tmp_path, origin=origin, workers=workers, config=CONFIG, cache_size="200MiB") as gateway,
    ):
        lose_and_read_again(disk, gateway, objects)
