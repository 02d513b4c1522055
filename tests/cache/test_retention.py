"""Eviction: who goes, in which order, who never goes, and that it ends."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from proxy.cache import mapfile
from proxy.cache.leaving import CLOSING_S
from proxy.cache.retention import STUCK_PAUSE_S, Evictor
from proxy.cache.space import MIB, Space
from proxy.cache.store import Store
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange
from tests.cache.nodes import BLOCK_BYTES, KIB, Node, files, fill, make_version, scan_disk

OBJECT_BYTES = BLOCK_BYTES  # one block each, and a map of a page
ROOM = 20  # objects that the disk has room for
FOLDERS_BYTES = 256 * KIB  # beside them: twice what the folders take, as eviction ends at a half


class Cache:
    """A small disk with its evictor, which a clock of its own drives."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.store: Store = node.store(size_bytes=ROOM * (OBJECT_BYTES + 4 * KIB) + FOLDERS_BYTES)
        self.disk = self.store.disks[0]
        self.disk.leaving.mkdir(exist_ok=True)
        self.now_s = 1000.0
        self.evictor = Evictor(self.disk, high_watermark=0.9, low_watermark=0.5, clock=lambda: self.now_s)

    def add(self, name: str) -> ObjectVersion:
        version = make_version(name, OBJECT_BYTES)
        fill(self.store, version, 0)
        return version

    def hit(self, version: ObjectVersion) -> None:
        assert self.store.peek(version, ByteRange(0, 1)) is not None

    def holds(self, version: ObjectVersion) -> bool:
        return self.path(version).exists()

    def path(self, version: ObjectVersion) -> Path:
        return mapfile.map_path(self.disk.objects, version.digest, 0)

    def pin(self, version: ObjectVersion) -> None:
        facts = mapfile.read_map(self.path(version))
        assert facts is not None
        mapfile.set_pinned(facts, True)

    def scan(self) -> None:
        self.evictor.renew(scan_disk(self.store, self.node.tables).segments)

    def evict(self) -> None:
        """As the housekeeper does, until there is nothing to do, or nothing can be done."""
        while self.evictor.step() or self.evictor.wants_scan:
            if self.evictor.wants_scan:
                self.scan()
        self.store.tick()
        self.now_s += 1.0
        self.evictor.leaving.clear()


