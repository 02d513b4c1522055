"""The memory that a run's processes share, between real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from proxy.cache.runlocks import PROCESSES, RunLocks, writer_offset
from proxy.cache.shared import SharedTables
from proxy.errors import ConfigInvalid
from proxy.objects import ObjectKey

KEY = ObjectKey("s3://origin", "bucket", "key")


@pytest.fixture
def tables() -> Iterator[SharedTables]:
    shared = SharedTables.create()
    yield shared
    shared.close()


def in_child(tables: SharedTables, code: str) -> str:
    """Run code in a process of its own that has attached the tables as `tables`; returns what it printed."""
    prelude = (
        "import sys\nfrom proxy.cache.shared import SharedTables\nfrom proxy.objects import ObjectKey\n"
        "tables = SharedTables.attach(int(sys.argv[1]))\nkey = ObjectKey('s3://origin', 'bucket', 'key')\n"
    )
    command = [sys.executable, "-c", prelude + code, str(tables.fd)]
    return subprocess.run(command, pass_fds=(tables.fd,), check=True, capture_output=True, text=True).stdout


def test_a_child_sees_tokens_and_usage_and_the_parent_sees_the_childs(tables: SharedTables) -> None:
    token = tables.tokens.renew(KEY)
    tables.usage.publish_scan(3, 1000)
    code = "print(tables.tokens.peek(key), tables.usage.used(3));"
    code += "tables.usage.charge(3, 5, 514); tables.usage.fail_disk(4)"
    assert in_child(tables, code).split() == [str(token), "1000"]
    assert tables.usage.used(3) == 1005
    assert tables.usage.disk_failed(4)
    assert not tables.usage.disk_failed(3)


def test_the_file_can_neither_shrink_nor_grow(tables: SharedTables) -> None:
    size = os.fstat(tables.fd).st_size
    for other in (0, size - 1, size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(tables.fd, other)
    assert os.fstat(tables.fd).st_blocks * 512 >= size, "allocated in full before it is mapped"


def test_tables_of_another_layout_are_refused_before_they_are_mapped(tables: SharedTables) -> None:
    os.pwrite(tables.fd, (99).to_bytes(8, "little"), 8)
    with pytest.raises(ConfigInvalid, match="restart the gateway"):
        SharedTables.attach(tables.fd)


def test_an_empty_or_foreign_file_is_refused() -> None:
    fd = os.memfd_create("empty")
    try:
        with pytest.raises(ConfigInvalid):
            SharedTables.attach(fd)
    finally:
        os.close(fd)


def test_closing_twice_closes_no_descriptor_that_has_the_number_by_then(tables: SharedTables) -> None:
    attached = SharedTables.attach(tables.fd)
    number = attached.fd
    attached.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    os.dup2(tables.fd, number)
    attached.close()
    assert os.fstat(number).st_ino == os.fstat(tables.fd).st_ino
    os.close(number)


def test_a_lock_is_seen_by_others_and_dies_with_its_process(tables: SharedTables) -> None:
    offset = writer_offset("worker-1")
    code = (
        "from proxy.cache.runlocks import writer_offset\n"
        "assert tables.locks.try_hold(writer_offset('worker-1'))\n"
        "print('held', flush=True)\nsys.stdin.read()\n"
    )
    prelude = (
        "import sys\nfrom proxy.cache.shared import SharedTables\ntables = SharedTables.attach(int(sys.argv[1]))\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", prelude + code, str(tables.fd)],
        pass_fds=(tables.fd,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert tables.locks.is_held(offset)
        assert not tables.locks.try_hold(offset)
    finally:
        child.kill()
        child.communicate()
    assert not tables.locks.is_held(offset)
    assert tables.locks.try_hold(offset)


def test_a_lock_held_here_is_held_for_this_process_too(tables: SharedTables) -> None:
    assert tables.locks.try_hold(PROCESSES)
    assert tables.locks.is_held(PROCESSES)
    assert not tables.locks.try_hold(PROCESSES)
    tables.locks.release(PROCESSES)
    assert not tables.locks.is_held(PROCESSES)


def test_a_stripe_that_a_stopped_process_holds_is_given_up_in_time(tables: SharedTables) -> None:
    other = SharedTables.attach(tables.fd)
    other.locks.stripe_wait_s = 0.05
    with tables.locks.stripe(KEY.digest):
        with pytest.raises(TimeoutError), other.locks.stripe(KEY.digest):
            pass
        tables.locks.stripe_wait_s = 0.05
        with pytest.raises(TimeoutError), tables.locks.stripe(KEY.digest):  # another thread's, as it were
            pass
    with other.locks.stripe(KEY.digest):
        pass
    other.close()


def test_a_stripe_is_held_by_one_thread_and_one_process_at_a_time(tables: SharedTables) -> None:
    other = RunLocks(tables.fd)
    order: list[str] = []
    with tables.locks.stripe(KEY.digest):

        def take(locks: RunLocks, name: str) -> None:
            with locks.stripe(KEY.digest):
                order.append(name)

        threads = [
            threading.Thread(target=take, args=(tables.locks, "same process")),
            threading.Thread(target=take, args=(other, "other process")),
        ]
        for thread in threads:
            thread.start()
        with other.stripe(bytes(32)):  # another stripe is free
            order.append("first")
        assert order == ["first"]
    for thread in threads:
        thread.join()
    assert sorted(order[1:]) == ["other process", "same process"]
    other.close()
