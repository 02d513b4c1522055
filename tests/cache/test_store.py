"""The store: blocks by version and number, what stays open, what a look costs and finds."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from proxy.blocks import combine_sums, update_sum
from proxy.cache import mapfile
from proxy.cache.blockmap import BlockKind
from proxy.cache.disks import DiskSpec
from proxy.cache.store import DESCRIPTORS_PER_SEGMENT, Store
from proxy.errors import ConfigInvalid, StoreUnavailable
from proxy.objects import ObjectVersion, SumKind
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
    kind,
    make_version,
    read_block,
)

WHOLE = ByteRange(0, make_version().size_bytes)


def read(store: Store, version: ObjectVersion, span: ByteRange) -> bytes | None:
    pieces = store.peek(version, span)
    if pieces is None:
        return None
    return b"".join(os.pread(piece.file.fd, piece.length, piece.offset) for piece in pieces)


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_an_absent_block_is_none_until_it_is_created(node: Node) -> None:
    store = node.store()
    assert store.open_block(make_version(), 0, create=False) is None
    assert store.peek_block(make_version(), 0) is None
    assert not files(node, "")
    assert kind(store.open_block(make_version(), 0, create=True)) is BlockKind.ABSENT


def test_what_was_filled_is_read_back_at_every_offset_and_across_segments(node: Node) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    spans = [
        (0, 1),
        (0, version.size_bytes),
        (BLOCK_BYTES - 1, BLOCK_BYTES + 1),
        (SEGMENT_BYTES - 5, SEGMENT_BYTES + 5),
    ]
    for start, end in [*spans, (version.size_bytes - 1, version.size_bytes), (100, 2 * SEGMENT_BYTES + 7)]:
        assert read(store, version, ByteRange(start, end)) == content(version, start, end)


def test_a_span_gives_one_piece_per_segment_and_an_empty_one_none(node: Node) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    assert len(store.peek(version, WHOLE) or []) == 3
    assert store.peek(version, ByteRange(5, 5)) == []


def test_one_missing_block_makes_the_whole_peek_none(node: Node) -> None:
    store, version = node.store(), make_version()
    for index in (0, 1, 3):
        fill(store, version, index)
    assert store.peek(version, ByteRange(0, 4 * BLOCK_BYTES)) is None
    assert store.peek(version, ByteRange(0, 2 * BLOCK_BYTES)) is not None


def test_versions_never_share_bytes(node: Node) -> None:
    store, first = node.store(), make_version()
    second = ObjectVersion(first.origin, first.bucket, first.key, 'etag "2"', first.size_bytes)
    fill(store, first, 0)
    assert store.open_block(second, 0, create=False) is None
    fill(store, second, 0)
    assert read(store, first, ByteRange(0, 100)) == content(first, 0, 100)
    assert read(store, second, ByteRange(0, 100)) == content(second, 0, 100)


def test_another_process_sees_what_this_one_filled(node: Node) -> None:
    version = make_version()
    fill_all(node.store(), version)
    other = node.store()
    assert other.peek(version, WHOLE) is None, "peek opens nothing"
    for index in range(0, 11, 4):
        other.open_block(version, index, create=False)
    assert read(other, version, WHOLE) == content(version)


def test_keys_of_every_kind_stay_inside_of_the_disk(node: Node, tmp_path: Path) -> None:
    store = node.store()
    for key in ("../../../etc/passwd", "/abs", "a\x00b", "ünï", "k" * 1024, "a//b/./..", "\udcff"):
        version = make_version(key, 100)
        fill(store, version, 0)
        assert read(store, version, ByteRange(0, 100)) == content(version)
    assert len(files(node, ".map")) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


def test_a_restart_keeps_the_blocks_but_checks_them_before_use(node: Node) -> None:
    version = make_version()
    fill_all(node.store(), version)
    node.restart()
    store = node.store()
    block = store.open_block(version, 0, create=False)
    assert block is not None
    assert block.state().kind is BlockKind.PRESENT
    assert not block.state().verified
    assert store.peek(version, ByteRange(0, 10)) is None
    assert block.reserve() is None
    assert block.verify()
    assert block.state().verified
    assert read(store, version, ByteRange(0, 10)) == content(version, 0, 10)


def test_start_up_looks_at_no_object(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_all(node.store(), make_version())
    node.restart()
    opened: list[str] = []
    real = os.open

    def spying(path: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        opened.append(str(path))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", spying)
    monkeypatch.setattr(os, "scandir", lambda *_: pytest.fail("scanned"))
    node.store()
    assert not [path for path in opened if "/objects" in path]


def test_handles_are_bounded_least_lately_used_first(node: Node) -> None:
    store = node.store(max_open_segments=3)
    versions = [make_version(f"model {number}", BLOCK_BYTES) for number in range(6)]
    for version in versions[:3]:
        fill(store, version, 0)
    before = open_descriptors()
    store.peek(versions[0], ByteRange(0, 1))
    for version in versions[3:5]:
        fill(store, version, 0)
    assert store.peek_block(versions[0], 0) is not None, "used lately"
    assert store.peek_block(versions[1], 0) is None
    assert store.peek_block(versions[2], 0) is None
    for version in versions:
        fill(store, version, 0) if version is versions[5] else store.open_block(version, 0, create=False)
    assert store.report()["open_segments"] == 3
    assert open_descriptors() == before


def test_a_segment_with_a_live_writer_is_not_dropped(node: Node) -> None:
    store = node.store(max_open_segments=2)
    filling = store.open_block(make_version("filling"), 0, create=True)
    assert filling is not None
    writer = filling.reserve()
    assert writer is not None
    for number in range(5):
        fill(store, make_version(f"other {number}"), 0)
    assert store.peek_block(make_version("filling"), 0) is not None
    writer.abandon()
    for number in range(5):
        store.open_block(make_version(f"other {number}"), 0, create=False)
    assert store.peek_block(make_version("filling"), 0) is None


def test_pieces_stay_readable_after_the_store_has_closed(node: Node) -> None:
    store, version = node.store(), make_version()
    fill_all(store, version)
    pieces = store.peek(version, ByteRange(0, BLOCK_BYTES))
    assert pieces is not None
    before = open_descriptors()
    store.close()
    assert os.pread(pieces[0].file.fd, BLOCK_BYTES, pieces[0].offset) == block_content(version, 0)
    del pieces
    assert open_descriptors() <= before - 3 * DESCRIPTORS_PER_SEGMENT


def test_a_segment_retired_elsewhere_is_dropped_on_use(node: Node) -> None:
    store, version = node.store(), make_version()
    fill(store, version, 0)
    mapfile.retire(files(node, ".map")[0], None, "space")
    assert store.peek(version, ByteRange(0, 1)) is None
    assert store.peek_block(version, 0) is None
    assert store.open_block(version, 0, create=False) is None
    assert kind(fill(store, version, 0)) is BlockKind.PRESENT


def test_a_tick_closes_the_handles_of_retired_segments(node: Node) -> None:
    store = node.store()
    before = open_descriptors()
    for number in range(4):
        fill(store, make_version(f"model {number}"), 0)
    for path in files(node, ".map"):
        mapfile.retire(path, None, "space")
    store.tick()
    assert open_descriptors() == before
    assert store.report()["open_segments"] == 0


def test_a_look_marks_the_segment_as_visited(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.cache.segment.FIRST_LOAD_S", 0.0)
    store, version = node.store(), make_version()
    fill(store, version, 0)
    facts = mapfile.read_map(files(node, ".map")[0])
    assert facts is not None
    mapfile.clear_visited(facts)
    assert mapfile.read_map(facts.path).visited is False  # type: ignore[union-attr]
    store.peek(version, ByteRange(0, 1))
    assert mapfile.read_map(facts.path).visited is True  # type: ignore[union-attr]


def test_discard_gives_up_every_segment_in_every_process(node: Node) -> None:
    store, other, version = node.store(), node.store(), make_version()
    fill_all(store, version)
    block = other.open_block(version, 9, create=False)
    assert block is not None
    store.discard(version)
    assert block.retired
    assert not files(node, "")
    assert store.open_block(version, 0, create=False) is None
    assert other.open_block(version, 9, create=False) is None


@pytest.mark.parametrize("second", [SumKind.CRC32, SumKind.CRC64NVME])
def test_the_whole_objects_sum_is_combined_from_its_blocks(
    node: Node, second: SumKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, version = node.store(), make_version()
    for number in range(0, 11, 4):
        store.open_block(version, number, create=True, sums=(SumKind.CRC32C, second))
    for index in range(10):
        fill(store, version, index, start=(index % 3) * (64 << 10))
    assert store.combined_sum(version, SumKind.CRC32C) is None, "a block is missing"
    fill(store, version, 10)
    for one in (SumKind.CRC32C, second):
        assert store.combined_sum(version, one) == update_sum(one, memoryview(content(version)))
    other = next(one for one in SumKind if one not in (SumKind.CRC32C, second))
    with monkeypatch.context() as patch:
        patch.setattr("proxy.cache.store.SUM_READ_BYTES_MAX", version.size_bytes - 1)
        assert store.combined_sum(version, other) is None, "not kept, and too much to read"
    assert store.combined_sum(version, other) == update_sum(other, memoryview(content(version)))
    node.restart()
    assert node.store().combined_sum(version, second) == update_sum(second, memoryview(content(version)))


def test_an_empty_object_has_the_sum_of_nothing(node: Node) -> None:
    for one in SumKind:
        total = node.store().combined_sum(make_version("empty", 0), one)
        assert total == update_sum(one, memoryview(b""))
        assert combine_sums(one, total, 5, 3) == 5


@pytest.mark.parametrize("second", [SumKind.CRC32, SumKind.CRC64NVME])
def test_a_kind_of_sum_announced_late_is_kept_from_then_on_and_read_back_for_what_came_before(
    node: Node, second: SumKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other, version = node.store(), node.store(), make_version()
    for number in range(0, 11, 4):
        store.open_block(version, number, create=True)
    block = store.open_block(version, 1, create=True)
    assert block is not None
    begun = block.reserve()
    assert begun is not None
    fill(store, version, 0)
    store.keep_sums(version, second)
    begun.write(memoryview(block_content(version, 1)))
    begun.commit()
    for index in range(2, 11):
        fill(other, version, index, start=64 << 10 if index < 10 else 0)
    whole = update_sum(second, memoryview(content(version)))
    with monkeypatch.context() as patch:
        patch.setattr("proxy.cache.store.SUM_READ_BYTES_MAX", 2 * store.block_bytes)
        assert store.combined_sum(version, second) == whole
        patch.setattr("proxy.cache.store.SUM_READ_BYTES_MAX", 0)
        assert other.combined_sum(version, second) == whole, "what was read back is kept"


def test_a_late_kind_of_sum_does_not_displace_another(node: Node) -> None:
    store, version = node.store(), make_version()
    for number in range(0, 11, 4):
        store.open_block(version, number, create=True, sums=(SumKind.CRC32,))
    block = store.open_block(version, 0, create=True)
    assert block is not None
    writer = block.reserve()
    assert writer is not None
    store.keep_sums(version, SumKind.CRC64NVME)
    writer.write(memoryview(block_content(version, 0)))
    writer.commit()
    for index in range(1, 11):
        fill(store, version, index)
    for one in SumKind:
        assert store.combined_sum(version, one) == update_sum(one, memoryview(content(version)))


def test_a_lost_second_sum_is_mended_when_its_block_is_checked(node: Node) -> None:
    store, version = node.store(), make_version("m", BLOCK_BYTES)
    store.open_block(version, 0, create=True, sums=(SumKind.CRC64NVME,))
    fill(store, version, 0)
    node.restart()
    path = files(node, ".map")[0]
    raw = path.read_bytes()
    with path.open("r+b") as file:  # as a crash of the machine may leave it: the word written, the sum not
        file.seek(len(raw) - 8)
        file.write(bytes(8))
    store = node.store()
    block = store.open_block(version, 0, create=False)
    assert block is not None
    assert block.verify()
    assert store.combined_sum(version, SumKind.CRC64NVME) == update_sum(SumKind.CRC64NVME, memoryview(content(version)))


def test_segments_spread_over_the_disks_by_their_sizes_and_are_found_again(tmp_path: Path) -> None:
    node = Node(tmp_path / "one", tmp_path / "two")
    settings = [DiskSpec(tmp_path / "one", 3 << 30), DiskSpec(tmp_path / "two", 1 << 30)]

    def store(order: int, writer_id: str) -> Store:
        made = Store(
            settings[::order],
            block_bytes=1 << 16,
            run_id="r",
            writer_id=writer_id,
            tables=node.tables,
            max_open_segments=9,
        )
        node.stores.append(made)
        return made

    first = store(1, "a")
    versions = [make_version(f"m{number}", 10) for number in range(200)]
    fill_all_of = [fill(first, version, 0) for version in versions]
    assert len(fill_all_of) == 200
    counts = [len(list(setting.path.glob("v1/objects/*/*.map"))) for setting in settings]
    assert sum(counts) == 200
    assert 110 < counts[0] < 190, "three quarters of the room, three quarters of the segments"
    second = store(-1, "b")
    assert all(second.open_block(version, 0, create=False) for version in versions)
    node.close()


def test_a_segment_is_found_on_a_disk_that_is_no_longer_its_first(node_of_three: Node) -> None:
    versions = [make_version(f"m{number}", 10) for number in range(30)]
    paths = node_of_three.paths
    node_of_three.paths = paths[:1]
    first = node_of_three.store()
    for version in versions:
        fill(first, version, 0)
    node_of_three.restart()
    node_of_three.paths = paths
    second = node_of_three.store()
    assert all(second.open_block(version, 0, create=True) for version in versions)
    assert len(files(node_of_three, ".map")) == 30


def test_no_disk_at_all_is_a_configuration_error(node: Node) -> None:
    node.paths = []
    with pytest.raises(ConfigInvalid, match=r"cache\.disks"):
        node.store()


def test_a_report_names_disks_and_figures(node: Node) -> None:
    store = node.store()
    report = store.report()
    assert report["block_bytes"] == BLOCK_BYTES
    assert report["disks"] == [{"path": str(node.paths[0]), "size_bytes": 1 << 40, "used_bytes": None, "failed": False}]
    assert store.disks_writable()
    store.disks[0].fail(OSError(5, "Input/output error"))
    assert not store.disks_writable()


def test_names_too_long_to_keep_are_read_uncached(node: Node) -> None:
    with pytest.raises(StoreUnavailable, match="too long"):
        node.store().open_block(make_version("k" * 70_000), 0, create=True)
    assert not files(node, "")


def test_blocks_of_the_smallest_and_the_largest_size_work(tmp_path: Path) -> None:
    for number, block_bytes in enumerate((1, 16 << 20)):
        node = Node(tmp_path / str(number))
        store = node.store(block_bytes=block_bytes, segment_bytes=2 * block_bytes)
        version = make_version(size=2 * block_bytes + 1)
        for index in range(3):
            block = fill(store, version, index)
            assert read_block(store, block) == block_content(version, index, block_bytes)
        node.close()
