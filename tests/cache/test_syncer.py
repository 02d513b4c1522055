"""Written blocks become present when the disk has them; what a disk could not store is given up, and said."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.cache import writeback
from proxy.cache.blockmap import ABSENT_WORD, BlockKind
from proxy.cache.store import Store
from proxy.cache.writeback import SyncBy
from proxy.errors import StoreUnavailable
from proxy.ranges import ByteRange
from tests.cache.nodes import (
    BLOCK_BYTES,
    KIB,
    Node,
    block_content,
    files,
    fill,
    make_version,
    on_a_disk,
    read_block,
)
from tests.waiting import wait_until

VERSION = make_version()
FIRST = ByteRange(0, BLOCK_BYTES)


class Disk:
    """What the kernel says about write-back: how a wait ends, and what has failed since a description was opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.go_on.set()
        self.waited: list[tuple[int, int]] = []
        self.error: int = 0
        self.unheard: set[str] = set()  # data files whose loss no description has been told of yet
        monkeypatch.setattr(writeback, "wait_range", self._wait)
        monkeypatch.setattr(writeback, "failure", self._failure)

    def _wait(self, fd: int, offset: int, length: int) -> None:
        assert self.go_on.wait(10)
        self.waited.append((offset, length))
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def _failure(self, fd: int) -> OSError | None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path not in self.unheard:
            return None
        self.unheard.discard(path)
        return OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def is_hit(store: Store, span: ByteRange = FIRST) -> bool:
    return store.peek(VERSION, span) is not None


def test_a_written_block_is_no_hit_before_the_disk_has_it(node: Node, disk: Disk, threads: ThreadPoolExecutor) -> None:
    store = on_a_disk(node.store(writer_threads=threads))
    disk.go_on.clear()
    block = fill(store, VERSION, 0)
    state = block.state()
    assert (state.kind, state.written, state.verified) == (BlockKind.PRESENT, True, False)
    assert block.at_risk
    assert block.is_vouched(), "readers may have it from memory"
    assert not is_hit(store)
    assert block.reserve() is None
    disk.go_on.set()
    wait_until(lambda: is_hit(store))
    assert not block.at_risk
    assert disk.waited == [(0, BLOCK_BYTES)]


def test_blocks_that_follow_each_other_are_waited_for_together(
    node: Node, disk: Disk, threads: ThreadPoolExecutor
) -> None:
    store = on_a_disk(node.store(writer_threads=threads))
    fill(store, VERSION, 3)
    wait_until(lambda: disk.waited == [(3 * BLOCK_BYTES, BLOCK_BYTES)])
    disk.go_on.clear()
    fill(store, make_version("another"), 0)  # keeps the thread waiting
    for index in (0, 1):
        fill(store, VERSION, index)
    disk.go_on.set()
    wait_until(lambda: is_hit(store, ByteRange(0, 2 * BLOCK_BYTES)))
    assert (0, 2 * BLOCK_BYTES) in disk.waited


