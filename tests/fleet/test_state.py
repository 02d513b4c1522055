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
    FleetState,
)

# Publishes rosters of one letter each, as fast as it can, and says when it has begun.
WRITER = """
import sys
import time
from proxy.fleet.state import FleetState
fleet_state = FleetState.attach(int(sys.argv[1]))
number = 0
while True:
    letter = b"abcdefghijklmnopqrstuvwxyz"[number % 26:number % 26 + 1]
    fleet_state.publish_roster(letter * (50_000 + number % 7 * 20_000))
    number += 1
    time.sleep(0.001)
    if number == 3:
        print("begun", flush=True)
"""


@pytest.fixture
def fleet_state() -> Iterator[FleetState]:
    fleet_state = FleetState.create()
    yield fleet_state
    fleet_state.close()


def start_writer(fleet_state: FleetState) -> subprocess.Popen[bytes]:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(fleet_state.fd)], pass_fds=[fleet_state.fd], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"begun\n"
    return writer


def kill(writer: subprocess.Popen[bytes]) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert writer.stdout is not None
    writer.stdout.close()


def test_nothing_is_there_before_the_first_roster(fleet_state: FleetState) -> None:
    assert fleet_state.read_roster() is None
    assert fleet_state.sequence == 0


def test_a_roster_is_read_as_it_was_published_and_its_number_changes(fleet_state: FleetState) -> None:
    numbers = set()
    for text in (b"one", b"", b"a longer one", b"x" * ROSTER_BYTES_MAX, b"short"):
        fleet_state.publish_roster(text)
        found = fleet_state.read_roster()
        assert found == (fleet_state.sequence, text)
        numbers.add(fleet_state.sequence)
    assert len(numbers) == 5


def test_a_roster_that_is_too_long_is_refused_and_the_last_one_stays(fleet_state: FleetState) -> None:
    fleet_state.publish_roster(b"good")
    with pytest.raises(ValueError, match="are the most"):
        fleet_state.publish_roster(bytes(ROSTER_BYTES_MAX + 1))
    assert fleet_state.read_roster() == (fleet_state.sequence, b"good")


def test_a_reader_never_sees_half_of_a_roster_while_another_process_writes(fleet_state: FleetState) -> None:
    writer = start_writer(fleet_state)
    seen: set[int] = set()
    try:
        deadline_s = time.monotonic() + 30
        while len(seen) < 50 and time.monotonic() < deadline_s:
            found = fleet_state.read_roster()
            if found is not None:
                sequence, text = found
                assert not sequence & 1
                assert len(set(text)) == 1, "two rosters in one"
                seen.add(sequence)
    finally:
        kill(writer)
    assert len(seen) > 1


def test_a_writer_that_is_killed_in_the_middle_leaves_no_roster_that_is_none(fleet_state: FleetState) -> None:
    for _ in range(10):
        writer = start_writer(fleet_state)
        kill(writer)
        found = fleet_state.read_roster()
        assert found is None or len(set(found[1])) == 1
        fleet_state.publish_roster(b"the next control process")
        assert fleet_state.read_roster() == (fleet_state.sequence, b"the next control process")
        assert not fleet_state.sequence & 1


def test_a_roster_whose_writer_died_is_not_read_and_the_next_one_is(fleet_state: FleetState) -> None:
    fleet_state.publish_roster(b"before")
    before = fleet_state.sequence
    fleet_state._words[2] = before + 1
    fleet_state._text[:3] = b"xyz"
    assert fleet_state.read_roster() is None
    fleet_state.publish_roster(b"after")
    assert fleet_state.sequence > before + 1
    assert fleet_state.read_roster() == (fleet_state.sequence, b"after")


def test_a_text_that_is_not_what_its_checksum_says_is_not_read(fleet_state: FleetState) -> None:
    fleet_state.publish_roster(b"before")
    fleet_state._text[:1] = b"x"
    assert fleet_state.read_roster() is None


