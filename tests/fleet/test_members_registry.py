"""The members as a control process keeps them, and the roster that workers read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import pytest

from proxy.fleet.members.registry import GONE_SHOWN_S, Company
from proxy.fleet.members.slowness import ROUNDS
from proxy.fleet.members.stats import NodeStats
from proxy.fleet.members.status import Sighting, parse_sighting, render_sighting
from proxy.fleet.roster import Member, Roster, parse_roster
from proxy.fleet.state import FILLS, HITS, RECEIVED_BYTES, Board


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create()
    yield board
    board.close()


def member(name: str, *, draining: bool = False, slow: bool = False) -> Member:
    return Member(name, f"http://{name}:9000", f"http://{name}:9001", "", 1 << 40, draining, slow)


def sightings(*names: str) -> dict[str, Sighting]:
    return {name: Sighting(member(name)) for name in names}


def make(board: Board, clock: Clock | None = None, stats: Mapping[str, float] | None = None) -> Company:
    company = Company(board, Member("aa", "", "", capacity_bytes=1 << 40), lambda: stats or {}, clock or Clock())
    company.locate("http://aa:9000", "http://aa:9001")
    return company


def on(board: Board) -> Roster:
    found = board.read_roster()
    return parse_roster(found[1]) if found is not None else Roster()


def test_a_node_that_does_not_know_its_address_has_no_roster(board: Board) -> None:
    company = Company(board, Member("aa", "", ""))
    company.see(sightings("bb"))
    company.drain()
    assert board.read_roster() is None
    company.locate("http://aa:9000", "http://aa:9001")
    assert [found.node_id for found in on(board).members] == ["aa", "bb"]


def test_the_board_changes_only_when_the_members_do(board: Board) -> None:
    company = make(board)
    company.see(sightings("bb"))
    sequence = board.sequence
    company.see({"bb": Sighting(member("bb"), {"hits": 5})})
    assert board.sequence == sequence
    company.see(sightings("bb", "cc"))
    assert board.sequence != sequence
    assert on(board) == company.roster


def test_a_draining_node_says_so_at_once(board: Board) -> None:
    company = make(board)
    company.drain()
    assert on(board).by_id["aa"].draining
    assert company.sight().member.draining


def test_a_new_control_process_begins_with_the_members_of_the_last_one(board: Board) -> None:
    make(board).see(sightings("bb", "cc"))
    successor = make(board)
    assert list(successor.others) == ["bb", "cc"]
    assert [found.node_id for found in on(board).members] == ["aa", "bb", "cc"]


def test_who_left_is_shown_for_a_while(board: Board) -> None:
    clock = Clock()
    company = make(board, clock)
    company.see(sightings("bb"))
    company.see({})
    clock.now_s += 10
    company.see({})
    assert [(each["node_id"], each["state"], each.get("gone_s")) for each in company.describe()] == [
        ("aa", "up", None),
        ("bb", "gone", 10.0),
    ]
    clock.now_s += GONE_SHOWN_S
    company.see({})
    assert [each["node_id"] for each in company.describe()] == ["aa"]
    company.see(sightings("bb"))
    assert [each["state"] for each in company.describe()] == ["up", "up"]


def test_states_say_draining_before_slow(board: Board) -> None:
    company = make(board)
    company.see({"bb": Sighting(member("bb", slow=True)), "cc": Sighting(member("cc", slow=True, draining=True))})
    assert [each["state"] for each in company.describe()] == ["up", "slow", "draining"]


def test_a_slow_node_tells_everybody(board: Board) -> None:
    company = make(board, stats={"receive_rate": 10})
    company.see({name: Sighting(member(name), {"receive_rate": 100}) for name in ("bb", "cc")})
    for _ in range(ROUNDS):
        seen = company.sight()
    assert seen.member.slow
    assert on(board).by_id["aa"].slow


def test_twins_are_said_once_a_minute(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    company = make(board, clock)
    with caplog.at_level(logging.ERROR):
        for _ in range(61):
            company.note_twin("http://copy:9000")
            clock.now_s += 1
    assert len(caplog.records) == 2
    assert "two nodes have one id: http://aa:9000 and http://copy:9000" in caplog.text


def test_a_roster_too_large_for_the_board_leaves_the_last_one(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    company = make(board)
    company.see(sightings("bb"))
    company.see(sightings("bb", "c" * (3 << 20)))
    assert [found.node_id for found in on(board).members] == ["aa", "bb"]
    assert "the fleet is too large" in caplog.text


def test_a_sighting_is_read_as_it_was_written() -> None:
    seen = Sighting(member("bb"), {"hits": 5, "receive_rate": 1.5})
    assert parse_sighting(render_sighting(seen)) == seen


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"protocol": 2, "self": {}}',
        b'{"protocol": 2, "stats": {}}',
        b'{"protocol": 2, "self": {"node_id": "a", "url": 1, "control_url": "b"}}',
        b'{"protocol": 2, "self": {"node_id": "a", "url": "u", "control_url": "b"}, "stats": []}',
        b'{"protocol": 3, "self": {"node_id": "a", "url": "u", "control_url": "b"}}',
        b'{"self": {"node_id": "a", "url": "u", "control_url": "b"}}',
        b'{"protocol": 2, "self": {"node_id": "a", "url": "u", "control_url": "b", "capacity_bytes": 1'
        + b"0" * 19
        + b"}}",
    ],
)
def test_what_is_no_sighting_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_sighting(text)


def test_what_a_newer_program_says_more_is_left_out() -> None:
    text = b'{"protocol": 2, "self": {"node_id": "a", "url": "u", "control_url": "c", "new": 1},'
    text += b'"stats": {"y": NaN}, "z": 1}'
    assert parse_sighting(text) == Sighting(Member("a", "u", "c"))


def test_stats_are_the_boards_and_the_disks(board: Board) -> None:
    clock = Clock()
    stats = NodeStats(board, lambda: (5, 10), clock)
    board.add(0, HITS, 3)
    board.add(7, HITS, 4)
    board.add(1, FILLS, 1)
    for _ in range(4):
        found = stats.read()
        clock.now_s += 1
        board.add(1, RECEIVED_BYTES, 1000)
    assert (found["hits"], found["fills"], found["used_bytes"], found["size_bytes"]) == (7, 1, 5, 10)
    assert found["receive_rate"] == 1000
