"""Writes in threads: when a disk is too slow for the event loop, what is cancelled, what the kernel is told ahead."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.cache import disks, writeback, writer
from proxy.cache.block import Block
from proxy.cache.blockmap import BlockKind
from proxy.cache.store import Store
from proxy.cache.writer import SegmentWriter
from tests.cache.nodes import BLOCK_BYTES, Node, block_content, files, fill, make_version, on_a_disk, read_block
from tests.waiting import until

VERSION = make_version()
DATA = block_content(VERSION, 0)


def opened(store: Store, index: int = 0) -> Block:
    block = store.open_block(VERSION, index, create=True)
    assert block is not None
    return block


def reserved(block: Block) -> SegmentWriter:
    filling = block.reserve()
    assert filling is not None
    return filling


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def slow(store: Store) -> None:
    """As after a write that took long."""
    store.disks[0].pace.slow(time.monotonic())


def test_a_quick_disk_is_written_inline(node: Node, threads: ThreadPoolExecutor) -> None:
    writer = reserved(opened(node.store(writer_threads=threads)))
    assert writer.write(memoryview(DATA)) is None
    writer.commit()


async def test_after_a_very_slow_write_the_next_ones_go_to_threads_for_a_while(
    node: Node, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = node.store(writer_threads=threads)
    now = [100.0]
    waits = [0]
    store.disks[0].pace = disks.WritePace(lambda: now[0], lambda: waits[0])
    writer = reserved(opened(store))
    real, by = os.pwrite, []

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        by.append(threading.current_thread() is threading.main_thread())
        if len(by) == 1:
            now[0] += 0.03
            waits[0] += 1
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert writer.write(memoryview(DATA[:1000])) is None
    for _ in range(2):
        pending = writer.write(memoryview(DATA[writer.progress : writer.progress + 1000]))
        assert pending is not None
        await pending
    now[0] += disks.THREADS_FOR_S
    assert writer.write(memoryview(DATA[3000:])) is None
    assert by == [True, False, False, True]
    writer.commit()
    assert read_block(store, opened(store)) == DATA


@pytest.mark.parametrize(("every_s", "quick_enough"), [(0.05, False), (0.5, True)])
def test_writes_that_wait_for_a_journal_now_and_then_stay_inline(every_s: float, quick_enough: bool) -> None:
    now, waits = [100.0], [0]
    pace = disks.WritePace(lambda: now[0], lambda: waits[0])

    def wait() -> None:
        now[0] += 0.018
        waits[0] += 1

    for _ in range(20):
        pace.run(wait)
        now[0] += every_s
    assert pace.inline() is quick_enough


def test_a_write_that_only_computed_for_long_is_not_the_disks_fault(node: Node, threads: ThreadPoolExecutor) -> None:
    now = itertools.count(100.0)
    store = node.store(writer_threads=threads)
    store.disks[0].pace = disks.WritePace(lambda: next(now), lambda: 7)
    writer = reserved(opened(store))
    for _ in range(2):
        assert writer.write(memoryview(DATA[writer.progress : writer.progress + 1000])) is None
    writer.abandon()


def test_a_block_has_its_place_on_the_disk_before_it_is_written_and_the_file_is_no_longer(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "ALLOCATE_BYTES_MIN", BLOCK_BYTES)
    pool = ThreadPoolExecutor(2)
    store = node.store(writer_threads=pool)
    filling = reserved(opened(store))
    pool.shutdown()  # waits for the hint
    [path] = files(node, ".data")
    assert path.stat().st_size == 0
    assert path.stat().st_blocks * 512 in (0, BLOCK_BYTES), "0: the file system can't"
    filling.write(memoryview(DATA))
    filling.commit()
    assert path.stat().st_size == len(DATA)
    assert read_block(store, opened(store)) == DATA


async def test_threads_write_to_one_file_one_at_a_time_and_in_order(
    node: Node, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = node.store(writer_threads=threads)
    slow(store)
    blocks = [opened(store, index) for index in range(2)]
    first, second = (reserved(block) for block in blocks)
    barrier = WriteBarrier(monkeypatch)
    pending = [filling.write(memoryview(DATA[:1000])) for filling in (first, second)]
    await until(barrier.entered.is_set)
    assert barrier.inside == 1
    barrier.open.set()
    for write in pending:
        assert write is not None
        await write
    assert barrier.inside_most == 1
    first.abandon()
    second.abandon()


class WriteBarrier:
    """pwrite that waits in its thread until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.inside = self.inside_most = 0
        real = os.pwrite

        def pwrite(fd: int, data: memoryview, offset: int) -> int:
            self.inside += 1
            self.inside_most = max(self.inside, self.inside_most)
            self.entered.set()
            assert self.open.wait(60)
            self.inside -= 1
            return real(fd, data, offset)

        monkeypatch.setattr(os, "pwrite", pwrite)


async def test_a_cancelled_write_keeps_memory_and_lock_until_its_thread_has_returned(
    node: Node, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = node.store(writer_threads=threads), opened(node.store())
    writer = reserved(opened(store))
    slow(store)
    barrier = WriteBarrier(monkeypatch)
    pending = writer.write(memoryview(DATA[:1000]))
    assert pending is not None
    task = asyncio.ensure_future(pending)
    await asyncio.sleep(0)  # a task cancelled ahead of its first step runs nothing at all
    await until(barrier.entered.is_set)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    assert other.reserve() is None
    barrier.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert writer.progress == 1000
    writer.abandon()
    reserved(other).abandon()


async def test_abandoning_under_a_write_gives_the_lock_back_after_it(
    node: Node, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = node.store(writer_threads=threads), opened(node.store())
    writer = reserved(opened(store))
    slow(store)
    barrier = WriteBarrier(monkeypatch)
    pending = writer.write(memoryview(DATA[:1000]))
    assert pending is not None
    await until(barrier.entered.is_set)
    writer.abandon()
    assert other.reserve() is None
    barrier.open.set()
    await until(lambda: other.state().kind is BlockKind.ABSENT)
    await until(lambda: other.reserve() is not None)  # the writer it gives is let go at once


async def test_write_back_is_started_when_a_block_is_committed(
    node: Node, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int]] = []
    done = threading.Event()

    def start(_: int, offset: int, length: int) -> None:
        started.append((offset, length))
        done.set()

    monkeypatch.setattr(writeback, "start", start)
    fill(on_a_disk(node.store(writer_threads=threads)), VERSION, 1)
    assert done.wait(10)
    assert started == [(BLOCK_BYTES, BLOCK_BYTES)]


async def test_writer_threads_that_have_ended_are_done_without(node: Node, threads: ThreadPoolExecutor) -> None:
    store = node.store(writer_threads=threads)
    slow(store)
    threads.shutdown()
    assert read_block(store, fill(store, VERSION, 0)) == DATA
