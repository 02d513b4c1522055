"""Locks on open file descriptions: they exclude others and die with their owner."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cache import locks

HOLD = """
import sys
from proxy.cache import locks
fd = locks.open_for_locking(sys.argv[1])
assert locks.try_lock(fd, 3)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    return path


def test_two_descriptions_of_one_process_exclude_each_other(path: Path) -> None:
    first, second = locks.open_for_locking(path), locks.open_for_locking(path)
    assert locks.try_lock(first, 3)
    assert not locks.try_lock(second, 3)
    assert locks.is_held(second, 3)
    assert locks.try_lock(second, 4), "another block's byte is free"
    locks.unlock(first, 3)
    assert locks.try_lock(second, 3)
    os.close(first)
    os.close(second)


def test_one_description_does_not_exclude_itself(path: Path) -> None:
    fd = locks.open_for_locking(path)
    assert locks.try_lock(fd, 3)
    assert locks.try_lock(fd, 3)
    os.close(fd)


def test_any_block_refuses_the_whole_range_and_the_whole_range_any_block(path: Path) -> None:
    filler, evictor = locks.open_for_locking(path), locks.open_for_locking(path)
    assert locks.try_lock(filler, 100_000)
    assert not locks.try_lock(evictor, 0, locks.TO_THE_END)
    locks.unlock(filler, 100_000)
    assert locks.try_lock(evictor, 0, locks.TO_THE_END)
    assert not locks.try_lock(filler, 100_000)
    assert not locks.try_lock(filler, locks.RETIRE_BYTE)
    os.close(evictor)
    assert locks.try_lock(filler, locks.RETIRE_BYTE)
    os.close(filler)


def test_closing_another_descriptor_of_the_file_keeps_the_lock(path: Path) -> None:
    holder, other = locks.open_for_locking(path), locks.open_for_locking(path)
    assert locks.try_lock(holder, 1)
    os.close(locks.open_for_locking(path))
    assert not locks.try_lock(other, 1)
    os.close(holder)
    os.close(other)


def test_a_lock_dies_with_its_descriptor_although_the_file_is_mapped_from_another(path: Path) -> None:
    holder, other = locks.open_for_locking(path), locks.open_for_locking(path)
    mapping = os.open(path, os.O_RDWR)
    mapped = mmap.mmap(mapping, 4096)
    os.close(mapping)
    assert locks.try_lock(holder, 1)
    os.close(holder)
    assert locks.try_lock(other, 1)
    mapped.close()
    os.close(other)


def test_a_lock_dies_with_its_process_by_kill_9(path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        fd = locks.open_for_locking(path)
        assert not locks.try_lock(fd, 3)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert locks.try_lock(fd, 3)
        os.close(fd)


def test_a_locks_descriptor_is_not_inherited_and_follows_no_link(path: Path, tmp_path: Path) -> None:
    fd = locks.open_for_locking(path)
    assert not os.get_inheritable(fd)
    os.close(fd)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic link"):
        locks.open_for_locking(tmp_path / "link")
