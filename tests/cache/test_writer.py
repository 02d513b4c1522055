"""Filling a block: order, wrap, sums, take-over, slow disks, cancelled writes."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.blocks import update_sum
from proxy.cache import advice, disks, writer
from proxy.cache.block import Block
from proxy.cache.blockmap import BlockKind
from proxy.cache.store import Store
from proxy.cache.writer import SegmentWriter
from proxy.objects import SumKind
from proxy.ranges import ByteRange
from tests.cache.nodes import BLOCK_BYTES, KIB, Node, block_content, content, files, fill, make_version, read_block

VERSION = make_version()
DATA = block_content(VERSION, 0)


def opened(store: Store, index: int = 0) -> Block:
    block = store.open_block(VERSION, index, create=True)
    assert block is not None
    return block


def reserved(block: Block, start: int = 0) -> SegmentWriter:
    writer = block.reserve(start)
    assert writer is not None
    return writer


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def slow(store: Store) -> None:
    """As after a write that took long."""
    store.disks[0].pace.slow(time.monotonic())


def test_progress_moves_with_each_write_and_commit_publishes(node: Node) -> None:
    store = node.store()
    block, other = opened(store), opened(node.store())
    writer = reserved(block, 64 * KIB)
    assert other.state().kind is BlockKind.FILLING
    assert writer.write(memoryview(DATA[64 * KIB : 100 * KIB])) is None
    assert (writer.start, writer.progress) == (64 * KIB, 36 * KIB)
    assert (other.state().start, other.state().progress) == (64 * KIB, 36 * KIB)
    writer.write(memoryview(DATA[100 * KIB :] + DATA[: 64 * KIB]))
    assert other.state().kind is BlockKind.FILLING
    writer.commit()
    assert other.state().verified
    assert read_block(store, block) == DATA


def test_an_abandoned_block_is_absent_and_can_be_filled_again(node: Node) -> None:
    store = node.store()
    block = opened(store)
    writer = reserved(block)
    writer.write(memoryview(DATA[:1000]))
    writer.abandon()
    writer.abandon()
    assert block.state().kind is BlockKind.ABSENT
    assert read_block(store, fill(store, VERSION, 0, start=64 * KIB)) == DATA


def test_a_writer_that_nobody_ended_gives_its_lock_back(node: Node) -> None:
    block, other = opened(node.store()), opened(node.store())
    writer = reserved(block)
    assert other.reserve() is None
    del writer
    assert block.state().kind is BlockKind.ABSENT
    reserved(other).abandon()


def test_what_was_left_goes_on_under_another_writer(node: Node) -> None:
    store, other = node.store(), node.store()
    writer = reserved(opened(store), 64 * KIB)
    writer.write(memoryview(DATA[64 * KIB : 130 * KIB]))
    writer.leave()
    successor = reserved(opened(other))
    assert (successor.start, successor.progress, successor.needs_read_back) == (64 * KIB, 66 * KIB, True)
    successor.read_back()
    successor.write(memoryview(DATA[130 * KIB :] + DATA[: 64 * KIB]))
    successor.commit()
    assert read_block(other, opened(other)) == DATA
    node.restart()
    assert opened(node.store()).verify(), "the checksum is that of all the bytes"


def test_a_block_that_this_process_fills_is_not_reserved_twice(node: Node) -> None:
    store = node.store()
    writer = reserved(opened(store))
    assert opened(store).reserve() is None
    assert opened(store, 1).reserve() is not None
    writer.abandon()
    reserved(opened(store)).abandon()


def test_a_block_that_another_process_fills_is_not_reserved(node: Node) -> None:
    first, second = opened(node.store()), opened(node.store())
    writer = reserved(first)
    assert second.reserve() is None
    assert not second.retired
    writer.write(memoryview(DATA))
    writer.commit()
    assert second.reserve() is None
    assert second.state().verified


def test_a_fill_longer_than_its_block_is_refused_before_a_byte_of_it_is_written(node: Node) -> None:
    writer = reserved(opened(node.store()))
    with pytest.raises(ValueError, match="do not fit"):
        writer.write(memoryview(bytes(BLOCK_BYTES + 1)))
    assert writer.progress == 0
    assert os.path.getsize(files(node, ".data")[0]) == 0
    writer.abandon()


def test_an_incomplete_block_can_not_be_committed(node: Node) -> None:
    writer = reserved(opened(node.store()))
    writer.write(memoryview(DATA[:10]))
    with pytest.raises(AssertionError, match="not complete"):
        writer.commit()
    writer.abandon()


def test_a_taken_over_block_must_be_read_back_first(node: Node) -> None:
    store = node.store()
    writer = reserved(opened(store))
    writer.write(memoryview(DATA[:10]))
    writer.leave()
    successor = reserved(opened(store))
    with pytest.raises(AssertionError):
        successor.write(memoryview(DATA[10:]))
    successor.abandon()


def test_a_fill_left_without_progress_starts_where_its_successor_wants(node: Node) -> None:
    store = node.store()
    reserved(opened(store), 64 * KIB).leave()
    successor = reserved(opened(store), 128 * KIB)
    assert (successor.start, successor.progress, successor.needs_read_back) == (128 * KIB, 0, False)
    successor.abandon()


def test_a_fill_left_by_another_run_starts_anew(node: Node) -> None:
    writer = reserved(opened(node.store()), 64 * KIB)
    writer.write(memoryview(DATA[64 * KIB :]))
    writer.leave()
    node.restart()
    block = opened(node.store())
    assert block.state().kind is BlockKind.ABSENT
    successor = reserved(block)
    assert (successor.start, successor.progress, successor.needs_read_back) == (0, 0, False)
    successor.abandon()


class Filling:
    """Random fills of one short object, against a model of its bytes."""

    def __init__(self, node: Node, size: int, second: SumKind | None) -> None:
        self.version = make_version("property", size)
        self.store = node.store()
        self.second = second

    def fill(self, index: int, start: int, cuts: list[int], handed_on: set[int]) -> None:
        block = self.store.open_block(self.version, index, create=True, sums=(self.second,) if self.second else ())
        assert block is not None
        start = start * 64 * KIB % (-(-block.length // (64 * KIB)) * 64 * KIB)
        data = block_content(self.version, index)
        data = data[start:] + data[:start]
        writer = reserved(block, start)
        edges = [0, *sorted(cut % block.length for cut in cuts), block.length]
        for number, (first, last) in enumerate(itertools.pairwise(edges)):
            if number in handed_on:
                writer.leave()
                writer = reserved(block, start)
                if writer.needs_read_back:
                    writer.read_back()
            writer.write(memoryview(data)[first:last])
            assert (writer.start, writer.progress) == (start, last)
        writer.commit()


@settings(max_examples=60)
@given(
    size=st.integers(1, 6 * BLOCK_BYTES),
    starts=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    cuts=st.lists(st.integers(0, BLOCK_BYTES), max_size=5),
    handed_on=st.sets(st.integers(0, 5), max_size=2),
    second=st.sampled_from([None, SumKind.CRC32, SumKind.CRC64NVME]),
    spans=st.lists(st.tuples(st.integers(0, 6 * BLOCK_BYTES), st.integers(0, 6 * BLOCK_BYTES)), max_size=8),
)
def test_any_order_of_writes_gives_the_objects_bytes_and_sums(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    starts: list[int],
    cuts: list[int],
    handed_on: set[int],
    second: SumKind | None,
    spans: list[tuple[int, int]],
) -> None:
    node = Node(tmp_path_factory.mktemp("disk"))
    filling = Filling(node, size, second)
    for index in range(-(-size // BLOCK_BYTES)):
        filling.fill(index, starts[index], cuts, handed_on)
    expected = content(filling.version)
    for index in range(-(-size // BLOCK_BYTES)):
        block = filling.store.peek_block(filling.version, index)
        assert block is not None
        assert read_block(filling.store, block) == block_content(filling.version, index)
    for one, other in spans:
        start, end = sorted((one % (size + 1), other % (size + 1)))
        pieces = filling.store.peek(filling.version, ByteRange(start, end))
        assert pieces is not None
        assert b"".join(os.pread(piece.file.fd, piece.length, piece.offset) for piece in pieces) == expected[start:end]
    for kind in (SumKind.CRC32C, second):
        if kind is not None:
            assert filling.store.combined_sum(filling.version, kind) == update_sum(kind, memoryview(expected))
    node.close()


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
    gate = Gate(monkeypatch)
    pending = [filling.write(memoryview(DATA[:1000])) for filling in (first, second)]
    await gate.until(gate.entered.is_set)
    assert gate.inside == 1
    gate.open.set()
    for write in pending:
        assert write is not None
        await write
    assert gate.inside_most == 1
    first.abandon()
    second.abandon()


class Gate:
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

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.001)


async def test_a_cancelled_write_keeps_memory_and_lock_until_its_thread_has_returned(
    node: Node, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = node.store(writer_threads=threads), opened(node.store())
    writer = reserved(opened(store))
    slow(store)
    gate = Gate(monkeypatch)
    pending = writer.write(memoryview(DATA[:1000]))
    assert pending is not None
    task = asyncio.ensure_future(pending)
    await asyncio.sleep(0)  # a task cancelled ahead of its first step runs nothing at all
    await gate.until(gate.entered.is_set)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    assert other.reserve() is None
    gate.open.set()
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
    gate = Gate(monkeypatch)
    pending = writer.write(memoryview(DATA[:1000]))
    assert pending is not None
    await gate.until(gate.entered.is_set)
    writer.abandon()
    assert other.reserve() is None
    gate.open.set()
    await gate.until(lambda: other.state().kind is BlockKind.ABSENT)
    await gate.until(lambda: other.reserve() is not None)  # the writer it gives is let go at once


async def test_write_back_is_started_when_a_block_is_committed(
    node: Node, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[int, int]] = []
    monkeypatch.setattr(writer, "start_write_back", lambda _, offset, length: started.append((offset, length)))
    fill(node.store(writer_threads=threads), VERSION, 1)
    threads.shutdown()
    assert started == [(BLOCK_BYTES, BLOCK_BYTES)]


def test_the_kernel_takes_the_call_for_early_write_back(node: Node) -> None:
    block = fill(node.store(), VERSION, 0)
    advice.start_write_back(block.piece(0, 1).file, 0, BLOCK_BYTES)


async def test_writer_threads_that_have_ended_are_done_without(node: Node, threads: ThreadPoolExecutor) -> None:
    store = node.store(writer_threads=threads)
    slow(store)
    threads.shutdown()
    assert read_block(store, fill(store, VERSION, 0)) == DATA
