"""Accounts of disk space: no update is lost, whoever counts and whoever dies."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from proxy.cache.accounts import FOLDERS
from proxy.cache.shared import SharedTables

COUNT_AND_DIE = """
import os, sys
from proxy.cache.accounts import FOLDERS
from proxy.cache.shared import SharedTables
tables = SharedTables.attach(int(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    tables.usage.charge(0, 7, FOLDERS)
    tables.usage.charge(0, -2, FOLDERS)
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def tables() -> Iterator[SharedTables]:
    shared = SharedTables.create()
    yield shared
    shared.close()


def counting_child(tables: SharedTables, rounds: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", COUNT_AND_DIE, str(tables.fd), str(rounds)], pass_fds=(tables.fd,))


def test_used_bytes_are_unknown_until_the_first_scan(tables: SharedTables) -> None:
    tables.usage.charge(0, 100, FOLDERS)
    assert tables.usage.used(0) is None
    tables.usage.publish_scan(0, 100)
    assert tables.usage.used(0) == 100


def test_counts_after_a_scan_add_to_it_and_a_later_scan_replaces_them(tables: SharedTables) -> None:
    tables.usage.charge(0, 1 << 40, FOLDERS)
    tables.usage.publish_scan(0, 5000)
    tables.usage.charge(0, 300, FOLDERS)
    tables.usage.charge(0, -1000, FOLDERS)
    assert tables.usage.used(0) == 4300
    tables.usage.publish_scan(0, 4096)
    assert tables.usage.used(0) == 4096


def test_an_empty_disk_that_was_scanned_is_known_to_be_empty(tables: SharedTables) -> None:
    tables.usage.publish_scan(0, 0)
    assert tables.usage.used(0) == 0
    tables.usage.charge(0, -50, FOLDERS)
    assert tables.usage.used(0) == 0, "never negative"


def test_disks_have_accounts_of_their_own(tables: SharedTables) -> None:
    for disk_index in range(64):
        tables.usage.publish_scan(disk_index, disk_index)
        tables.usage.charge(disk_index, 1000 * disk_index, FOLDERS)
    assert [tables.usage.used(disk_index) for disk_index in range(64)] == [1001 * index for index in range(64)]


def test_processes_counting_at_once_and_killed_lose_nothing(tables: SharedTables) -> None:
    tables.usage.publish_scan(0, 0)
    children = [counting_child(tables, 4000) for _ in range(4)]
    for child in children:
        assert child.wait() == -9
    assert tables.usage.used(0) == 4 * 4000 * 5


def test_a_restarted_process_goes_on_in_a_dead_ones_slot(tables: SharedTables) -> None:
    tables.usage.publish_scan(0, 0)
    for _ in range(3):
        assert counting_child(tables, 10).wait() == -9
    survivor = SharedTables.attach(tables.fd)
    survivor.usage.charge(0, 1, FOLDERS)
    assert tables.usage.used(0) == 3 * 10 * 5 + 1
    assert survivor.locks.is_held((1 << 56) + 0), "the first slot again, not a fourth one"
    survivor.close()


def test_threads_of_one_process_lose_nothing(tables: SharedTables) -> None:
    tables.usage.publish_scan(0, 0)

    def count() -> None:
        for _ in range(5000):
            tables.usage.charge(0, 3, FOLDERS)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tables.usage.used(0) == 4 * 5000 * 3


def test_more_processes_than_slots_are_refused_loudly(tables: SharedTables) -> None:
    for slot in range(256):
        assert tables.locks.try_hold((1 << 56) + slot)
    with pytest.raises(RuntimeError, match="256"):
        tables.usage.charge(0, 1, FOLDERS)


def test_a_blind_fence_stands_for_all_processes_until_it_is_closed(tables: SharedTables) -> None:
    other = SharedTables.attach(tables.fd)
    tables.usage.open_blind_fence(2)
    other.usage.open_blind_fence(2)
    other.usage.close_blind_fence(2)
    assert other.usage.blind_fence_stands(2)
    assert not other.usage.blind_fence_stands(1)
    tables.usage.close_blind_fence(2)
    assert not other.usage.blind_fence_stands(2)
    other.close()


def test_a_blind_fence_falls_with_its_process_and_does_not_rise_with_the_next_one(tables: SharedTables) -> None:
    other = SharedTables.attach(tables.fd)
    other.usage.open_blind_fence(0)
    assert tables.usage.blind_fence_stands(0)
    other.close()
    assert not tables.usage.blind_fence_stands(0)
    successor = SharedTables.attach(tables.fd)
    successor.usage.charge(0, 1, FOLDERS)  # takes the same slot
    assert not tables.usage.blind_fence_stands(0)
    successor.close()
