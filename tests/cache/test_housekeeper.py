"""The housekeeper's loop over whole disks."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.cache import mapfile
from proxy.cache.housekeeper import RETRY_S, Housekeeper, HouseRules
from proxy.cache.store import Store
from tests.cache.nodes import BLOCK_BYTES, KIB, SEGMENT_BYTES, Node, allocated_on, files, fill, fill_all, make_version
from tests.waiting import wait_until

NEVER = threading.Event()


class Clock:
    def __init__(self) -> None:
        self.now_s = 500.0

    def __call__(self) -> float:
        return self.now_s


def keeper(node: Node, store: Store, clock: Callable[[], float], rules: HouseRules | None = None) -> Housekeeper:
    return Housekeeper(store.disks, node.tables, SEGMENT_BYTES, rules or HouseRules(), clock=clock)


def settle(house: Housekeeper) -> None:
    """Turns under a clock that stands still: a scan that is due is done in one."""
    while house.turn(NEVER):
        pass


@contextmanager
def running(house: Housekeeper) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=house.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_the_first_turn_scans_every_disk(node_of_three: Node) -> None:
    store = node_of_three.store()
    fill_all(store, make_version())
    settle(keeper(node_of_three, store, Clock()))
    used = [disk.used_bytes for disk in store.disks]
    assert None not in used
    assert sum(filter(None, used)) >= make_version().size_bytes


def test_a_disk_over_its_mark_is_brought_below_it_while_fills_go_on(node: Node) -> None:
    store = node.store(size_bytes=40 * (BLOCK_BYTES + 4 * KIB))
    house = Housekeeper(store.disks, node.tables, SEGMENT_BYTES, HouseRules(high_watermark=0.8, low_watermark=0.5))
    disk = store.disks[0]
    with running(house):
        wait_until(lambda: disk.used_bytes is not None)

        def has_room() -> bool:
            store.tick_where_due()
            return (disk.used_bytes or 0) + BLOCK_BYTES + 8 * KIB <= disk.size_bytes

        for number in range(120):
            wait_until(has_room)
            fill(store, make_version(f"model {number}", BLOCK_BYTES), 0)

        def is_below_its_mark() -> bool:
            store.tick_where_due()  # a worker's part: what is open here keeps its room
            return (disk.used_bytes or 0) <= 0.8 * disk.size_bytes

        wait_until(is_below_its_mark)
    assert allocated_on(node.paths[0]) <= 1.01 * disk.size_bytes


def test_a_scan_is_repeated_when_it_is_due(node: Node) -> None:
    store, clock = node.store(), Clock()
    house = keeper(node, store, clock, HouseRules(rescan_s=100, scrub_bytes_per_s=0))
    settle(house)
    (node.paths[0] / "v1/keys/00").mkdir(parents=True)
    (node.paths[0] / "v1/keys/00/something").write_bytes(b"x" * 100_000)
    settle(house)
    assert store.disks[0].used_bytes == 0
    clock.now_s += 101
    settle(house)
    assert (store.disks[0].used_bytes or 0) >= 100_000


def test_scrubbing_keeps_its_pace(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock = node.store(), Clock()
    fill_all(store, make_version(size=40 * BLOCK_BYTES))
    read_bytes = [0]
    really_read = os.preadv

    def count(fd: int, buffers: list[memoryview], offset: int) -> int:
        read_bytes[0] += len(buffers[0]) if len(buffers[0]) > 4096 else 0
        return really_read(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", count)
    house = keeper(node, store, clock, HouseRules(scrub_bytes_per_s=4 * BLOCK_BYTES))
    settle(house)
    assert read_bytes[0] == 0
    for _ in range(4):
        clock.now_s += 0.5
        settle(house)
    assert 7 * BLOCK_BYTES <= read_bytes[0] <= 9 * BLOCK_BYTES
    clock.now_s += 1000
    settle(house)
    assert read_bytes[0] <= 13 * BLOCK_BYTES, "time lost is not caught up"


def test_no_rate_means_no_scrubbing(node: Node) -> None:
    store, clock = node.store(), Clock()
    fill_all(store, make_version())
    with files(node, ".data")[0].open("r+b") as file:
        file.write(b"wrong")
    house = keeper(node, store, clock, HouseRules(scrub_bytes_per_s=0))
    for _ in range(5):
        settle(house)
        clock.now_s += 10
    assert len(files(node, ".map")) == 3


def test_rotten_bits_are_found_by_the_running_loop(node: Node) -> None:
    store = node.store()
    fill_all(store, make_version())
    with files(node, ".data")[0].open("r+b") as file:
        file.write(b"wrong")
    with running(keeper(node, store, time.monotonic, HouseRules(scrub_bytes_per_s=1 << 30))):
        wait_until(lambda: len(files(node, ".map")) == 2)


def test_a_disk_with_io_errors_leaves_service_and_the_others_are_kept(
    node_of_three: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = node_of_three.store()
    really_list, bad = mapfile.list_files, store.disks[1].objects

    def fail(folder: Path) -> list[tuple[Path, os.stat_result]]:
        if bad in folder.parents:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return really_list(folder)

    monkeypatch.setattr(mapfile, "list_files", fail)
    house = keeper(node_of_three, store, Clock())
    settle(house)
    settle(house)
    assert [disk.failed for disk in store.disks] == [False, True, False]
    assert [disk.used_bytes for disk in store.disks] == [0, None, 0]


def test_other_trouble_ends_a_pass_and_the_next_one_begins_a_minute_later(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, clock = node.store(), Clock()

    def fail(_: Path) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    store.disks[0].space = fail  # type: ignore[assignment]
    house = keeper(node, store, clock)
    settle(house)
    assert store.disks[0].used_bytes is None
    assert not store.disks[0].failed
    monkeypatch.undo()
    store.disks[0].space = node.store().disks[0].space
    clock.now_s += RETRY_S
    settle(house)
    assert store.disks[0].used_bytes == 0


def test_stopping_ends_the_loop_in_mid_scan(node: Node) -> None:
    store = node.store()
    with running(keeper(node, store, time.monotonic)):
        pass
