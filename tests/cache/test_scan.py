"""What a scan counts, lists and clears away."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.cache import mapfile
from proxy.cache.recordsweep import RecordSweep
from proxy.cache.scan import DiskScan, entry_path
from proxy.cache.store import Store
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion
from tests.cache.nodes import (
    BLOCK_BYTES,
    KIB,
    SEGMENT_BYTES,
    Node,
    allocated_on,
    clear_leaving,
    files,
    fill,
    fill_all,
    make_version,
    scan_disk,
)

HOUR_S, DAY_S = 3600.0, 86400.0
ONE_BLOCK = BLOCK_BYTES - 100


def scan(node: Node, store: Store, *, later_s: float = 0.0) -> DiskScan:
    """A whole scan of the first disk, as of so many seconds from now."""
    return scan_disk(store, node.tables, later_s=later_s)


def allocated(path: Path) -> int:
    """What `du` says, but for the layout and its folder."""
    return allocated_on(path) - sum(part.stat().st_blocks * 512 for part in (path, path / "layout"))


def install(node: Node, store: Store, version: ObjectVersion) -> Path:
    """A record of the version; returns its file."""
    key = ObjectKey(version.origin, version.bucket, version.key)
    record = ObjectRecord(version, '"1"', 1.0, (), 2.0)
    assert store.keys.install(key, record, node.tables.tokens.peek(key))
    name = key.digest.hex()
    return node.paths[0] / "v1" / "keys" / name[:2] / name[2:]


def age(path: Path, seconds: float) -> None:
    then_s = time.time() - seconds
    os.utime(path, (then_s, then_s))


def test_an_empty_disk_is_known_to_be_empty(node: Node) -> None:
    store = node.store()
    assert store.disks[0].used_bytes is None
    assert scan(node, store).segments == []
    assert store.disks[0].used_bytes == 0


def test_allocated_bytes_are_counted_and_not_the_lengths_of_sparse_files(node: Node) -> None:
    store, version = node.store(), make_version(size=4 * BLOCK_BYTES)
    fill(store, version, 3)
    install(node, store, version)
    assert files(node, ".data")[0].stat().st_size == 4 * BLOCK_BYTES
    scan(node, store)
    assert store.disks[0].used_bytes == allocated(node.paths[0] / "v1")
    assert store.disks[0].used_bytes < BLOCK_BYTES + 64 * KIB


def test_segments_are_listed_by_age(node: Node) -> None:
    store = node.store()
    versions = [make_version(f"model {number}", ONE_BLOCK) for number in range(20)]
    for version in versions:
        fill(store, version, 0)
    objects = store.disks[0].objects
    found = [entry_path(objects, entry) for entry in scan(node, store).segments]
    assert found == [mapfile.map_path(objects, version.digest, 0) for version in versions]


def test_a_scan_after_a_restart_finds_the_same_order(node: Node) -> None:
    store = node.store()
    for number in range(10):
        fill(store, make_version(f"model {number}", ONE_BLOCK), 0)
    before = scan(node, store).segments
    node.restart()
    assert scan(node, node.store()).segments == before


def test_what_others_allocate_and_free_during_a_scan_is_counted_wherever_it_has_come(node: Node) -> None:
    store, other = node.store(), node.store()
    versions = [make_version(f"model {number}", 3 * BLOCK_BYTES) for number in range(40)]
    for version in versions[:20]:
        fill(store, version, 0)
    sweep = RecordSweep(store.disks[0], store.disks, node.tables, SEGMENT_BYTES)
    for number, _ in enumerate(DiskScan(store.disks[0], sweep, node.tables).steps()):
        if number % 20 == 10 and number // 20 < 20:
            fill(other, versions[20 + number // 20], 1)
            fill(other, versions[number // 20], 2)
            install(node, other, versions[number // 20])
            other.discard(versions[number // 20 // 2])
        if number % 100 == 50:
            store.tick()
            other.tick()
            clear_leaving(store)
    assert store.disks[0].used_bytes == pytest.approx(allocated(node.paths[0] / "v1"), abs=16 * KIB), "but for folders"


def test_what_is_allocated_after_a_scan_is_added(node: Node) -> None:
    store = node.store()
    scan(node, store)
    fill(store, make_version(size=BLOCK_BYTES), 0)
    used = store.disks[0].used_bytes
    assert used is not None
    assert used >= BLOCK_BYTES
    scan(node, store)
    assert store.disks[0].used_bytes == allocated(node.paths[0] / "v1")


def cut_the_map(path: Path) -> None:
    os.truncate(path, 100)


def garble_the_map(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def misplace_the_map(path: Path) -> None:
    path.rename(path.with_name("0" * 62 + ".0.map"))


def lose_the_data(path: Path) -> None:
    facts = mapfile.read_map(path)
    assert facts is not None
    facts.data_path.unlink()


def leave_it_retired(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8)
        file.write(b"\x01")


@pytest.mark.parametrize("harm", [cut_the_map, garble_the_map, misplace_the_map, lose_the_data, leave_it_retired])
def test_a_segment_that_nobody_could_use_is_given_up(node: Node, harm: Callable[[Path], None]) -> None:
    store, sound = node.store(), make_version("sound")
    fill(store, make_version("harmed"), 0)
    harm(files(node, ".map")[0])
    fill(store, sound, 0)
    found = scan(node, store)
    assert [entry_path(store.disks[0].objects, entry) for entry in found.segments] == files(node, ".map")
    assert len(files(node, ".map")) == 1
    scan(node, store, later_s=2 * HOUR_S)
    assert len(files(node, ".data")) == 1, "its data goes with it, or an hour later"
    clear_leaving(store)
    assert store.disks[0].used_bytes == allocated(node.paths[0] / "v1")


def test_strays_go_after_an_hour_and_the_files_of_segments_stay(node: Node) -> None:
    store = node.store()
    fill_all(store, make_version())
    sound = {*files(node, ".map"), *files(node, ".data")}
    facts = mapfile.read_map(files(node, ".map")[0])
    assert facts is not None
    stem, folder = facts.path.stem, facts.path.parent
    stray = folder / f"{stem}.{'ab' * 16}.data"
    unfinished = folder / f"{stem}.{facts.header.nonce.hex()}.tmp"
    lonely = folder / f"{'0' * 62}.0.{'cd' * 16}.data"
    foreign = folder / "notes.txt"
    for path in (stray, unfinished, lonely, foreign):
        path.write_bytes(b"x" * 5000)
    scan(node, store)
    assert stray.exists()
    scan(node, store, later_s=HOUR_S + 60)
    assert {path.exists() for path in (stray, unfinished, lonely)} == {False}
    assert foreign.exists(), "not ours"
    assert {*files(node, ".map"), *files(node, ".data")} == sound
    assert store.disks[0].used_bytes == allocated(node.paths[0] / "v1")


def test_unfinished_records_go_after_an_hour(node: Node) -> None:
    store = node.store()
    record = install(node, store, make_version())
    temp = record.parents[1] / "temp" / "0123456789abcdef"
    temp.write_bytes(b"half a rec")
    scan(node, store)
    assert temp.exists()
    scan(node, store, later_s=HOUR_S + 60)
    assert not temp.exists()
    assert record.exists()


def test_an_old_record_goes_unless_some_of_its_object_is_here(node: Node) -> None:
    store = node.store()
    kept_version, lost_version = make_version("kept"), make_version("lost")
    fill(store, kept_version, 9)  # in its third segment
    kept, lost, fresh = (install(node, store, version) for version in (kept_version, lost_version, make_version("new")))
    for path in (kept, lost):
        age(path, 31 * DAY_S)
    scan(node, store)
    assert (kept.exists(), lost.exists(), fresh.exists()) == (True, False, True)


def test_a_tombstone_stays_for_30_days(node: Node) -> None:
    store = node.store()
    version = make_version()
    key = ObjectKey(version.origin, version.bucket, version.key)
    store.keys.fence(key)
    path = node.paths[0] / "v1" / "keys" / key.digest.hex()[:2] / key.digest.hex()[2:]
    age(path, 29 * DAY_S)
    scan(node, store)
    assert store.keys.fenced(key)
    age(path, 31 * DAY_S)
    scan(node, store)
    assert not path.exists()


def test_other_files_among_the_records_are_left_alone(node: Node) -> None:
    store = node.store()
    folder = install(node, store, make_version()).parent
    (folder / "notes.txt").write_text("mine")
    (folder / ("f" * 62)).mkdir()
    for path in folder.iterdir():
        age(path, 400 * DAY_S)
    scan(node, store)
    assert (folder / "notes.txt").exists()
    assert (folder / ("f" * 62)).exists()


def test_folders_in_the_place_of_files_stop_no_scan(node: Node) -> None:
    store = node.store()
    fill(store, make_version(), 0)
    folder = files(node, ".map")[0].parent
    (folder / f"{'0' * 62}.0.map").mkdir()
    (folder / f"{'0' * 62}.0.{'cd' * 16}.data").mkdir()
    (store.disks[0].objects / "ff").write_text("a file")
    assert len(scan(node, store, later_s=2 * HOUR_S).segments) == 1
    assert store.disks[0].used_bytes is not None


@pytest.mark.parametrize(("number", "stops"), [(errno.EIO, True), (errno.EACCES, False)])
def test_an_io_error_stops_the_scan_and_a_forbidden_file_does_not(
    node: Node, monkeypatch: pytest.MonkeyPatch, number: int, stops: bool
) -> None:
    store = node.store()
    fill(store, make_version(), 0)

    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(mapfile, "read_map", fail)
    if stops:
        with pytest.raises(OSError, match=os.strerror(number)):
            scan(node, store, later_s=2 * HOUR_S)
        assert store.disks[0].used_bytes is None
    else:
        assert scan(node, store, later_s=2 * HOUR_S).segments == []
        assert store.disks[0].used_bytes == allocated(node.paths[0] / "v1")
    monkeypatch.undo()
    assert (len(files(node, ".map")), len(files(node, ".data"))) == (1, 1), "nothing was given up"
