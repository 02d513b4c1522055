"""Disks that are full or that fail: reads go on without the cache, other disks go on with it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cache import mapfile
from proxy.cache.blockmap import BlockKind, MapHeader
from proxy.cache.disks import Disk, DiskSpec, rank
from proxy.cache.shared import SharedTables
from proxy.cache.space import MIB, Space
from proxy.cache.store import Store
from proxy.errors import StoreUnavailable
from tests.cache.nodes import (
    BLOCK_BYTES,
    ROOMY,
    SEGMENT_BYTES,
    Node,
    block_content,
    clear_leaving,
    content,
    files,
    fill,
    fill_all,
    make_version,
    read_block,
)

VERSION = make_version(size=SEGMENT_BYTES)
DATA = memoryview(block_content(VERSION, 0))


def fail_writes(monkeypatch: pytest.MonkeyPatch, code: int, *, after: int = 0) -> None:
    """pwrite succeeds for so many calls, then fails."""
    real, calls = os.pwrite, []

    def failing(fd: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) > after:
            raise OSError(code, os.strerror(code))
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)


def test_a_full_share_refuses_new_segments_and_fills_but_not_what_is_there(node: Node) -> None:
    store = node.store(size_bytes=3 * BLOCK_BYTES)
    fill(store, VERSION, 0)
    block = store.open_block(VERSION, 1, create=True)
    assert block is not None
    node.tables.usage.publish_scan(0, 2 * BLOCK_BYTES + 1)
    with pytest.raises(StoreUnavailable, match="is full"):
        block.reserve()
    assert block.state().kind is BlockKind.ABSENT
    with pytest.raises(StoreUnavailable, match="is full"):
        store.open_block(make_version("another"), 0, create=True)
    assert len(files(node, ".map")) == 1
    present = store.open_block(VERSION, 0, create=True)
    assert present is not None
    assert read_block(store, present) == block_content(VERSION, 0)
    node.tables.usage.publish_scan(0, 2 * BLOCK_BYTES)
    assert block.reserve() is not None


def test_before_any_scan_a_run_adds_no_more_than_the_share(node: Node) -> None:
    store = node.store(size_bytes=3 * BLOCK_BYTES)
    fill(store, VERSION, 0)
    fill(store, VERSION, 1)
    assert store.disks[0].used_bytes is None
    block = store.open_block(VERSION, 2, create=True)
    assert block is not None
    with pytest.raises(StoreUnavailable, match="is full"):
        block.reserve()
    present = store.open_block(VERSION, 1, create=True)
    assert present is not None
    assert read_block(store, present) == block_content(VERSION, 1)


def test_fills_that_are_under_way_count_with_all_they_will_write(node: Node) -> None:
    store = node.store(size_bytes=2 * BLOCK_BYTES + 64 * 1024)
    node.tables.usage.publish_scan(0, 0)
    blocks = [store.open_block(VERSION, index, create=True) for index in range(3)]
    writers = [block.reserve() for block in blocks[:2] if block is not None]
    assert blocks[2] is not None
    with pytest.raises(StoreUnavailable, match="is full"):
        blocks[2].reserve()
    assert writers[0] is not None
    writers[0].abandon()
    assert blocks[2].reserve() is not None


@pytest.mark.parametrize("size", [1, 5000, BLOCK_BYTES, SEGMENT_BYTES, 2 * SEGMENT_BYTES + 5])
def test_what_is_counted_as_allocated_is_what_the_files_take(node: Node, size: int) -> None:
    store, version, usage = node.store(), make_version(size=size), node.tables.usage
    node.tables.usage.publish_scan(0, 0)
    fill_all(store, version)
    assert usage.used(0) == sum(path.stat().st_blocks * 512 for path in files(node, ""))
    store.discard(version)
    clear_leaving(store)
    assert usage.used(0) == 0


def test_a_full_disk_still_lets_a_reader_follow_the_fill_of_another_process(node: Node) -> None:
    block = node.store().open_block(VERSION, 0, create=True)
    other = node.store().open_block(VERSION, 0, create=True)
    assert block is not None
    assert other is not None
    writer = block.reserve()
    node.tables.usage.publish_scan(0, 1 << 60)
    assert other.reserve() is None, "held: to be followed, not to be read uncached"
    assert writer is not None


def test_the_file_systems_reserve_is_guarded_without_any_scan(node: Node) -> None:
    store = node.store()
    assert store.disks[0].used_bytes is None
    space = Space(100 * MIB * 100, 100 * MIB + BLOCK_BYTES)
    store.disks[0].space = lambda _: space
    block = store.open_block(VERSION, 0, create=False)
    assert block is None
    with pytest.raises(StoreUnavailable, match="bytes left"):
        store.open_block(VERSION, 0, create=True)
    assert not files(node, "")


@pytest.mark.parametrize(
    ("total", "reserve"),
    [(10 * MIB, MIB), (640 * MIB, 64 * MIB), (6400 * MIB, 64 * MIB), (20_000 * MIB, 200 * MIB), (1 << 44, 1024 * MIB)],
)
def test_the_reserve_is_one_percent_within_bounds(total: int, reserve: int) -> None:
    assert Space(total, 0).reserve_bytes == reserve


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_in_mid_fill_is_unavailable_and_leaves_the_block_absent(
    node: Node, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = node.store()
    block = store.open_block(VERSION, 0, create=True)
    assert block is not None
    writer = block.reserve()
    assert writer is not None
    with monkeypatch.context() as patch:
        fail_writes(patch, code, after=1)
        writer.write(DATA[:1000])
        with pytest.raises(StoreUnavailable, match="is full"):
            writer.write(DATA[1000:])
        assert writer.progress == 1000
        writer.abandon()
    assert block.state().kind is BlockKind.ABSENT
    assert not store.disks[0].failed
    assert read_block(store, fill(store, VERSION, 0)) == block_content(VERSION, 0)


def test_a_short_write_goes_on_where_it_stopped(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:1000], offset))
    store = node.store()
    assert read_block(store, fill(store, VERSION, 0, start=64 << 10)) == block_content(VERSION, 0)


def test_an_io_error_on_write_takes_the_disk_out_of_service_everywhere(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = node.store(), node.store()
    fill(store, VERSION, 0)
    assert other.open_block(VERSION, 0, create=False) is not None
    block = store.open_block(VERSION, 1, create=True)
    assert block is not None
    writer = block.reserve()
    assert writer is not None
    with monkeypatch.context() as patch:
        fail_writes(patch, errno.EIO)
        with pytest.raises(StoreUnavailable, match="fails"):
            writer.write(DATA)
        writer.abandon()
    for one in (store, other):
        assert not one.disks_writable()
        one.tick()
        assert one.report()["open_segments"] == 0
        assert one.peek_block(VERSION, 0) is None
        assert one.open_block(VERSION, 0, create=False) is None
        with pytest.raises(StoreUnavailable, match="out of service"):
            one.open_block(VERSION, 0, create=True)
    with pytest.raises(StoreUnavailable, match="out of service"):
        block.reserve()
    node.restart()
    assert node.store().disks_writable(), "until the next start"


def test_an_io_error_on_checking_a_block_fails_the_disk_and_serves_nothing_of_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_all(node.store(), VERSION)
    node.restart()
    store = node.store()
    block = store.open_block(VERSION, 0, create=False)
    assert block is not None

    def failing(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    assert not block.verify()
    assert store.disks[0].failed


def test_a_response_that_could_not_read_fails_the_disk_it_read_from(node: Node) -> None:
    store = node.store()
    piece = fill(store, VERSION, 0).piece(0, 1)
    store.note_read_error(piece.file, OSError(errno.EPIPE, "Broken pipe"))
    assert not store.disks[0].failed
    store.note_read_error(piece.file, OSError(errno.EIO, "Input/output error"))
    assert store.disks[0].failed


@pytest.mark.parametrize("call", ["posix_fallocate", "mkdir", "link"])
def test_no_space_for_a_map_is_unavailable_and_leaves_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = node.store()

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(StoreUnavailable, match="is full"):
        store.open_block(VERSION, 0, create=True)
    assert not files(node, "")


def test_running_out_of_locks_is_unavailable(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    block = node.store().open_block(VERSION, 0, create=True)
    assert block is not None

    def failing(*_: object) -> int:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "fcntl", failing)
    with pytest.raises(StoreUnavailable, match="No locks"):
        block.reserve()


def test_running_out_of_descriptors_fails_no_disk(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(node.store(), VERSION, 0)
    store = node.store()

    def failing(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        assert store.open_block(VERSION, 0, create=False) is None
        with pytest.raises(StoreUnavailable, match="Too many open files"):
            store.open_block(VERSION, 0, create=True)
    assert not store.disks[0].failed
    block = store.open_block(VERSION, 0, create=False)
    assert block is not None
    assert block.state().verified


def test_objects_of_a_failed_disk_are_fetched_onto_the_others(node_of_three: Node) -> None:
    store = node_of_three.store()
    versions = [make_version(f"model {number}", 100) for number in range(30)]
    for version in versions:
        fill(store, version, 0)
    lost = store.disks[1]
    lost.fail(OSError(errno.EIO, "Input/output error"))
    refilled = 0
    for version in versions:
        block = store.open_block(version, 0, create=True)
        assert block is not None
        if not block.verify():
            block = fill(store, version, 0)
            refilled += 1
        assert read_block(store, block) == content(version)
    assert refilled == len(list(lost.objects.glob("*/*.map")))
    assert 0 < refilled < 30


def test_a_disk_that_breaks_while_a_segment_is_made_gives_it_to_the_next(
    node_of_three: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = node_of_three.store()
    first, second, _ = rank(store.disks, VERSION.digest, 0)
    real = mapfile.create_files

    def breaking(objects: Path, header: MapHeader) -> int:
        if objects == first.objects:
            raise OSError(errno.EIO, "Input/output error")
        return real(objects, header)

    monkeypatch.setattr(mapfile, "create_files", breaking)
    assert read_block(store, fill(store, VERSION, 0)) == block_content(VERSION, 0)
    assert first.failed
    assert len(list(second.objects.glob("*/*.map"))) == 1


def test_ranking_moves_only_what_a_new_disk_gains(tmp_path: Path) -> None:
    tables = SharedTables.create()
    names = ["long" * 40 + str(number) for number in range(4)]
    disks = [Disk(n, DiskSpec(tmp_path, (n + 1) << 30), names[n], tmp_path, tables.usage) for n in range(4)]
    moved = 0
    for number in range(400):
        digest = make_version(str(number)).digest
        before, after = rank(disks[:3], digest, 0), rank(disks, digest, 0)
        assert [disk for disk in after if disk is not disks[3]] == before
        moved += after[0] is disks[3]
    assert 110 < moved < 210, "four tenths of the room"
    tables.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 8 MiB, where this user may mount one."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs rights")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill_until_full(store: Store, name: str, *, blocks: int) -> int:
    """Fill block after block of ever new objects; how many fitted."""
    for number in range(blocks):
        version = make_version(f"{name} {number}", BLOCK_BYTES)
        writer = None
        try:
            block = store.open_block(version, 0, create=True)
            assert block is not None
            writer = block.reserve()
            assert writer is not None
            writer.write(memoryview(content(version)))
            writer.commit()
        except StoreUnavailable:
            if writer is not None:
                writer.abandon()
            return number
    return blocks


@pytest.mark.parametrize("guarded", [True, False])
def test_a_really_full_disk_says_so_and_what_it_holds_stays_right(small_disk: Path, guarded: bool) -> None:
    node = Node(small_disk)
    store = node.store()
    store.disks[0].space = Space.of if guarded else lambda _: ROOMY
    fitted = fill_until_full(store, "model", blocks=100)
    assert 20 < fitted < 32
    assert not store.disks[0].failed
    for number in range(fitted):
        version = make_version(f"model {number}", BLOCK_BYTES)
        block = store.open_block(version, 0, create=False)
        assert block is not None
        assert read_block(store, block) == content(version)
    for path in files(node, ".map")[:10]:
        assert mapfile.retire(path, None, "space")
    store.tick()
    clear_leaving(store)
    assert fill_until_full(store, "next", blocks=100) >= 7, "freed space is used again"
    del block
    node.close()
