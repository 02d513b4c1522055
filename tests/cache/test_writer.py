"""Filling a block: order, wrap, sums, take-over, slow disks, cancelled writes."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.blocks import update_sum
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
