"""Scrubbing: bits that rot while the gateway runs are found, and nothing else is touched."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from proxy.cache import mapfile
from proxy.cache.scrub import COST_BYTES_MIN, Scrubber
from proxy.cache.store import Store
from proxy.objects import ObjectVersion
from proxy.ranges import ByteRange
from tests.cache.nodes import BLOCK_BYTES, Node, clear_leaving, files, fill, fill_all, make_version, read_block


def scrub(store: Store) -> int:
    """One pass; the bytes that it cost."""
    return sum(Scrubber(store.disks[0]).steps())


def failures() -> float:
    return REGISTRY.get_sample_value("warmstart_checksum_failures_total", {"where": "scrub"}) or 0.0


def data_of(store: Store, version: ObjectVersion, segment: int) -> Path:
    facts = mapfile.read_map(mapfile.map_path(store.disks[0].objects, version.digest, segment))
    assert facts is not None
    return facts.data_path


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def test_sound_segments_are_read_in_full_and_stay(node: Node) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    before = failures()
    assert scrub(store) >= version.size_bytes
    assert failures() == before
    assert len(files(node, ".map")) == 3
    assert store.peek(version, ByteRange(0, version.size_bytes)) is not None


@pytest.mark.parametrize("offset", [0, BLOCK_BYTES - 1, 3 * BLOCK_BYTES + 4097])
def test_a_flipped_bit_retires_its_segment_alone(node: Node, offset: int) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    before, used = failures(), node.tables.usage.net(0)
    flip(data_of(store, version, 1), offset)
    scrub(store)
    assert failures() == before + 1
    assert [path.name.split(".")[1] for path in files(node, ".map")].count("1") == 0
    assert len(files(node, ".map")) == len(files(node, ".data")) == 2
    store.tick()
    clear_leaving(store)
    assert node.tables.usage.net(0) < used
    first = 4 * BLOCK_BYTES
    assert store.peek(version, ByteRange(first, first + 1)) is None, "nor is it served from an open handle"
    assert store.peek(version, ByteRange(0, first)) is not None


def test_the_last_short_block_is_checked_to_its_last_byte(node: Node) -> None:
    store, version = node.store(), make_version(size=BLOCK_BYTES + 1234)
    fill_all(store, version)
    scrub(store)
    assert len(files(node, ".map")) == 1
    flip(data_of(store, version, 0), BLOCK_BYTES + 1233)
    scrub(store)
    assert files(node, ".map") == []


def test_a_shortened_file_is_found(node: Node) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    os.truncate(data_of(store, version, 0), 4 * BLOCK_BYTES - 1)
    before = failures()
    scrub(store)
    assert failures() == before + 1
    assert len(files(node, ".map")) == 2


def test_only_present_blocks_are_read(node: Node) -> None:
    store, version = node.store(), make_version()
    fill(store, version, 2)
    filling = store.open_block(version, 1, create=True)
    assert filling is not None
    writer = filling.reserve()
    assert writer is not None
    assert writer.write(memoryview(bytes(70_000))) is None
    before = failures()
    assert BLOCK_BYTES <= scrub(store) < 2 * BLOCK_BYTES
    assert failures() == before
    writer.abandon()


def test_blocks_of_an_earlier_run_are_checked_too(node: Node) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    data = data_of(store, version, 0)
    node.restart()
    flip(data, 5)
    scrub(node.store())
    assert len(files(node, ".map")) == 2


def test_a_segment_made_anew_during_the_check_is_left_alone(node: Node) -> None:
    store, version = node.store(), make_version(size=8 * BLOCK_BYTES)
    fill_all(store, version)
    path = mapfile.map_path(store.disks[0].objects, version.digest, 0)
    flip(data_of(store, version, 0), 3 * BLOCK_BYTES)
    before = failures()
    for cost_bytes in Scrubber(store.disks[0]).steps():
        facts = mapfile.read_map(path)
        if cost_bytes and facts is not None and facts.header.nonce.hex() in "".join(map(str, files(node, ".data"))):
            mapfile.retire(path, None, "space")
            store.tick()
            fill(store, version, 3)
            break
    scrub(store)
    assert failures() == before
    block = store.open_block(version, 3, create=False)
    assert block is not None
    assert read_block(store, block)


def test_odd_block_sizes_are_read_through_the_cache(node: Node) -> None:
    store = node.store(block_bytes=100_000, segment_bytes=400_000)
    version = make_version(size=250_001)
    fill_all(store, version)
    scrub(store)
    assert len(files(node, ".map")) == 1
    flip(data_of(store, version, 0), 250_000)
    scrub(store)
    assert files(node, ".map") == []


def test_without_direct_reads_the_cache_is_read(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    really_open, refused = os.open, []

    def refuse_direct(path: Path, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            refused.append(path)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return really_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse_direct)
    flip(data_of(store, version, 2), 7)
    scrub(store)
    assert len(refused) == 3
    assert len(files(node, ".map")) == 2


def test_small_reads_cost_more_than_their_bytes(node: Node) -> None:
    store = node.store()
    for number in range(10):
        fill_all(store, make_version(f"model {number}", 100))
    assert scrub(store) == 10 * COST_BYTES_MIN


def test_missing_and_unreadable_data_is_left_to_others(node: Node) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    data_of(store, version, 0).unlink()
    link = data_of(store, version, 1)
    link.rename(link.with_name("elsewhere"))
    link.symlink_to(link.with_name("elsewhere"))
    before = failures()
    scrub(store)
    assert failures() == before


def failing_reads(monkeypatch: pytest.MonkeyPatch, code: int, *, first: int) -> None:
    """The first so many reads of data fail."""
    really_read, left = os.preadv, [first]

    def read(fd: int, buffers: list[memoryview], offset: int) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(code, os.strerror(code))
        return really_read(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", read)


def test_an_io_error_is_the_disks(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    store = node.store()
    fill_all(store, make_version())
    failing_reads(monkeypatch, errno.EIO, first=1)
    scrub(store)
    assert store.disks[0].failed
    assert len(files(node, ".map")) == 2, "what it touched is given up, and the pass ends"


def test_a_disk_without_room_for_what_it_has_taken_loses_the_segment_and_the_pass_goes_on(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    failing_reads(monkeypatch, errno.ENOSPC, first=1)
    assert 0 < scrub(store) < version.size_bytes
    assert not store.disks[0].failed
    assert len(files(node, ".map")) == 2
    assert node.lost_segments() == 1
