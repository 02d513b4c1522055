"""The members as a control process keeps them, and the roster that workers read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import pytest

from proxy.fleet.members.registry import GONE_SHOWN_S, MemberRegistry
from proxy.fleet.members.slowness import ROUNDS
from proxy.fleet.members.stats import NodeStats
from proxy.fleet.members.status import NodeStatus, parse_status, render_status
from proxy.fleet.roster import Member, Roster, parse_roster
from proxy.fleet.state import FILLS, HITS, RECEIVED_BYTES, FleetState


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def fleet_state() -> Iterator[FleetState]:
    fleet_state = FleetState.create()
    yield fleet_state
    fleet_state.close()


def member(name: str, *, draining: bool = False, slow: bool = False) -> Member:
    return Member(name, f"http://{name}:9000", f"http://{name}:9001", "", 1 << 40, draining, slow)


def statuses(*names: str) -> dict[str, NodeStatus]:
    return {name: NodeStatus(member(name)) for name in names}


def make(
    fleet_state: FleetState, clock: Clock | None = None, stats: Mapping[str, float] | None = None
) -> MemberRegistry:
    registry = MemberRegistry(
        fleet_state, Member("aa", "", "", capacity_bytes=1 << 40), lambda: stats or {}, clock or Clock()
    )
    registry.locate("http://aa:9000", "http://aa:9001")
    return registry


def on(fleet_state: FleetState) -> Roster:
    found = fleet_state.read_roster()
    return parse_roster(found[1]) if found is not None else Roster()


def test_a_node_that_does_not_know_its_address_has_no_roster(fleet_state: FleetState) -> None:
    registry = MemberRegistry(fleet_state, Member("aa", "", ""))
    registry.see(statuses("bb"))
    registry.drain()
    assert fleet_state.read_roster() is None
    registry.locate("http://aa:9000", "http://aa:9001")
    assert [found.node_id for found in on(fleet_state).members] == ["aa", "bb"]


def test_the_board_changes_only_when_the_members_do(fleet_state: FleetState) -> None:
    registry = make(fleet_state)
    registry.see(statuses("bb"))
    sequence = fleet_state.sequence
    registry.see({"bb": NodeStatus(member("bb"), {"hits": 5})})
    assert fleet_state.sequence == sequence
    registry.see(statuses("bb", "cc"))
    assert fleet_state.sequence != sequence
    assert on(fleet_state) == registry.roster


def test_a_draining_node_says_so_at_once(fleet_state: FleetState) -> None:
    registry = make(fleet_state)
    registry.drain()
    assert on(fleet_state).by_id["aa"].draining
    assert registry.note_status().member.draining


def test_a_new_control_process_begins_with_the_members_of_the_last_one(fleet_state: FleetState) -> None:
    make(fleet_state).see(statuses("bb", "cc"))
    successor = make(fleet_state)
    assert list(successor.others) == ["bb", "cc"]
    assert [found.node_id for found in on(fleet_state).members] == ["aa", "bb", "cc"]


def test_who_left_is_shown_for_a_while(fleet_state: FleetState) -> None:
    clock = Clock()
    registry = make(fleet_state, clock)
    registry.see(statuses("bb"))
    registry.see({})
    clock.now_s += 10
    registry.see({})
    assert [(each["node_id"], each["state"], each.get("gone_s")) for each in registry.describe()] == [
        ("aa", "up", None),
        ("bb", "gone", 10.0),
    ]
    clock.now_s += GONE_SHOWN_S
    registry.see({})
    assert [each["node_id"] for each in registry.describe()] == ["aa"]
    registry.see(statuses("bb"))
    assert [each["state"] for each in registry.describe()] == ["up", "up"]


def test_states_say_draining_before_slow(fleet_state: FleetState) -> None:
    registry = make(fleet_state)
    registry.see({"bb": NodeStatus(member("bb", slow=True)), "cc": NodeStatus(member("cc", slow=True, draining=True))})
    assert [each["state"] for each in registry.describe()] == ["up", "slow", "draining"]


def test_a_slow_node_tells_everybody(fleet_state: FleetState) -> None:
    registry = make(fleet_state, stats={"receive_rate": 10})
    registry.see({name: NodeStatus(member(name), {"receive_rate": 100}) for name in ("bb", "cc")})
    for _ in range(ROUNDS):
        seen = registry.note_status()
    assert seen.member.slow
    assert on(fleet_state).by_id["aa"].slow


def test_twins_are_said_once_a_minute(fleet_state: FleetState, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    registry = make(fleet_state, clock)
    with caplog.at_level(logging.ERROR):
        for _ in range(61):
            registry.note_twin("http://copy:9000")
            clock.now_s += 1
    assert len(caplog.records) == 2
    assert "two nodes have one id: http://aa:9000 and http://copy:9000" in caplog.text


def test_a_roster_too_large_for_the_board_leaves_the_last_one(
    fleet_state: FleetState, caplog: pytest.LogCaptureFixture
) -> None:
    registry = make(fleet_state)
    registry.see(statuses("bb"))
    registry.see(statuses("bb", "c" * (3 << 20)))
    assert [found.node_id for found in on(fleet_state).members] == ["aa", "bb"]
    assert "the fleet is too large" in caplog.text


def test_a_sighting_is_read_as_it_was_written() -> None:
    seen = NodeStatus(member("bb"), {"hits": 5, "receive_rate": 1.5})
    assert parse_status(render_status(seen)) == seen


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
        parse_status(text)


def test_what_a_newer_program_says_more_is_left_out() -> None:
    text = b'{"protocol": 2, "self": {"node_id": "a", "url": "u", "control_url": "c", "new": 1},'
    text += b'"stats": {"y": NaN}, "z": 1}'
    assert parse_status(text) == NodeStatus(Member("a", "u", "c"))


def test_stats_are_the_boards_and_the_disks(fleet_state: FleetState) -> None:
    clock = Clock()
    stats = NodeStats(fleet_state, lambda: (5, 10), clock)
    fleet_state.add(0, HITS, 3)
    fleet_state.add(7, HITS, 4)
    fleet_state.add(1, FILLS, 1)
    for _ in range(4):
        found = stats.read()
        clock.now_s += 1
        fleet_state.add(1, RECEIVED_BYTES, 1000)
    assert (found["hits"], found["fills"], found["used_bytes"], found["size_bytes"]) == (7, 1, 5, 10)
    assert found["receive_rate"] == 1000
