"""Sizes that can't work are refused where they are read, with the smallest or largest one that can."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cache.capacity import DiskClaim, check_capacity
from proxy.cache.estimate import read_estimate, write_estimate
from proxy.cache.layout import make_private
from proxy.config.watermarks import smallest_size, watermarks
from proxy.errors import ConfigInvalid
from tests.cache.nodes import KIB, Node, fill, make_version

MIB, GIB = 1 << 20, 1 << 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 100 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk is not permitted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_size_beyond_the_file_system_is_refused_with_both_numbers_and_the_fix(small_disk: Path) -> None:
    claims = [DiskClaim("cache.disks[0]", small_disk / "not" / "made yet", 10 * GIB)]
    with pytest.raises(ConfigInvalid) as refusal:
        check_capacity(claims, 8 * MIB)
    assert str(refusal.value) == (
        f"cache.disks[0].size: 10.0GiB can't be kept, the file system of {claims[0].path} has 100MiB;"
        " write 90MiB or less, or name a larger disk"
    )
    assert not (small_disk / "not").exists()
    assert check_capacity([DiskClaim("cache.disks[0]", small_disk, 90 * MIB)], 8 * MIB) == []


def test_directories_of_one_file_system_count_together(small_disk: Path, tmp_path: Path) -> None:
    names = ("one", "two")
    claims = [DiskClaim(f"cache.disks[{n}]", small_disk / name, 60 * MIB) for n, name in enumerate(names)]
    with pytest.raises(
        ConfigInvalid, match=r"disks\[0\]\.size and cache\.disks\[1\]\.size: 120MiB .* write 45MiB .* each"
    ):
        check_capacity(claims, 8 * MIB)
    apart = [claims[0], DiskClaim("cache.disks[1]", tmp_path, 60 * MIB)]
    assert check_capacity(apart, 8 * MIB) == []


def test_a_file_system_too_small_for_the_blocks_is_refused(small_disk: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"10MiB stay free: too little for blocks of 32MiB, which need 160MiB"):
        check_capacity([DiskClaim("cache.disks[0]", small_disk, 64 * MIB)], 32 * MIB)


def test_other_files_are_told_of_and_refuse_no_start_and_the_caches_own_do_not_count(small_disk: Path) -> None:
    claims = [DiskClaim("cache.disks[0]", small_disk, 80 * MIB)]
    other = small_disk / "other"
    other.write_bytes(bytes(40 * MIB))
    (warning,) = check_capacity(claims, 8 * MIB)
    assert "other files leave the cache 50MiB" in warning
    (small_disk / "v1" / "objects").mkdir(parents=True)
    other.rename(small_disk / "v1" / "objects" / "data")
    (small_disk / "v1" / "used").write_text(f"{40 * MIB}\n")
    assert check_capacity(claims, 8 * MIB) == []


@pytest.mark.parametrize("block_bytes", [64 * KIB, MIB, 8 * MIB, 16 * MIB])
@pytest.mark.parametrize(("high", "low"), [(0.95, 0.9), (0.99, 0.98), (0.5, 0.1), (1.0, 0.01)])
def test_between_refusing_and_evicting_there_is_room_for_a_block(block_bytes: int, high: float, low: float) -> None:
    """A fill is refused at size - block: some block below that, eviction has begun, and it leaves two."""
    size_bytes = smallest_size(block_bytes, high, low)
    for times in (1, 3, 100):
        marks = watermarks(times * size_bytes, high, low, 2 * block_bytes)
        assert marks.high_bytes <= times * size_bytes - 2 * block_bytes
        assert (
            2 * block_bytes <= marks.low_bytes <= marks.high_bytes - block_bytes or marks.low_bytes < marks.high_bytes
        )
        assert marks.low_bytes >= 2 * block_bytes


def test_until_a_scan_has_ended_a_run_believes_what_the_last_one_wrote_down(node: Node) -> None:
    store = node.store()
    write_estimate(store.disks[0], 5_000_000)
    fill(store, make_version(), 0)
    root = node.paths[0] / "v1"
    node.restart()
    store = node.store(size_bytes=5_000_000 + 300 * KIB)
    node.tables.usage.publish_estimate(0, read_estimate(root, 1 << 40))
    assert store.disks[0].used_bytes is None
    assert node.tables.usage.used_at_most(0) == 5_000_000
    fill(store, make_version("another", 100 * KIB), 0)
    assert node.tables.usage.used_at_most(0) > 5_100_000
    with pytest.raises(Exception, match="is full"):
        fill(store, make_version("a third", 256 * KIB), 0)


def test_a_cache_of_which_nobody_wrote_down_the_bytes_may_fill_its_file_system(tmp_path: Path) -> None:
    root = tmp_path / "v1"
    assert read_estimate(root, 1000) == 0, "nothing there yet"
    (root / "objects").mkdir(parents=True)
    assert read_estimate(root, 1000) == 1000
    (root / "used").write_text("garbage")
    assert read_estimate(root, 1000) == 1000
    (root / "used").write_text("77\n")
    assert read_estimate(root, 1000) == 77


def test_folders_are_made_private_at_every_level(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b" / "c")
        make_private(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(old)
    assert [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "a").rglob("*"))] == [0o700, 0o700]
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
