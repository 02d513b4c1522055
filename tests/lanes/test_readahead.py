"""What the disk is asked for ahead of its readers: a policy without a disk."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.lanes.readahead import FILES_MAX, FULL_WINDOWS, WINDOW_BYTES_MIN, DiskReadAhead, ReadAheadWindow

MIB = 1 << 20
STEP = MIB // 2
WINDOW = 8 * MIB


@dataclass(frozen=True)
class File:
    number: int = 3

    def fileno(self) -> int:
        return self.number


def read(ahead: ReadAheadWindow, start: int, end: int) -> list[range]:
    """What is asked for while a reader goes over a piece, step by step."""
    asked = [ahead.next(offset) for offset in range(start, end, STEP)]
    return [span for span in asked if span is not None]


def covered(spans: list[range]) -> set[int]:
    """The half megabytes that were asked for."""
    return {step for span in spans for step in range(span.start // STEP, -(-span.stop // STEP))}


def piece(reads: DiskReadAhead, file: File, start: int, end: int) -> list[range]:
    """A whole piece of a file whose pages are missing."""
    ahead = reads.follow(file, start, end) or reads.begin(file, start, end)
    try:
        return read(ahead, start, end)
    finally:
        ahead.leave()


def test_a_file_of_which_nothing_is_missing_is_not_followed() -> None:
    reads = DiskReadAhead()
    assert reads.follow(File(), 0, MIB) is None
    known = File(4)
    reads.begin(known, 0, MIB).leave()
    assert reads.follow(File(), 0, MIB) is None
    assert reads.follow(File(4), 0, MIB) is None, "another file, with that descriptor's number"


def test_a_long_piece_is_asked_for_once_and_a_window_ahead_at_most() -> None:
    ahead = DiskReadAhead(WINDOW).begin(File(), 0, 100 * MIB)
    end = 0
    for offset in range(0, 100 * MIB, STEP):
        span = ahead.next(offset)
        if span is not None:
            assert span.start == end
            assert len(span) >= WINDOW // 2 or span.stop == 100 * MIB
            end = span.stop
        assert end > offset, "a reader never arrives where nothing was asked for"
        assert offset + WINDOW // 2 <= end <= offset + WINDOW or end == 100 * MIB
    assert end == 100 * MIB


@pytest.mark.parametrize("size", [4096, STEP, MIB, 8 * MIB])
def test_random_readers_ask_for_what_they_read_and_no_more(size: int) -> None:
    reads, source = DiskReadAhead(WINDOW), random.Random(size)
    numbers = list(range(0, 2000, 2))  # no two are neighbours
    source.shuffle(numbers)
    for number in numbers:
        spans = piece(reads, File(), number * size, (number + 1) * size)
        assert [(span.start, span.stop) for span in spans] == [(number * size, (number + 1) * size)]


def test_neighbours_by_chance_cost_little() -> None:
    reads, source = DiskReadAhead(WINDOW), random.Random(1)
    numbers = list(range(2048))
    source.shuffle(numbers)
    asked = sum(len(span) for number in numbers for span in piece(reads, File(), number * MIB, (number + 1) * MIB))
    assert asked <= 1.02 * 2048 * MIB


def test_range_after_range_keeps_half_a_window_on_its_way_across_them() -> None:
    reads, file, asked = DiskReadAhead(WINDOW), File(), 0
    for number in range(20):
        start, end = number * 8 * MIB, (number + 1) * 8 * MIB
        ahead = reads.follow(file, start, end) or reads.begin(file, start, end)
        for offset in range(start, end, STEP):
            span = ahead.next(offset)
            if span is not None:
                assert span.start == asked, "asked for once"
                asked = span.stop
            assert asked >= (offset + WINDOW // 2 if number >= 3 else min(end, offset + WINDOW // 2))
            assert asked <= offset + WINDOW
        ahead.leave()


def test_small_ranges_in_order_grow_what_lies_ahead_to_a_window() -> None:
    reads, ahead = DiskReadAhead(WINDOW), []
    asked = 0
    for number in range(64):
        start = number * STEP
        for span in piece(reads, File(), start, start + STEP):
            asked = max(asked, span.stop)
        ahead.append(asked - start - STEP)
    assert ahead[:2] == [0, 0]
    assert max(ahead) <= WINDOW
    assert min(ahead[40:]) >= WINDOW // 2 - STEP


@given(st.integers(1, 8), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_connections_that_share_out_ranges_are_one_stream(connections: int, seed: int) -> None:
    """Each takes the next range; they advance at random. All is asked for, little twice, a window beyond at most."""
    reads, file, source = DiskReadAhead(WINDOW), File(), random.Random(seed)
    ranges = iter(range(40))
    running: list[tuple[ReadAheadWindow, int, int]] = []
    asked: list[range] = []
    last = 0
    while True:
        while len(running) < connections and (number := next(ranges, None)) is not None:
            start, last = number * 8 * MIB, (number + 1) * 8 * MIB
            running.append((reads.follow(file, start, last) or reads.begin(file, start, last), start, last))
        if not running:
            break
        ahead, offset, end = running.pop(source.randrange(len(running)))
        if (span := ahead.next(offset)) is not None:
            asked.append(span)
            assert span.stop <= last + WINDOW
        if offset + STEP < end:
            running.append((ahead, offset + STEP, end))
        else:
            ahead.leave()
    steps = [step for span in asked for step in covered([span])]
    assert covered(asked) >= set(range(40 * 8 * MIB // STEP))
    assert len(steps) <= 1.1 * len(set(steps))


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 40)), min_size=1, max_size=60), st.integers(0, 16))
@settings(deadline=None)
def test_whatever_is_read_is_asked_for_first_and_never_far_beyond(pieces: list[tuple[int, int]], window: int) -> None:
    reads = DiskReadAhead(window * MIB)
    before: set[int] = set()
    for start_step, steps in pieces:
        start, end = start_step * STEP, (start_step + steps) * STEP
        spans = piece(reads, File(), start, end)
        assert all(start <= span.start < span.stop <= end + window * MIB for span in spans)
        if window >= 1:
            assert covered(spans) | before >= set(range(start_step, start_step + steps))
        else:
            assert not spans
        before |= covered(spans)


def test_many_readers_get_smaller_windows_that_add_up_to_the_same() -> None:
    reads = DiskReadAhead(WINDOW)
    reaches = [reads.begin(File(number), 0, 100 * MIB) for number in range(16)]
    assert reads.window_bytes == FULL_WINDOWS * WINDOW // 16
    reaches += [reads.begin(File(number), 0, 100 * MIB) for number in range(1000)]
    assert reads.window_bytes == WINDOW_BYTES_MIN
    for ahead in reaches:
        ahead.leave()
    assert reads.window_bytes == WINDOW


def test_a_file_that_is_in_memory_again_is_forgotten() -> None:
    reads, file = DiskReadAhead(WINDOW), File()
    first = reads.begin(file, 0, MIB)
    first.found(True)
    first.found(False)
    first.found(True)
    assert reads.follow(file, 0, MIB) is not None
    first.found(True)
    assert reads.follow(file, 0, MIB) is None


def test_files_are_remembered_within_a_bound() -> None:
    reads = DiskReadAhead(WINDOW)
    files = [File(number) for number in range(FILES_MAX + 10)]
    for file in files:
        reads.begin(file, 0, MIB).leave()
    known = [file.number for file in files if reads.follow(file, MIB, 2 * MIB) is not None]
    assert known == [file.number for file in files[10:]]
