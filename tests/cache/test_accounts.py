"""The account of a disk is what lies on it, whatever happens in which order, and nothing is counted twice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from proxy.blocks import BLOCK_BYTES_MAX, START_STEP_BYTES
from proxy.cache import locks, mapfile
from proxy.cache.accounts import on_disk
from proxy.cache.block import Block
from proxy.cache.blockmap import (
    ABSENT_ALLOCATED_WORD,
    ABSENT_WORD,
    BlockKind,
    charged_bytes,
    is_allocated,
    pack_filling,
    pack_present,
    read_state,
)
from proxy.cache.leaving import AGAIN_S, Leaving
from proxy.cache.recordsweep import RecordSweep
from proxy.cache.scan import DiskScan, folder_bytes
from proxy.cache.store import Store
from proxy.cache.writer import SegmentWriter
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion
from tests.cache.nodes import (
    BLOCK_BYTES,
    KIB,
    SEGMENT_BYTES,
    Node,
    block_content,
    clear_leaving,
    files,
    fill,
    fill_all,
    make_version,
    scan_disk,
)

VERSION = make_version()


def in_files(node: Node) -> int:
    """What lies in the files of the disk, but for the layout."""
    root = node.paths[0] / "v1"
    return sum(path.lstat().st_blocks * 512 for path in root.rglob("*") if path.is_file() and path.parent != root)


def opened(store: Store, version: ObjectVersion = VERSION, index: int = 0) -> Block:
    block = store.open_block(version, index, create=True)
    assert block is not None
    return block


def reserved(block: Block, start: int = 0, first_bytes: int | None = None) -> SegmentWriter:
    writer = block.reserve(start, first_bytes)
    assert writer is not None
    return writer


@given(
    st.integers(1, BLOCK_BYTES_MAX), st.integers(0, 255), st.integers(0, BLOCK_BYTES_MAX), st.booleans(), st.booleans()
)
def test_a_word_is_charged_with_no_more_than_its_block_and_no_less_than_its_progress(
    length: int, step: int, progress: int, allocated: bool, other_run: bool
) -> None:
    start, progress = (
        min(step * START_STEP_BYTES, (length - 1) // START_STEP_BYTES * START_STEP_BYTES),
        min(progress, length),
    )
    word = pack_filling(2 if other_run else 1, start, progress, allocated=allocated)
    charge = charged_bytes(word, length)
    assert charge <= on_disk(length)
    assert charge >= min(progress, BLOCK_BYTES_MAX - 1)
    assert charge < progress + 2 * 4096 or allocated
    assert is_allocated(word) == allocated
    assert read_state(word, 1, length).kind is (BlockKind.ABSENT if other_run else BlockKind.FILLING)


def test_words_of_blocks_that_are_not_filling_are_charged_with_all_or_nothing() -> None:
    assert charged_bytes(ABSENT_WORD, 5000) == 0
    assert charged_bytes(ABSENT_ALLOCATED_WORD, 5000) == charged_bytes(pack_present(7, 1), 5000) == 8192
    assert read_state(ABSENT_ALLOCATED_WORD, 1, 5000).kind is BlockKind.ABSENT


def test_a_small_reads_fill_that_steps_back_is_charged_with_what_it_wrote(node: Node) -> None:
    store, usage = node.store(), node.tables.usage
    block = opened(store)
    before = usage.net(0)
    writer = reserved(block, 64 * KIB, first_bytes=4 * KIB)
    assert usage.net(0) == before + BLOCK_BYTES, "under way it may become whole"
    writer.write(memoryview(block_content(VERSION, 0)[64 * KIB : 68 * KIB]))
    writer.leave()
    assert usage.net(0) == before + 4 * KIB
    assert in_files(node) == usage.net(0)
    successor = reserved(opened(node.store()))
    assert usage.net(0) == before + BLOCK_BYTES
    successor.read_back()
    content = block_content(VERSION, 0)
    successor.write(memoryview(content[68 * KIB :] + content[: 64 * KIB]))
    successor.commit()
    assert usage.net(0) == before + BLOCK_BYTES
    assert in_files(node) == usage.net(0)


def test_what_was_written_and_given_up_stays_charged_until_its_segment_goes(node: Node) -> None:
    store, usage = node.store(), node.tables.usage
    block = opened(store)
    before = usage.net(0)
    writer = reserved(block)
    writer.write(memoryview(bytes(10_000)))
    writer.abandon()
    assert usage.net(0) == before + BLOCK_BYTES
    assert block.state().kind is BlockKind.ABSENT
    fill(store, VERSION, 0)
    assert usage.net(0) == before + BLOCK_BYTES, "not once more"
    store.discard(VERSION)
    del block, writer
    clear_leaving(store)
    assert usage.net(0) == 0


FILL_AND_HANG = """
version = make_version()
writer = store.open_block(version, 0, create=True).reserve()
writer.write(memoryview(block_content(version, 0)[:10_000]))
say("written")
sys.stdin.read()
"""


def test_a_killed_fill_stays_charged_and_is_taken_over_or_evicted_with_nothing_left(node: Node) -> None:
    process = node.spawn(FILL_AND_HANG)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.kill()
    process.communicate()
    usage = node.tables.usage
    assert usage.net(0) == BLOCK_BYTES + 4 * KIB
    charge = mapfile.retire(files(node, ".map")[0], None, "space")
    store = node.store()
    store.disks[0].retired(charge or 0, VERSION.digest[0])
    clear_leaving(store)
    assert usage.net(0) == 0
    assert in_files(node) == 0


READ_AND_HANG = """
block = store.open_block(make_version(), 0, create=False)
piece = block.piece(0, 1)
del block
store.close()
say("open")
sys.stdin.read()
"""


def test_an_evicted_file_counts_until_the_last_process_that_reads_it_has_closed_it_or_died(node: Node) -> None:
    store = node.store()
    fill_all(store, VERSION)
    store.close()
    readers = [node.spawn(READ_AND_HANG) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
    leaving, now_s = Leaving(store.disks[0], lambda: now_s), 100.0
    for path in files(node, ".map"):
        store.disks[0].retired(mapfile.retire(path, None, "space") or 0, VERSION.digest[0])
    leaving.clear()
    assert node.tables.usage.net(0) == leaving.open_bytes == SEGMENT_BYTES + 4 * KIB == in_files(node)
    readers[0].communicate("")
    now_s += 2 * AGAIN_S
    leaving.clear()
    assert leaving.open_bytes == SEGMENT_BYTES + 4 * KIB
    readers[1].kill()
    readers[1].communicate()
    now_s += 2 * AGAIN_S
    leaving.clear()
    assert node.tables.usage.net(0) == leaving.open_bytes == in_files(node) == 0


def test_what_a_killed_gateway_left_on_its_way_out_goes_at_the_next_start(node: Node) -> None:
    store = node.store()
    fill(store, VERSION, 0)
    mapfile.retire(files(node, ".map")[0], None, "space")
    node.restart()
    store = node.store()
    scan_disk(store, node.tables)
    assert store.disks[0].used_bytes == in_files(node) + folder_bytes(store.disks[0])
    clear_leaving(store)
    assert in_files(node) == 0
    assert store.disks[0].used_bytes == folder_bytes(store.disks[0])


def test_a_file_that_is_being_unlinked_is_opened_by_nobody(node: Node) -> None:
    store = node.store()
    fill(store, VERSION, 0)
    store.close()
    fd = locks.open_for_locking(files(node, ".data")[0])
    assert locks.try_lock(fd, 0, locks.TO_THE_END)
    late = node.store()
    assert late.open_block(VERSION, 0, create=False) is None
    os.close(fd)


class Disk(RuleBasedStateMachine):
    """Two processes fill, stop, evict, write records and scan one disk, in any order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.node = Node(path)
        self.stores: list[Store] = []
        self.writers: list[SegmentWriter] = []
        self.scanning: tuple[DiskScan, object] | None = None

    @initialize()
    def begin(self) -> None:
        self.stores = [self.node.store(), self.node.store()]
        self.disk = self.stores[0].disks[0]
        self.leaving = Leaving(self.disk, time.monotonic)
        self.sweep = RecordSweep(self.disk, self.stores[0].disks, self.node.tables, SEGMENT_BYTES)

    @rule(
        which=st.integers(0, 1),
        name=st.integers(0, 3),
        index=st.integers(0, 5),
        start=st.integers(0, 3),
        first=st.sampled_from([None, 1, 4096, 70_000]),
    )
    def reserve(self, which: int, name: int, index: int, start: int, first: int | None) -> None:
        block = opened(self.stores[which], make_version(f"model {name}", 6 * BLOCK_BYTES), index)
        writer = block.reserve(start * START_STEP_BYTES, first)
        if writer is not None:
            if writer.needs_read_back:
                writer.read_back()
            self.writers.append(writer)

    @rule(number=st.integers(0, 20), share=st.sampled_from([0.0, 0.01, 0.4, 1.0]), how=st.integers(0, 2))
    def go_on(self, number: int, share: float, how: int) -> None:
        if not self.writers:
            return
        writer = self.writers.pop(number % len(self.writers))
        left = writer.length - writer.progress
        writer.write(memoryview(bytes(int(left * share))))
        if writer.progress == writer.length:
            writer.commit()
        elif how == 0:
            writer.leave()
        elif how == 1:
            writer.abandon()
        else:
            self.writers.append(writer)

    @rule(name=st.integers(0, 3), segment=st.integers(0, 1), force=st.booleans())
    def retire(self, name: int, segment: int, force: bool) -> None:
        version = make_version(f"model {name}", 6 * BLOCK_BYTES)
        path = mapfile.map_path(self.disk.objects, version.digest, segment)
        charge = mapfile.retire(path, None, "space", force=force)
        self.disk.retired(charge or 0, version.digest[0])

    @rule(name=st.integers(0, 9), extra=st.sampled_from([10, 5000]))
    def record(self, name: int, extra: int) -> None:
        version = make_version(f"model {name}", 6 * BLOCK_BYTES)
        key = ObjectKey(version.origin, version.bucket, version.key)
        record = ObjectRecord(version, '"1"', 1.0, (("x", "y" * extra),), 2.0)
        assert self.stores[0].keys.install(key, record, self.node.tables.tokens.peek(key))

    @rule(name=st.integers(0, 9))
    def forget(self, name: int) -> None:
        version = make_version(f"model {name}", 6 * BLOCK_BYTES)
        self.stores[1].keys.remove(ObjectKey(version.origin, version.bucket, version.key))

    @rule(name=st.integers(0, 9))
    def drop_record(self, name: int) -> None:
        self.sweep.remove_of(make_version(f"model {name}", 6 * BLOCK_BYTES))

    @rule()
    def let_go(self) -> None:
        for store in self.stores:
            store.tick()
        self.leaving.clear()

    @rule(folders=st.integers(1, 300))
    def scan(self, folders: int) -> None:
        if self.scanning is None:
            made = DiskScan(self.disk, self.sweep, self.node.tables)
            self.scanning = made, made.steps()
        steps = self.scanning[1]
        for _ in range(folders):
            if next(steps, self) is self:  # type: ignore[call-overload]
                self.scanning = None
                break

    @invariant()
    def the_account_covers_the_disk(self) -> None:
        if not self.stores:
            return
        used = self.disk.used_bytes
        charged = self.node.tables.usage.net(0) if used is None else used
        slack = 0 if used is None else 600 * 4096  # folders made since the last scan
        assert in_files(self.node) <= charged + slack

    def teardown(self) -> None:
        if not self.stores:
            return
        while self.writers:
            self.writers.pop().leave()
        for number in range(4):
            for segment in range(2):
                self.retire(number, segment, True)
        for number in range(10):
            self.forget(number)
        for store in self.stores:
            store.tick()
        clear_leaving(self.stores[0])
        used = self.disk.used_bytes
        left = self.node.tables.usage.net(0) if used is None else used - folder_bytes(self.disk)
        assert in_files(self.node) == 0
        assert abs(left) <= (0 if used is None else 64 * KIB), "what was added and what was taken off differ"
        self.node.close()


def test_whatever_happens_in_which_order_the_account_is_the_disk(tmp_path: Path) -> None:
    numbers = iter(range(10_000))
    run_state_machine_as_test(
        lambda: Disk(tmp_path / f"disk {next(numbers)}"),  # type: ignore[arg-type]
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.long
def test_whatever_happens_in_which_order_the_account_is_the_disk_at_length(tmp_path: Path) -> None:
    numbers = iter(range(100_000))
    run_state_machine_as_test(
        lambda: Disk(tmp_path / f"disk {next(numbers)}"),  # type: ignore[arg-type]
        settings=settings(
            max_examples=400, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
