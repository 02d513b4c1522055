"""Key records give way: with their object, or the oldest when they crowd a full disk."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from proxy.cache import mapfile
from proxy.cache.recordsweep import RecordSweep
from proxy.cache.retention import Evictor
from proxy.cache.space import Space
from proxy.cache.store import Store
from proxy.errors import StoreFull
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion
from tests.cache.nodes import BLOCK_BYTES, KIB, SEGMENT_BYTES, Node, fill, make_version, scan_disk

MIB = 1 << 20


def install(node: Node, store: Store, version: ObjectVersion) -> Path | None:
    """The record's file; None where there was no room."""
    key = ObjectKey(version.origin, version.bucket, version.key)
    record = ObjectRecord(version, '"1"', 1.0, (), 2.0)
    if not store.keys.install(key, record, node.tables.tokens.peek(key)):
        return None
    name = key.digest.hex()
    return node.paths[0] / "v1" / "keys" / name[:2] / name[2:]


def age(path: Path | None, seconds: float) -> None:
    assert path is not None
    then_s = time.time() - seconds
    os.utime(path, (then_s, then_s))


def evictor(node: Node, store: Store, now_s: list[float]) -> Evictor:
    sweep = RecordSweep(store.disks[0], store.disks, node.tables, SEGMENT_BYTES, clock=lambda: now_s[0])
    return Evictor(store.disks[0], high_watermark=0.9, low_watermark=0.8, records=sweep, clock=lambda: now_s[0])


def evict(node: Node, store: Store, house: Evictor, now_s: list[float]) -> None:
    while house.step() or house.wants_scan:
        if house.wants_scan:
            house.renew(scan_disk(store, node.tables).segments)
    store.tick()
    now_s[0] += 1
    house.leaving.clear()


def test_records_count_at_once_and_a_full_disk_takes_no_more(node: Node) -> None:
    store = node.store(size_bytes=100 * 4 * KIB)
    scan_disk(store, node.tables)
    installed = [install(node, store, make_version(f"model {number}")) for number in range(120)]
    assert 90 <= sum(path is not None for path in installed) <= 100
    assert (store.disks[0].used_bytes or 0) <= 100 * 4 * KIB
    assert store.disks[0].records_bytes == 4 * KIB * sum(path is not None for path in installed)


def test_records_of_no_object_here_go_first_the_oldest_before_the_others(node: Node) -> None:
    store, now_s = node.store(size_bytes=8 * MIB), [100.0]
    objects = [make_version(f"model {number}", BLOCK_BYTES) for number in range(16)]
    for version in objects:
        fill(store, version, 0)
    kept = [install(node, store, version) for version in objects]
    loose = [install(node, store, make_version(f"asked for {number}")) for number in range(600)]
    for number, path in enumerate(loose):
        age(path, 10_000 - number)
    house = evictor(node, store, now_s)
    house.renew(scan_disk(store, node.tables).segments)
    evict(node, store, house, now_s)
    assert all(path is not None and path.exists() for path in kept), "theirs are here"
    assert all(mapfile.map_path(store.disks[0].objects, version.digest, 0).exists() for version in objects)
    left = [path is not None and path.exists() for path in loose]
    assert sum(left[:300]) < sum(left[300:]), "the oldest of each folder"
    assert (store.disks[0].used_bytes or 0) <= 0.9 * 8 * MIB


def test_the_record_of_an_object_goes_with_its_only_segment(node: Node) -> None:
    store, now_s = node.store(size_bytes=20 * (BLOCK_BYTES + 12 * KIB)), [100.0]
    versions = [make_version(f"model {number}", BLOCK_BYTES) for number in range(19)]
    records = []
    for version in versions:
        fill(store, version, 0)
        facts = mapfile.read_map(mapfile.map_path(store.disks[0].objects, version.digest, 0))
        assert facts is not None
        mapfile.clear_visited(facts)
        records.append(install(node, store, version))
    house = evictor(node, store, now_s)
    house.renew(scan_disk(store, node.tables).segments)
    evict(node, store, house, now_s)
    here = [mapfile.map_path(store.disks[0].objects, version.digest, 0).exists() for version in versions]
    assert 10 <= sum(here) < 19
    assert [path is not None and path.exists() for path in records] == here


def test_records_that_all_have_their_object_are_left_alone_and_looked_at_once_a_minute(node: Node) -> None:
    store, now_s = node.store(size_bytes=MIB), [100.0]
    versions = [make_version(f"model {number}", 100) for number in range(30)]
    for version in versions:
        fill(store, version, 0)
    records = [install(node, store, version) for version in versions]
    sweep = RecordSweep(store.disks[0], store.disks, node.tables, SEGMENT_BYTES, clock=lambda: now_s[0])
    assert sweep.is_due()
    for _ in range(256):
        sweep.step()
    assert all(path is not None and path.exists() for path in records)
    assert not sweep.is_due()
    now_s[0] += 61
    assert sweep.is_due()


def test_few_inodes_refuse_new_files_and_start_eviction_before_they_do(node: Node) -> None:
    store, now_s = node.store(), [100.0]
    disk = store.disks[0]
    for number in range(6):
        fill(store, make_version(f"model {number}", 100), 0)
    house = evictor(node, store, now_s)
    house.renew(scan_disk(store, node.tables).segments)
    space = Space(1 << 40, 1 << 39, 100_000, 2_100)
    disk.space = lambda _: space
    assert house.excess_bytes() == 0
    space = Space(1 << 40, 1 << 39, 100_000, 1_990)
    assert house.excess_bytes() > 0, "two reserves"
    fill(store, make_version("there is room", 100), 0)
    space = Space(1 << 40, 1 << 39, 100_000, 1_025)
    with pytest.raises(StoreFull, match="1025 inodes left"):
        fill(store, make_version("no room", 100), 0)
    assert install(node, store, make_version("no room")) is not None, "one file"
    space = Space(1 << 40, 1 << 39, 100_000, 3_100)
    assert house.excess_bytes() == 0


def test_a_file_system_that_refuses_to_allocate_is_relieved_whatever_its_figures_say(node: Node) -> None:
    store, now_s = node.store(size_bytes=100 * MIB), [100.0]
    for number in range(12):
        fill(store, make_version(f"model {number}", BLOCK_BYTES), 0)
    house = evictor(node, store, now_s)
    house.renew(scan_disk(store, node.tables).segments)
    assert house.excess_bytes() == 0
    store.disks[0].trouble(OSError(28, "No space left on device"))
    before = store.disks[0].used_bytes or 0
    evict(node, store, house, now_s)
    freed = before - (store.disks[0].used_bytes or 0)
    assert MIB <= freed <= 2 * MIB, "a hundredth of the size"