def test_a_lost_block_is_given_up_and_its_disk_leaves_service(
    node: Node, disk: Disk, threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    store = on_a_disk(node.store(writer_threads=threads))
    disk.error = errno.EIO
    block = fill(store, VERSION, 0)
    wait_until(lambda: files(node, ".map") == [])
    assert block.retired
    assert not block.is_vouched()
    assert store.disks[0].failed
    assert node.lost_segments() == 1
    assert "out of service" in caplog.text
    assert "has lost bytes" in caplog.text


def test_a_disk_that_only_lacks_room_stays_in_service_and_gets_no_new_blocks_for_a_while(
    node: Node, disk: Disk
) -> None:
    store = on_a_disk(node.store())
    disk.error = errno.ENOSPC
    fill(store, VERSION, 0)
    assert files(node, ".map") == []
    assert not store.disks[0].failed
    disk.error = 0
    with pytest.raises(StoreUnavailable, match="could not store"):
        store.open_block(VERSION, 0, create=True)
    store.disks[0]._paused_until_s = 0.0
    fill(store, VERSION, 0)
    assert is_hit(store)


def test_a_loss_that_only_a_reader_hears_of_counts_for_the_syncer_too(
    node: Node, disk: Disk, threads: ThreadPoolExecutor
) -> None:
    store = on_a_disk(node.store(writer_threads=threads))
    disk.go_on.clear()
    block = fill(store, VERSION, 0)
    disk.unheard = {str(path) for path in files(node, ".data")}
    assert block.is_lost()
    assert block.is_lost(), "the kernel tells once, the segment remembers"
    disk.go_on.set()
    wait_until(lambda: files(node, ".map") == [])
    assert not is_hit(store)
    assert node.lost_segments() == 1


def test_a_fill_under_way_stops_where_its_file_has_lost_bytes(node: Node, disk: Disk) -> None:
    block = on_a_disk(node.store()).open_block(VERSION, 0, create=True)
    assert block is not None
    writer = block.reserve()
    assert writer is not None
    writer.write(memoryview(block_content(VERSION, 0)[: 64 * KIB]))
    disk.unheard = {str(path) for path in files(node, ".data")}
    assert block.is_lost()
    with pytest.raises(StoreUnavailable, match="lost bytes"):
        writer.write(memoryview(bytes(64 * KIB)))
    writer.abandon()


def test_another_process_takes_a_written_block_while_its_writer_lives_and_compares_it_when_it_may_be_dead(
    node: Node, disk: Disk, threads: ThreadPoolExecutor
) -> None:
    disk.go_on.clear()
    fill(on_a_disk(node.store(writer_threads=threads)), VERSION, 0)
    other = on_a_disk(node.store())
    block = other.open_block(VERSION, 0, create=False)
    assert block is not None
    assert block.is_vouched()
    node.tables.usage.note_death()
    assert not block.is_vouched()
    disk.go_on.set()
    assert block.verify()
    assert block.state().verified
    assert is_hit(other)


def test_a_dead_processs_block_whose_bytes_were_lost_is_never_trusted(node: Node, disk: Disk) -> None:
    store = on_a_disk(node.store())
    store.disks[0].syncer.close()
    store.disks[0].syncer.add = lambda segment, local_index: None  # type: ignore[method-assign]
    fill(store, VERSION, 0)
    node.tables.usage.note_death()
    files(node, ".data")[0].write_bytes(bytes(BLOCK_BYTES))
    block = on_a_disk(node.store()).open_block(VERSION, 0, create=False)
    assert block is not None
    assert not block.verify()
    assert files(node, ".map") == []


def test_a_block_of_an_earlier_run_is_seen_to_the_disk_before_it_is_trusted(node: Node, disk: Disk) -> None:
    fill(on_a_disk(node.store()), VERSION, 0)
    disk.waited.clear()
    node.restart()
    store = on_a_disk(node.store())
    block = store.open_block(VERSION, 0, create=False)
    assert block is not None
    disk.error = errno.ENOSPC
    assert not block.verify(), "its bytes are right, and in memory alone"
    assert disk.waited == [(0, BLOCK_BYTES)]
    assert files(node, ".map") == []


def test_a_written_block_of_an_earlier_run_is_present_and_must_be_compared(
    node: Node, disk: Disk, threads: ThreadPoolExecutor
) -> None:
    store = on_a_disk(node.store(writer_threads=threads))
    disk.go_on.clear()
    fill(store, VERSION, 0)
    node.restart()
    disk.go_on.set()
    block = on_a_disk(node.store()).open_block(VERSION, 0, create=False)
    assert block is not None
    state = block.state()
    assert (state.kind, state.written, state.verified) == (BlockKind.PRESENT, False, False)
    assert block.verify()


def test_segments_beyond_those_that_may_wait_are_compared_at_their_next_use(
    node: Node, disk: Disk, threads: ThreadPoolExecutor
) -> None:
    store = on_a_disk(node.store(writer_threads=threads, max_open_segments=4))
    disk.go_on.clear()
    block = fill(store, VERSION, 0)
    wait_until(lambda: not store.disks[0].syncer._waiting)  # the thread has it now
    fill(store, make_version("second"), 0)
    third = fill(store, make_version("third"), 0)
    assert block.is_vouched()
    state = third.state()
    assert (state.kind, state.written, state.verified) == (BlockKind.PRESENT, False, False)
    assert not third.is_vouched()
    disk.go_on.set()
    assert third.verify()


def test_in_memory_there_is_nothing_to_wait_for(node: Node, disk: Disk) -> None:
    store = on_a_disk(node.store(), SyncBy.NOTHING)
    block = fill(store, VERSION, 0)
    assert block.state().verified
    assert not block.at_risk
    assert disk.waited == []


def test_other_file_systems_are_asked_by_fdatasync(
    node: Node, disk: Disk, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    store = on_a_disk(node.store(writer_threads=threads), SyncBy.FILE)
    fill(store, VERSION, 0)
    wait_until(lambda: is_hit(store))
    for index in (1, 2, 3):
        fill(store, VERSION, index)
    wait_until(lambda: is_hit(store, ByteRange(0, 4 * BLOCK_BYTES)))
    assert len(synced) == 2, "the first at once, the others together"
    assert disk.waited == []


def test_a_stored_segment_is_let_go(node: Node, disk: Disk, threads: ThreadPoolExecutor) -> None:
    store = on_a_disk(node.store(writer_threads=threads))
    fill(store, VERSION, 0)
    wait_until(lambda: is_hit(store))
    segment = store.peek_segment(VERSION, 0)
    assert segment is not None
    gone = weakref.ref(segment)
    del segment
    store._open.clear()
    wait_until(lambda: gone() is None)
    assert gc.isenabled()


def test_a_store_closes_while_a_disk_does_not_answer(node: Node, disk: Disk, threads: ThreadPoolExecutor) -> None:
    store = on_a_disk(node.store(writer_threads=threads))
    disk.go_on.clear()
    fill(store, VERSION, 0)
    store.close()
    disk.go_on.set()


def test_a_predecessors_bytes_that_left_memory_unstored_are_not_taken_for_zeros(node: Node) -> None:
    store = node.store()
    block = store.open_block(VERSION, 0, create=True)
    assert block is not None
    writer = block.reserve()
    assert writer is not None
    writer.write(memoryview(block_content(VERSION, 0)[: 128 * KIB]))
    writer.leave()
    with files(node, ".data")[0].open("r+b") as file:
        punch_hole(file.fileno(), 64 * KIB, 64 * KIB)
    successor = block.reserve()
    assert successor is not None
    assert successor.needs_read_back
    with pytest.raises(StoreUnavailable, match="lost bytes"):
        successor.read_back()
    assert block.retired
    successor.abandon()


def punch_hole(fd: int, offset: int, length: int) -> None:
    keep_size, punch = 1, 2  # fallocate(2)
    code = ctypes.CDLL(None).fallocate(fd, keep_size | punch, ctypes.c_int64(offset), ctypes.c_int64(length))
    if code != 0:
        pytest.skip("this file system punches no holes")


def test_the_kernel_has_nothing_to_tell_of_a_file_that_it_has_stored(node: Node) -> None:
    store = node.store()
    block = fill(store, VERSION, 0)
    fd = block.piece(0, 1).file.fd
    writeback.start(fd, 0, BLOCK_BYTES)
    writeback.wait_range(fd, 0, BLOCK_BYTES)
    assert writeback.failure(fd) is None
    assert read_block(store, block) == block_content(VERSION, 0)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM, errno.EINVAL])
def test_a_kernel_without_the_call_is_asked_by_fdatasync(
    node: Node, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(writeback, "_sync_file_range", lambda *_: code)
    store = on_a_disk(node.store())
    fill(store, VERSION, 0)
    assert is_hit(store)


def test_a_word_that_was_never_written_stays_as_it_is(node: Node, disk: Disk, threads: ThreadPoolExecutor) -> None:
    store = on_a_disk(node.store(writer_threads=threads))
    disk.go_on.clear()
    fill(store, VERSION, 0)
    segment = store.peek_segment(VERSION, 0)
    assert segment is not None
    segment.store_word(0, ABSENT_WORD)
    disk.go_on.set()
    wait_until(lambda: not segment.unstored)
    assert segment.word(0) == ABSENT_WORD
