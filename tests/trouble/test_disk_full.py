"""A disk that fills up in mid-read: the client still gets its whole object, and the gateway says so."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways import clean_environment, start_gateway
from tests.trouble.slow_origin import CONFIG, make_objects, read_whole
from tests.waiting import wait_until

DISK_BYTES = 80 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, mounted at the cache's folder."""
    folder = tmp_path / "cache"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "warmstart-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_size_beyond_its_file_system_is_refused_at_the_start_and_by_config_check(
    tmp_path: Path, small_disk: Path
) -> None:
    (tmp_path / "root").mkdir()
    expected = r"cache\.disks\[0\]\.size: 10\.0GiB can't be kept, the file system of .* has 80MiB; write 72MiB or less"
    with pytest.raises(RuntimeError, match=expected):
        start_gateway(tmp_path, origin=f"file://{tmp_path / 'root'}", cache_size="10GiB")
    check = [sys.executable, "-m", "proxy", "config", "check", str(tmp_path / "gateway.yaml")]
    done = subprocess.run(check, capture_output=True, text=True, env=clean_environment(), check=False)
    assert done.returncode == 2
    assert re.search(expected, done.stderr)


def fill_up(path: Path) -> None:
    """Take all the room that the file system has left."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while file.write(bytes(1 << 20)):
            pass


def test_a_full_disk_in_mid_read_costs_the_client_nothing(tmp_path: Path, small_disk: Path) -> None:
    objects = make_objects(tmp_path / "root", 6, 24 << 20)
    origin = f"file://{tmp_path / 'root'}"
    with start_gateway(tmp_path, origin=origin, workers=2, config=CONFIG, cache_size="80MiB") as gateway:
        for key, content in objects.items():
            assert read_whole(gateway, key).content == content, key
        assert gateway.metric("warmstart_evicted_segments_total", reason="space") > 0

        def all_taken() -> bool:
            fill_up(small_disk / "of somebody else")
            return not list(small_disk.glob("v1/objects/*/*.data"))

        wait_until(all_taken, "the cache does not give way")
        for key, content in objects.items():
            assert read_whole(gateway, key).content == content, key
        assert gateway.metric("warmstart_uncached_reads_total") > 0
        assert gateway.metric("warmstart_worker_restarts_total") == 0
        assert "reading past the cache" in gateway.logs()


def test_a_cache_smaller_than_its_objects_evicts_and_goes_on_caching(tmp_path: Path) -> None:
    """More objects than the cache's size holds: old ones leave, every byte is right, the size is kept."""
    objects = make_objects(tmp_path / "root", 12, 16 << 20)
    origin = f"file://{tmp_path / 'root'}"
    with start_gateway(tmp_path, origin=origin, workers=2, config=CONFIG, cache_size="100MiB") as gateway:
        for _ in range(2):
            for key, content in objects.items():
                assert read_whole(gateway, key).content == content, key
        allocated = sum(path.stat().st_blocks * 512 for path in gateway.cache.rglob("*") if path.is_file())
        assert allocated <= 110 << 20