def test_every_process_that_attaches_sees_the_same(fleet_state: FleetState) -> None:
    other = FleetState.attach(fleet_state.fd)
    fleet_state.publish_roster(b"roster")
    fleet_state.join(7, 123)
    fleet_state.own(8, 456)
    fleet_state.fresh_until_s, fleet_state.due_before_s, fleet_state.heard, fleet_state.coordinated = 1.5, 2.5, 9, True
    assert other.read_roster() == fleet_state.read_roster()
    assert (other.joined(7), other.owned(8)) == (123, 456)
    assert (other.fresh_until_s, other.due_before_s, other.heard, other.coordinated) == (1.5, 2.5, 9, True)
    other.close()
    os.fstat(fleet_state.fd)
    assert fleet_state.joined(7) == 123


def test_joined_and_owned_are_tables_apart_that_reach_neither_rows_nor_roster(fleet_state: FleetState) -> None:
    fleet_state.publish_roster(b"roster")
    for place in (0, SLOT_COUNT - 1, SLOT_COUNT, 2**64 - 1, 2**64 + 2):
        fleet_state.join(place, 2**64 - 1)
        assert fleet_state.owned(place) == 0
        fleet_state.own(place, 2**64 - 2)
        assert fleet_state.joined(place) == 2**64 - 1
        fleet_state.own(place, 0)
    assert fleet_state.total(UPLOADS) == 0
    assert fleet_state.read_roster() == (fleet_state.sequence, b"roster")


def test_a_slot_that_another_block_has_taken_says_nothing_of_the_first(fleet_state: FleetState) -> None:
    for mark, marked in ((fleet_state.join, fleet_state.joined), (fleet_state.own, fleet_state.owned)):
        mark(5, 111)
        mark(5 + SLOT_COUNT, 222)
        assert (marked(5), marked(5 + SLOT_COUNT)) == (0, 222)
        mark(5, 111)
        assert (marked(5), marked(5 + SLOT_COUNT)) == (111, 0)


def test_a_slot_that_two_processes_wrote_at_the_same_time_says_nothing(fleet_state: FleetState) -> None:
    fleet_state.join(5, 111)
    first = fleet_state._words.tolist()
    fleet_state.join(5 + SLOT_COUNT, 222)
    changed = [at for at, word in enumerate(fleet_state._words.tolist()) if word != first[at]]
    assert len(changed) == 2
    fleet_state._words[changed[1]] = first[changed[1]]  # the id of one, the other half of the other
    assert (fleet_state.joined(5), fleet_state.joined(5 + SLOT_COUNT)) == (0, 0)


def test_totals_are_those_of_all_rows_and_a_new_worker_clears_what_ended_with_the_last_one(
    fleet_state: FleetState,
) -> None:
    for row in (0, 1, ROW_COUNT - 1):
        fleet_state.add(row, UPLOADS, 2)
        fleet_state.add(row, SENT_BYTES, 100)
        fleet_state.put(row, FILLS, 3)
    assert (fleet_state.total(UPLOADS), fleet_state.total(SENT_BYTES), fleet_state.total(FILLS)) == (6, 300, 9)
    fleet_state.clear_row(1)
    assert (fleet_state.total(UPLOADS), fleet_state.total(SENT_BYTES), fleet_state.total(FILLS)) == (4, 300, 6)
    assert max(UPLOADS, FILLS, SENT_BYTES, HITS) < ROW_WORDS


def test_a_count_never_goes_below_nothing(fleet_state: FleetState) -> None:
    fleet_state.add(0, UPLOADS, 1)
    fleet_state.clear_row(0)
    fleet_state.add(0, UPLOADS, -1)
    assert fleet_state.total(UPLOADS) == 0


def test_each_spoiling_is_seen_by_all(fleet_state: FleetState) -> None:
    other, seen = FleetState.attach(fleet_state.fd), {fleet_state.discarded(7)}
    for _ in range(10):
        fleet_state.discard(7)
        assert other.discarded(7) == fleet_state.discarded(7)
        seen.add(fleet_state.discarded(7))
    assert len(seen) == 11
    assert fleet_state.discarded(8) == 0
    other.close()


def test_closing_twice_closes_no_descriptor_that_has_the_number_by_then(fleet_state: FleetState) -> None:
    other = FleetState.attach(fleet_state.fd)
    number = other.fd
    other.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    os.dup2(fleet_state.fd, number)
    other.close()
    assert os.fstat(number).st_ino == os.fstat(fleet_state.fd).st_ino
    os.close(number)
