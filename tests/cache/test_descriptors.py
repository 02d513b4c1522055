"""What an open segment costs in descriptors, and the memory it is looked at through, which costs none."""

from __future__ import annotations

import gc
import os
import struct
from pathlib import Path

import pytest

from proxy.cache import mapfile
from proxy.cache.blockmap import BlockKind
from proxy.cache.mapping import map_words
from proxy.cache.store import DESCRIPTORS_PER_SEGMENT
from tests.cache.nodes import BLOCK_BYTES, Node, files, fill, make_version


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_an_open_segment_costs_one_descriptor(node: Node) -> None:
    for number in range(5):
        fill(node.store(), make_version(f"object {number}"), 0)
    store = node.store()
    before = open_descriptors()
    blocks = [store.open_block(make_version(f"object {number}"), 0, create=False) for number in range(5)]
    assert None not in blocks
    assert open_descriptors() == before + 5 * DESCRIPTORS_PER_SEGMENT


def test_a_segment_costs_one_more_while_blocks_of_it_are_filled(node: Node) -> None:
    store, version = node.store(), make_version()
    blocks = [store.open_block(version, index, create=True) for index in range(2)]
    before = open_descriptors()
    writers = [block.reserve() for block in blocks if block is not None]
    assert None not in writers
    assert open_descriptors() == before + 1
    other = node.store().open_block(version, 0, create=False)
    assert other is not None
    assert other.reserve() is None  # the lock is held
    for writer in writers:
        assert writer is not None
        writer.abandon()
    del other
    assert open_descriptors() <= before + DESCRIPTORS_PER_SEGMENT  # the other store's segment
    assert fill(store, version, 0).piece(0, BLOCK_BYTES).length == BLOCK_BYTES


@pytest.mark.parametrize("replaced", [False, True])
def test_a_segment_whose_map_was_taken_away_is_not_filled_but_made_anew(node: Node, replaced: bool) -> None:
    store, version = node.store(), make_version()
    block = store.open_block(version, 0, create=True)
    assert block is not None
    files(node, ".map")[0].unlink()  # by hand: without the flag
    if replaced:  # the name leads to a successor, whose locks are not this segment's
        fill(node.store(), version, 1)
    before = open_descriptors()
    assert not block.retired
    assert block.reserve() is None
    assert block.retired
    assert open_descriptors() == before
    assert fill(store, version, 0).state().kind is BlockKind.PRESENT


def test_words_are_the_file_and_shared_with_all_who_map_it(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(struct.pack("=4Q", 1, 2, 3, 4))
    before = open_descriptors()
    with path.open("r+b") as file:
        mine, theirs = map_words(file.fileno(), 32), map_words(file.fileno(), 32)
    assert open_descriptors() == before
    assert list(mine) == [1, 2, 3, 4]
    mine[2] = (1 << 64) - 1
    assert theirs[2] == (1 << 64) - 1
    assert path.read_bytes() == struct.pack("=4Q", 1, 2, (1 << 64) - 1, 4)
    del mine
    assert theirs[0] == 1


def test_a_file_that_is_too_short_is_not_mapped(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(bytes(31))
    with path.open("r+b") as file, pytest.raises(ValueError, match="fewer than 32"):
        map_words(file.fileno(), 32)
    with path.open("rb") as file, pytest.raises(PermissionError):
        map_words(file.fileno(), 24)


def test_memory_stays_as_long_as_somebody_looks_at_a_part_of_it(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(struct.pack("=4Q", 1, 2, 3, 4))
    with path.open("r+b") as file:
        words = map_words(file.fileno(), 32)
    part = words[1:3]
    words.release()
    gc.collect()
    assert list(part) == [2, 3]
    assert str(path) in maps()
    del part
    assert str(path) not in maps()


def maps() -> str:
    return Path("/proc/self/maps").read_text()


def test_of_very_many_open_segments_each_tick_looks_at_some(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.cache.store.TICK_SEGMENTS", 2)
    store = node.store()
    for number in range(5):
        fill(store, make_version(f"object {number}"), 0)
    for path in files(node, ".map"):
        mapfile.retire(path, None, "space")
    left = []
    for _ in range(4):
        store.tick()
        left.append(store.report()["open_segments"])
    assert left == [3, 1, 0, 0]
