"""The memory that a node's processes share: a roster is read whole or not at all, whoever dies while writing it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from proxy.fleet.state import (
    FILLS,
    HITS,
    ROSTER_BYTES_MAX,
    ROW_COUNT,
    ROW_WORDS,
    SENT_BYTES,
    SLOT_COUNT,
    UPLOADS,
    Board,
)

# Publishes rosters of one letter each, as fast as it can, and says when it has begun.
WRITER = """
import sys
import time
from proxy.fleet.state import Board
board = Board.attach(int(sys.argv[1]))
number = 0
while True:
    letter = b"abcdefghijklmnopqrstuvwxyz"[number % 26:number % 26 + 1]
    board.publish_roster(letter * (50_000 + number % 7 * 20_000))
    number += 1
    time.sleep(0.001)
    if number == 3:
        print("begun", flush=True)
"""


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create()
    yield board
    board.close()


def start_writer(board: Board) -> subprocess.Popen[bytes]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(board.fd)], pass_fds=[board.fd], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"begun\n"
    return writer


def kill(writer: subprocess.Popen[bytes]) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert writer.stdout is not None
    writer.stdout.close()


def test_nothing_is_there_before_the_first_roster(board: Board) -> None:
    assert board.read_roster() is None
    assert board.sequence == 0


def test_a_roster_is_read_as_it_was_published_and_its_number_changes(board: Board) -> None:
    numbers = set()
    for text in (b"one", b"", b"a longer one", b"x" * ROSTER_BYTES_MAX, b"short"):
        board.publish_roster(text)
        found = board.read_roster()
        assert found == (board.sequence, text)
        numbers.add(board.sequence)
    assert len(numbers) == 5


def test_a_roster_that_is_too_long_is_refused_and_the_last_one_stays(board: Board) -> None:
    board.publish_roster(b"good")
    with pytest.raises(ValueError, match="are the most"):
        board.publish_roster(bytes(ROSTER_BYTES_MAX + 1))
    assert board.read_roster() == (board.sequence, b"good")


def test_a_reader_never_sees_half_of_a_roster_while_another_process_writes(board: Board) -> None:
    writer = start_writer(board)
    seen: set[int] = set()
    try:
        deadline_s = time.monotonic() + 30
        while len(seen) < 50 and time.monotonic() < deadline_s:
            found = board.read_roster()
            if found is not None:
                sequence, text = found
                assert not sequence & 1
                assert len(set(text)) == 1, "two rosters in one"
                seen.add(sequence)
    finally:
        kill(writer)
    assert len(seen) > 1


def test_a_writer_that_is_killed_in_the_middle_leaves_no_roster_that_is_none(board: Board) -> None:
    for _ in range(10):
        writer = start_writer(board)
        kill(writer)
        found = board.read_roster()
        assert found is None or len(set(found[1])) == 1
        board.publish_roster(b"the next control process")
        assert board.read_roster() == (board.sequence, b"the next control process")
        assert not board.sequence & 1


def test_a_roster_whose_writer_died_is_not_read_and_the_next_one_is(board: Board) -> None:
    board.publish_roster(b"before")
    before = board.sequence
    board._words[2] = before + 1
    board._text[:3] = b"xyz"
    assert board.read_roster() is None
    board.publish_roster(b"after")
    assert board.sequence > before + 1
    assert board.read_roster() == (board.sequence, b"after")


def test_a_text_that_is_not_what_its_checksum_says_is_not_read(board: Board) -> None:
    board.publish_roster(b"before")
    board._text[:1] = b"x"
    assert board.read_roster() is None


def test_every_process_that_attaches_sees_the_same(board: Board) -> None:
    other = Board.attach(board.fd)
    board.publish_roster(b"roster")
    board.join(7, 123)
    board.own(8, 456)
    board.fresh_until_s, board.due_before_s, board.heard, board.coordinated = 1.5, 2.5, 9, True
    assert other.read_roster() == board.read_roster()
    assert (other.joined(7), other.owned(8)) == (123, 456)
    assert (other.fresh_until_s, other.due_before_s, other.heard, other.coordinated) == (1.5, 2.5, 9, True)
    other.close()
    os.fstat(board.fd)
    assert board.joined(7) == 123


def test_joined_and_owned_are_tables_apart_that_reach_neither_rows_nor_roster(board: Board) -> None:
    board.publish_roster(b"roster")
    for place in (0, SLOT_COUNT - 1, SLOT_COUNT, 2**64 - 1, 2**64 + 2):
        board.join(place, 2**64 - 1)
        assert board.owned(place) == 0
        board.own(place, 2**64 - 2)
        assert board.joined(place) == 2**64 - 1
        board.own(place, 0)
    assert board.total(UPLOADS) == 0
    assert board.read_roster() == (board.sequence, b"roster")


def test_a_slot_that_another_block_has_taken_says_nothing_of_the_first(board: Board) -> None:
    for mark, marked in ((board.join, board.joined), (board.own, board.owned)):
        mark(5, 111)
        mark(5 + SLOT_COUNT, 222)
        assert (marked(5), marked(5 + SLOT_COUNT)) == (0, 222)
        mark(5, 111)
        assert (marked(5), marked(5 + SLOT_COUNT)) == (111, 0)


def test_a_slot_that_two_processes_wrote_at_the_same_time_says_nothing(board: Board) -> None:
    board.join(5, 111)
    first = board._words.tolist()
    board.join(5 + SLOT_COUNT, 222)
    changed = [at for at, word in enumerate(board._words.tolist()) if word != first[at]]
    assert len(changed) == 2
    board._words[changed[1]] = first[changed[1]]  # the id of one, the other half of the other
    assert (board.joined(5), board.joined(5 + SLOT_COUNT)) == (0, 0)


def test_totals_are_those_of_all_rows_and_a_new_worker_clears_what_ended_with_the_last_one(board: Board) -> None:
    for row in (0, 1, ROW_COUNT - 1):
        board.add(row, UPLOADS, 2)
        board.add(row, SENT_BYTES, 100)
        board.put(row, FILLS, 3)
    assert (board.total(UPLOADS), board.total(SENT_BYTES), board.total(FILLS)) == (6, 300, 9)
    board.clear_row(1)
    assert (board.total(UPLOADS), board.total(SENT_BYTES), board.total(FILLS)) == (4, 300, 6)
    assert max(UPLOADS, FILLS, SENT_BYTES, HITS) < ROW_WORDS


def test_a_count_never_goes_below_nothing(board: Board) -> None:
    board.add(0, UPLOADS, 1)
    board.clear_row(0)
    board.add(0, UPLOADS, -1)
    assert board.total(UPLOADS) == 0


def test_each_spoiling_is_seen_by_all(board: Board) -> None:
    other, seen = Board.attach(board.fd), {board.spoilt(7)}
    for _ in range(10):
        board.spoil(7)
        assert other.spoilt(7) == board.spoilt(7)
        seen.add(board.spoilt(7))
    assert len(seen) == 11
    assert board.spoilt(8) == 0
    other.close()


def test_closing_twice_closes_no_descriptor_that_has_the_number_by_then(board: Board) -> None:
    other = Board.attach(board.fd)
    number = other.fd
    other.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    os.dup2(board.fd, number)
    other.close()
    assert os.fstat(number).st_ino == os.fstat(board.fd).st_ino
    os.close(number)
