"""Damaged, missing and foreign files: treated as absent, retired, filled again; never wrong bytes, never a crash."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.blocks import DataFile
from proxy.cache import mapfile
from proxy.cache.blockmap import RETIRED_WORD
from proxy.cache.store import Store
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange
from tests.cache.nodes import (
    BLOCK_BYTES,
    SEGMENT_BYTES,
    Node,
    block_content,
    content,
    files,
    fill,
    fill_all,
    make_version,
    read_block,
)

VERSION = make_version(size=3 * BLOCK_BYTES + 77)  # one segment
BLOCKS = 4


def change(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def read_all(store: Store, version: ObjectVersion) -> tuple[bytes, int]:
    """As a gateway reads: check what is present, fill what is not. The bytes, and how many blocks were filled."""
    parts, filled = [], 0
    for index in range(-(-version.size_bytes // BLOCK_BYTES)):
        block = store.open_block(version, index, create=True)
        assert block is not None
        if not block.verify():
            block = fill(store, version, index)
            filled += 1
        parts.append(read_block(store, block))
    return b"".join(parts), filled


def flip(path: Path) -> None:
    raw = path.read_bytes()
    place = random.Random(1).randrange(len(raw))
    change(path, place, bytes([raw[place] ^ 1]))


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    os.truncate(path, 0)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_by_one(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def cut_and_extend(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size // 3)
    os.truncate(path, size)


def garble(path: Path) -> None:
    path.write_bytes(random.Random(2).randbytes(path.stat().st_size))


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(4096))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


DATA_DAMAGE = [flip, remove, empty, halve, cut_by_one, cut_and_extend, garble, make_folder, make_link]
MAP_DAMAGE = [*DATA_DAMAGE, lengthen]
MAP_DAMAGE.remove(make_folder)
MAP_DAMAGE.remove(flip)


@pytest.mark.parametrize("damage", DATA_DAMAGE)
def test_damaged_data_is_found_at_first_use_and_filled_again(node: Node, damage: Callable[[Path], None]) -> None:
    fill_all(node.store(), VERSION)
    node.restart()
    damage(files(node, ".data")[0])
    store = node.store()
    got, filled = read_all(store, VERSION)
    assert got == content(VERSION)
    assert filled >= 1
    assert read_all(store, VERSION)[0] == got, "blocks read before the damage was found are fetched with the rest"
    assert read_all(store, VERSION) == (got, 0)


@pytest.mark.parametrize("damage", MAP_DAMAGE)
def test_a_damaged_map_is_absent_and_made_anew(node: Node, damage: Callable[[Path], None]) -> None:
    fill_all(node.store(), VERSION)
    node.restart()
    damage(files(node, ".map")[0])
    store = node.store()
    assert read_all(store, VERSION) == (content(VERSION), BLOCKS)
    assert read_all(store, VERSION) == (content(VERSION), 0)


def test_a_folder_in_a_maps_place_is_no_crash(node: Node) -> None:
    fill_all(node.store(), VERSION)
    node.restart()
    make_folder(files(node, ".map")[0])
    assert node.store().open_block(VERSION, 0, create=False) is None


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_anywhere_in_a_stopped_cache_never_gives_wrong_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    version = make_version(size=2 * 4096 + 77)
    node = Node(tmp_path_factory.mktemp("disk"))
    store = node.store(block_bytes=4096, segment_bytes=4 * 4096)
    fill_all(store, version)
    node.restart()
    path = data.draw(st.sampled_from(files(node, "")))
    place = data.draw(st.integers(0, path.stat().st_size - 1))
    change(path, place, bytes([path.read_bytes()[place] ^ 1 << data.draw(st.integers(0, 7))]))
    store = node.store(block_bytes=4096, segment_bytes=4 * 4096)
    for index in range(3):
        block = store.open_block(version, index, create=False)
        if block is not None and block.verify():
            assert read_block(store, block) == block_content(version, index, 4096)
    node.close()


def test_a_map_without_rights_is_absent(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_all(node.store(), VERSION)
    node.restart()
    path = files(node, ".map")[0]
    real = os.open
    refused: list[Path] = []

    def refusing(name: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if Path(name) == path and not refused:  # root has every right: the refusal must be made up
            refused.append(name)
            raise PermissionError(13, "Permission denied")
        return real(name, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    store = node.store()
    assert read_all(store, VERSION)[0] == content(VERSION)
    assert refused
    assert not store.disks[0].failed


def test_data_without_rights_is_absent(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_all(node.store(), VERSION)
    node.restart()
    path = files(node, ".data")[0]
    real = os.open

    def refusing(name: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if Path(name) == path:
            raise PermissionError(13, "Permission denied")
        return real(name, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    assert read_all(node.store(), VERSION) == (content(VERSION), BLOCKS)


def test_an_old_map_never_meets_a_new_data_file(node: Node) -> None:
    fill_all(node.store(), VERSION)
    old = files(node, ".map")[0]
    saved = old.read_bytes()
    node.store().discard(VERSION)
    fill(node.store(), VERSION, 3)
    node.restart()
    files(node, ".map")[0].write_bytes(saved)  # as a restored backup
    store = node.store()
    assert read_all(store, VERSION) == (content(VERSION), BLOCKS)


def test_a_map_of_another_object_under_this_name_is_refused(node: Node) -> None:
    other = make_version("other", VERSION.size_bytes)
    fill_all(node.store(), VERSION)
    fill_all(node.store(), other)
    node.restart()
    mine = mapfile.map_path(node.paths[0] / "v1/objects", VERSION.digest, 0)
    theirs = mapfile.map_path(node.paths[0] / "v1/objects", other.digest, 0)
    facts = mapfile.read_map(theirs)
    assert facts is not None
    shutil.copy(theirs, mine)
    shutil.copy(facts.data_path, mapfile.data_path(mine, facts.header.nonce))
    assert node.store().open_block(VERSION, 0, create=False) is None
    assert read_all(node.store(), VERSION)[0] == content(VERSION)


def test_a_bad_block_is_never_written_again_in_the_same_file(node: Node) -> None:
    fill_all(node.store(), VERSION)
    node.restart()
    data = files(node, ".data")[0]
    nonce = data.name.split(".")[-2]
    held = DataFile(os.open(data, os.O_RDONLY))
    change(data, 5, b"bad")
    bad = data.read_bytes()
    store = node.store()
    block = store.open_block(VERSION, 0, create=False)
    assert block is not None
    assert not block.verify()
    assert block.retired
    assert block.reserve() is None
    assert read_all(store, VERSION) == (content(VERSION), BLOCKS)
    assert os.pread(held.fd, len(bad), 0) == bad
    assert files(node, ".data")[0].name.split(".")[-2] != nonce


def test_damage_is_retired_although_another_block_is_being_filled(node: Node) -> None:
    store, other = node.store(), node.store()
    fill(store, VERSION, 0)
    node.tables.close()
    node.restart()
    change(files(node, ".data")[0], 5, b"bad")
    store, other = node.store(), node.store()
    filling = other.open_block(VERSION, 1, create=False)
    assert filling is not None
    writer = filling.reserve()
    assert writer is not None
    writer.write(memoryview(block_content(VERSION, 1))[:1000])
    block = store.open_block(VERSION, 0, create=False)
    assert block is not None
    assert not block.verify()
    assert filling.retired
    writer.write(memoryview(block_content(VERSION, 1))[1000:])
    writer.commit()
    assert read_block(other, filling) == block_content(VERSION, 1), "its readers finish from the file they have"
    assert other.peek_block(VERSION, 1) is None
    assert read_all(other, VERSION) == (content(VERSION), BLOCKS)


def test_a_retirement_that_a_crash_cut_short_is_finished_by_the_next_who_looks(node: Node) -> None:
    fill_all(node.store(), VERSION)
    node.restart()
    change(files(node, ".map")[0], 8 * RETIRED_WORD, b"\x01")
    store = node.store()
    assert store.open_block(VERSION, 0, create=False) is None
    assert not files(node, "")


def test_a_data_file_that_is_removed_while_open_is_still_read_and_not_refilled_as_zeros(node: Node) -> None:
    store, version = node.store(), VERSION
    fill_all(store, version)
    files(node, ".data")[0].unlink()
    assert read_all(store, version) == (content(version), 0)
    assert read_all(node.store(), version) == (content(version), BLOCKS)


@pytest.mark.parametrize("kept", [0, 10, BLOCK_BYTES, 3 * BLOCK_BYTES + 76])
def test_a_data_file_that_is_cut_while_open_is_retired_on_the_next_look(node: Node, kept: int) -> None:
    store = node.store()
    fill_all(store, VERSION)
    os.truncate(files(node, ".data")[0], kept)
    assert store.peek(VERSION, ByteRange(0, VERSION.size_bytes)) is None
    assert read_all(store, VERSION) == (content(VERSION), BLOCKS)


def test_a_cut_data_file_is_not_turned_into_zeros_by_a_fill_behind_the_cut(node: Node) -> None:
    store, version = node.store(), make_version(size=SEGMENT_BYTES)
    fill(store, version, 0)
    block = store.open_block(version, 2, create=True)
    assert block is not None
    writer = block.reserve()
    assert writer is not None
    os.truncate(files(node, ".data")[0], 100)
    with pytest.raises(Exception, match="cut short"):
        writer.write(memoryview(block_content(version, 2)))
    writer.abandon()
    assert store.peek_block(version, 0) is None
    assert block.reserve() is None
    assert read_all(store, version) == (content(version), 4)


def test_a_block_whose_taken_over_bytes_are_gone_retires_its_segment(node: Node) -> None:
    store = node.store()
    block = store.open_block(VERSION, 0, create=True)
    assert block is not None
    writer = block.reserve()
    assert writer is not None
    writer.write(memoryview(block_content(VERSION, 0))[:1000])
    writer.leave()
    del writer, block
    os.truncate(files(node, ".data")[0], 10)
    block = node.store().open_block(VERSION, 0, create=True)
    assert block is not None
    writer = block.reserve()
    assert writer is not None
    with pytest.raises(Exception, match="lost bytes"):
        writer.read_back()
    writer.abandon()
    assert block.retired
    assert read_all(store, VERSION) == (content(VERSION), BLOCKS)
