"""The files of a segment by name: made by link, walked, flagged, retired."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.cache import locks, mapfile, segment
from proxy.cache.blockmap import MapHeader, is_present
from tests.cache.nodes import BLOCK_BYTES, Node, content, files, fill, fill_all, make_version

VERSION = make_version(size=3 * BLOCK_BYTES + 77)


def header() -> MapHeader:
    return MapHeader(VERSION, 0, BLOCK_BYTES, 4, bytes(16))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def facts_of(node: Node) -> mapfile.MapFacts:
    facts = mapfile.read_map(files(node, ".map")[0])
    assert facts is not None
    return facts


def test_a_made_segment_has_a_map_allocated_in_full_and_an_empty_data_file(tmp_path: Path) -> None:
    assert mapfile.create_files(tmp_path, header())
    facts = mapfile.read_map(mapfile.map_path(tmp_path, VERSION.digest, 0))
    assert facts is not None
    assert facts.path.stat().st_blocks * 512 >= facts.path.stat().st_size == facts.header.map_bytes
    assert facts.data_bytes == 0
    assert (facts.retired, facts.pinned, facts.visited) == (False, False, False)
    assert len(names(tmp_path)) == 2


def test_of_many_that_make_one_segment_one_wins_and_the_others_leave_nothing(tmp_path: Path) -> None:
    for number in range(20):
        made = MapHeader(make_version(f"model {number}"), 0, BLOCK_BYTES, 4, bytes(16))
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda _, made=made: mapfile.create_files(tmp_path, made), range(8)))
        assert sum(map(bool, won)) == 1
    assert len(names(tmp_path)) == 40


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failure_half_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def failing(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match=os.strerror(code)):
        mapfile.create_files(tmp_path, header())
    assert names(tmp_path) == []


def test_listing_a_folder_that_is_not_there_finds_nothing(tmp_path: Path) -> None:
    assert mapfile.list_files(tmp_path / "missing") == []
    (tmp_path / "file").write_text("x")
    assert mapfile.list_files(tmp_path / "file") == []
    assert [(path.name, status.st_size) for path, status in mapfile.list_files(tmp_path)] == [("file", 1)]


def test_facts_count_allocated_bytes_not_apparent_ones(node: Node) -> None:
    fill(node.store(), VERSION, 2)
    facts = facts_of(node)
    assert facts.data_bytes == 3 * BLOCK_BYTES
    assert BLOCK_BYTES <= facts.charged_bytes + facts.surplus_bytes < 2 * BLOCK_BYTES
    words = mapfile.read_map_words(facts)
    assert [is_present(word) for word in words] == [False, False, True, False]


def test_what_is_no_map_has_no_facts(tmp_path: Path) -> None:
    path = tmp_path / "x.map"
    assert mapfile.read_map(path) is None
    path.write_bytes(b"garbage")
    assert mapfile.read_map(path) is None
    path.unlink()
    path.mkdir()
    assert mapfile.read_map(path) is None


def test_marks_are_set_and_cleared_without_mapping(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "FIRST_LOAD_S", 0.0)
    store = node.store()
    fill(store, VERSION, 0)
    facts = facts_of(node)
    mapfile.set_pinned(facts, True)
    mapfile.clear_visited(facts)
    assert (facts_of(node).pinned, facts_of(node).visited) == (True, False)
    assert store.peek_block(VERSION, 0) is not None
    assert facts_of(node).visited
    mapfile.set_pinned(facts, False)
    assert not facts_of(node).pinned


def test_marks_meant_for_a_retired_map_leave_its_successor_alone(node: Node) -> None:
    store = node.store()
    fill(store, VERSION, 0)
    old = facts_of(node)
    assert mapfile.retire(old.path, old.header.nonce, "space")
    fill(store, VERSION, 0)
    mapfile.set_pinned(old, True)
    assert not facts_of(node).pinned
    assert list(mapfile.read_map_words(old)) == []
    assert mapfile.retire(old.path, old.header.nonce, "space") == 0
    assert facts_of(node).header.nonce != old.header.nonce


def test_retiring_frees_what_was_allocated_and_tells_everybody(node: Node) -> None:
    store = node.store()
    fill_all(store, VERSION)
    block = store.peek_block(VERSION, 0)
    facts = facts_of(node)
    assert mapfile.retire(facts.path, facts.header.nonce, "space") == facts.charged_bytes
    assert block is not None
    assert block.retired
    assert not files(node, "")
    assert mapfile.retire(facts.path, facts.header.nonce, "space") == 0


def test_a_fill_refuses_eviction_but_not_the_retirement_of_damage(node: Node) -> None:
    store = node.store()
    block = store.open_block(VERSION, 1, create=True)
    assert block is not None
    writer = block.reserve()
    facts = facts_of(node)
    assert mapfile.retire(facts.path, facts.header.nonce, "space") is None
    assert not block.retired
    assert mapfile.retire(facts.path, facts.header.nonce, "damage", force=True) is not None
    assert block.retired
    assert writer is not None
    writer.abandon()


def test_a_fill_that_locks_after_the_eviction_sees_its_flag(node: Node) -> None:
    block = node.store().open_block(VERSION, 0, create=True)
    assert block is not None
    evictor = locks.open_for_locking(files(node, ".map")[0])
    assert locks.try_lock(evictor, 0, locks.TO_THE_END)
    assert block.reserve() is None, "the evictor has it"
    assert mapfile.retire_open(evictor, files(node, ".map")[0], facts_of(node).header.nonce, "space", force=False)
    os.close(evictor)
    assert block.retired
    assert block.reserve() is None


def test_two_that_retire_one_segment_never_touch_its_successor(node: Node) -> None:
    store = node.store()
    fill(store, VERSION, 0)
    path = files(node, ".map")[0]
    late = locks.open_for_locking(path)  # opened before, goes on after the first has finished and a new one stands
    nonce = facts_of(node).header.nonce
    mapfile.retire(path, nonce, "damage", force=True)
    fill(store, VERSION, 0)
    assert mapfile.retire_open(late, path, nonce, "damage", force=True) == 0
    os.close(late)
    assert len(files(node, "")) == 2
    assert store.peek_block(VERSION, 0) is not None


def test_a_stray_is_a_data_file_that_no_map_names_or_an_unfinished_map(node: Node) -> None:
    fill(node.store(), VERSION, 0)
    good = facts_of(node)
    stem = good.path.stem
    nonces = {stem: good.header.nonce.hex()}
    assert not mapfile.is_stray(good.data_path, nonces)
    assert not mapfile.is_stray(good.path, nonces)
    assert not mapfile.is_stray(good.path.with_name("notes.txt"), nonces)
    assert mapfile.is_stray(good.path.with_name(f"{stem}.{'ab' * 16}.data"), nonces)
    assert mapfile.is_stray(good.path.with_name(f"{stem}.{'cd' * 16}.tmp"), nonces)
    assert mapfile.is_stray(good.data_path, {})


def test_content_of_the_tests_is_not_periodic() -> None:
    assert content(VERSION, 0, 8) != content(VERSION, BLOCK_BYTES, BLOCK_BYTES + 8)