@pytest.fixture
def cache(node: Node, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setattr("proxy.cache.segment.FIRST_LOAD_S", 0.0)
    return Cache(node)


def add_unused(cache: Cache, count: int, name: str = "model") -> list[ObjectVersion]:
    """Objects that were read by their fill alone."""
    versions = [cache.add(f"{name} {number}") for number in range(count)]
    for version in versions:
        facts = mapfile.read_map(cache.path(version))
        assert facts is not None
        mapfile.clear_visited(facts)
    return versions


def kept(cache: Cache, versions: list[ObjectVersion]) -> list[bool]:
    return [cache.holds(version) for version in versions]


def test_nothing_goes_below_the_high_watermark(cache: Cache) -> None:
    versions = add_unused(cache, 17)
    cache.scan()
    cache.evict()
    assert all(kept(cache, versions))
    assert cache.evictor.excess_bytes() == 0


def test_above_it_the_oldest_go_until_the_low_watermark(cache: Cache) -> None:
    versions = add_unused(cache, 19)
    cache.scan()
    assert cache.evictor.excess_bytes() > 0
    cache.evict()
    assert kept(cache, versions) == [False] * 9 + [True] * 10
    used = cache.disk.used_bytes
    assert used is not None
    assert used <= cache.disk.size_bytes // 2
    cache.scan()
    assert cache.disk.used_bytes == used, "what was counted as freed is free"


def test_the_files_of_an_evicted_segment_are_gone(cache: Cache) -> None:
    add_unused(cache, 19)
    cache.scan()
    cache.evict()
    assert len(files(cache.node, ".map")) == len(files(cache.node, ".data")) == 10


def test_an_idle_object_used_twice_outlives_those_used_once(cache: Cache) -> None:
    hot = add_unused(cache, 3, "hot")
    for version in hot:
        cache.hit(version)
    cold = add_unused(cache, 16, "cold")
    cache.scan()
    cache.evict()
    assert all(kept(cache, hot)), "the oldest of all, but used again"
    assert kept(cache, cold) == [False] * 9 + [True] * 7


def test_a_second_chance_is_one_chance(cache: Cache) -> None:
    once_hot = add_unused(cache, 3, "once hot")
    for version in once_hot:
        cache.hit(version)
    for number in range(20):
        add_unused(cache, 2, f"round {number}")
        cache.scan()
        cache.evict()
    assert not any(kept(cache, once_hot)), "never used again since the hand came by"


def test_a_scan_of_objects_read_once_does_not_flush_the_hot_ones(cache: Cache) -> None:
    hot = add_unused(cache, 5, "hot")
    for number in range(80):
        for version in hot:
            cache.hit(version)
        add_unused(cache, 1, f"scanned {number}")
        if number % 4 == 0:
            cache.scan()
        cache.evict()
    assert all(kept(cache, hot))
    used = cache.disk.used_bytes
    assert used is not None
    assert used <= cache.disk.size_bytes


def test_reads_within_the_first_load_are_no_second_use(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.cache.segment.FIRST_LOAD_S", 60.0)
    versions = [cache.add(f"model {number}") for number in range(19)]
    for version in versions:
        cache.hit(version)
    cache.scan()
    cache.evict()
    assert kept(cache, versions) == [False] * 9 + [True] * 10


def test_when_all_are_hot_the_oldest_go_all_the_same(cache: Cache) -> None:
    versions = add_unused(cache, 19)
    cache.scan()
    for _ in range(20 * 20):
        for version in versions:
            if cache.holds(version):
                cache.hit(version)
        if cache.evictor.wants_scan:
            cache.scan()
        elif not cache.evictor.step(moves=1) and not cache.evictor.wants_scan:
            break
        cache.store.tick()
        cache.now_s += 1.0
    used = cache.disk.used_bytes
    assert used is not None
    assert used <= cache.disk.size_bytes // 2


def test_the_hand_goes_on_where_it_was_after_another_scan(cache: Cache) -> None:
    hot = add_unused(cache, 8, "hot")
    for version in hot:
        cache.hit(version)
    cold = add_unused(cache, 11, "cold")
    cache.scan()
    assert cache.evictor.step(moves=9)  # past the hot ones, which lose their marks, to the first victim
    assert kept(cache, cold) == [False] + [True] * 10
    cache.scan()
    cache.evict()
    assert all(kept(cache, hot)), "the hand did not begin again with the oldest"
    assert kept(cache, cold) == [False] * 9 + [True] * 2


def test_a_new_evictor_finds_the_order_again(cache: Cache, node: Node) -> None:
    versions = add_unused(cache, 19)
    node.restart()
    restarted = Cache(node)
    restarted.scan()
    restarted.evict()
    assert kept(restarted, versions) == [False] * 9 + [True] * 10


def test_pinned_segments_stay_and_others_go(cache: Cache) -> None:
    versions = add_unused(cache, 19)
    for version in versions[:5]:
        cache.pin(version)
    cache.scan()
    cache.evict()
    assert kept(cache, versions) == [True] * 5 + [False] * 9 + [True] * 5


def test_a_segment_that_is_being_filled_stays(cache: Cache) -> None:
    filling = make_version("filling", 4 * OBJECT_BYTES)
    fill(cache.store, filling, 0)
    block = cache.store.open_block(filling, 1, create=True)
    assert block is not None
    writer = block.reserve()
    assert writer is not None
    add_unused(cache, 18)
    cache.scan()
    cache.evict()
    assert cache.holds(filling)
    writer.abandon()
    for number in range(12):
        add_unused(cache, 2, f"round {number}")
        cache.scan()
        cache.evict()
    assert not cache.holds(filling), "the hand comes back to it"


def test_all_pinned_ends_with_one_loud_line_and_goes_on_later(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    versions = add_unused(cache, 19)
    for version in versions:
        cache.pin(version)
    cache.scan()
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            cache.evict()
            cache.now_s += STUCK_PAUSE_S
    assert all(kept(cache, versions))
    loud = [record for record in caplog.records if "can be evicted" in record.message]
    assert len(loud) == 1
    facts = mapfile.read_map(cache.path(versions[7]))
    assert facts is not None
    mapfile.set_pinned(facts, False)
    cache.evict()
    assert kept(cache, versions) == [True] * 7 + [False] + [True] * 11


def test_a_pause_follows_when_nothing_can_be_evicted(cache: Cache) -> None:
    versions = add_unused(cache, 19)
    for version in versions:
        cache.pin(version)
    cache.scan()
    cache.evict()
    facts = mapfile.read_map(cache.path(versions[0]))
    assert facts is not None
    mapfile.set_pinned(facts, False)
    assert not cache.evictor.step()
    assert cache.holds(versions[0])
    cache.now_s += STUCK_PAUSE_S
    cache.evict()
    assert not cache.holds(versions[0])


def test_segments_newer_than_the_queue_are_asked_for_before_anybody_shouts(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    pinned = add_unused(cache, 2, "pinned")
    for version in pinned:
        cache.pin(version)
    cache.scan()
    versions = add_unused(cache, 17)
    with caplog.at_level(logging.ERROR):
        assert not cache.evictor.step() or not cache.evictor.step()
        while not cache.evictor.wants_scan:
            assert not cache.evictor.step()
        cache.evict()
    assert kept(cache, versions) == [False] * 9 + [True] * 8
    assert not caplog.records


def test_the_hand_does_not_begin_again_before_it_has_seen_what_is_new(cache: Cache) -> None:
    old = add_unused(cache, 8, "old")
    cache.scan()
    new = add_unused(cache, 11, "new")
    for version in old:
        cache.hit(version)
    cache.evict()
    assert kept(cache, old) == [True] * 8
    assert kept(cache, new) == [False] * 9 + [True] * 2


def test_before_the_first_scan_only_the_file_system_counts(cache: Cache) -> None:
    add_unused(cache, 19)
    assert cache.disk.used_bytes is None
    assert cache.evictor.excess_bytes() == 0
    cache.disk.space = lambda _: Space(1000 * MIB, 70 * MIB)
    assert cache.evictor.excess_bytes() == (2 * 64 - 70) * MIB


def test_a_file_system_that_others_fill_makes_room_and_waits_for_it_to_show(cache: Cache) -> None:
    versions = add_unused(cache, 10)
    cache.scan()
    free = [128 * MIB - 3 * OBJECT_BYTES + 200 * KIB]
    cache.disk.space = lambda _: Space(1000 * MIB, free[0])
    cache.evict()
    assert all(kept(cache, versions)), "still above one and a half reserves"
    free[0] = 96 * MIB - 2 * OBJECT_BYTES
    wanted = -(-(128 * MIB - free[0]) // OBJECT_BYTES)
    assert wanted > 10
    cache.evict()
    assert not any(kept(cache, versions))


def test_what_was_retired_lately_is_on_its_way_until_somebody_is_seen_to_keep_it(cache: Cache) -> None:
    versions = add_unused(cache, 12)
    cache.scan()
    cache.disk.space = lambda _: Space(12 * MIB, int(1.7 * MIB))  # a reserve of 1.2 MiB: 0.7 MiB are wanted
    while cache.evictor.step():
        pass
    assert kept(cache, versions) == [False] * 3 + [True] * 9
    used = cache.disk.used_bytes
    assert not cache.evictor.step()
    assert kept(cache, versions) == [False] * 3 + [True] * 9, "handles are being closed"
    assert cache.evictor.leaving.open_bytes >= 3 * OBJECT_BYTES
    cache.now_s += CLOSING_S + 1
    while cache.evictor.step():
        pass
    assert kept(cache, versions) == [False] * 6 + [True] * 6, "it did not show: more"
    assert cache.disk.used_bytes == used, "what is open takes its room"
    cache.store.close()
    cache.now_s += 1
    cache.evictor.leaving.clear()
    assert cache.disk.used_bytes == (used or 0) - 6 * (OBJECT_BYTES + 4 * KIB)


def test_what_can_not_be_removed_is_passed_over(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = add_unused(cache, 19)
    cache.scan()
    stubborn, retire = cache.path(versions[0]), mapfile.retire

    def refuse(path: Path, nonce: bytes | None, reason: str, *, force: bool = False) -> int | None:
        if path == stubborn:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return retire(path, nonce, reason, force=force)

    monkeypatch.setattr(mapfile, "retire", refuse)
    cache.evict()
    assert kept(cache, versions) == [True] + [False] * 9 + [True] * 9


def test_an_io_error_is_the_disks(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    add_unused(cache, 19)
    cache.scan()

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(mapfile, "read_map", fail)
    with pytest.raises(OSError, match="Input/output"):
        cache.evict()
