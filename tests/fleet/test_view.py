"""The fleet as a worker sees it: the members in the fleet state, who owns an item, and whom to leave alone for how
long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.fleet import view as view_module
from proxy.fleet.owners import Owners
from proxy.fleet.roster import Member, Roster, render_roster
from proxy.fleet.state import FleetState
from proxy.fleet.view import AVOID_MAX_S, AVOID_S, FleetView

NAMES = [f"{number:02x}" for number in range(12)]


def member(node_id: str, zone: str = "") -> Member:
    return Member(node_id, f"http://{node_id}", f"http://{node_id}:1", zone, 1 << 30)


class Outlook:
    def __init__(self, fleet_state: FleetState) -> None:
        self.fleet_state = fleet_state
        self.now_s = 1000.0
        self.view = FleetView(fleet_state, "00", clock=lambda: self.now_s)

    def publish(self, *members: Member) -> Roster:
        roster = Roster(members)
        self.fleet_state.publish_roster(render_roster(roster))
        return roster


@pytest.fixture
def outlook() -> Iterator[Outlook]:
    fleet_state = FleetState.create()
    yield Outlook(fleet_state)
    fleet_state.close()


def test_before_the_control_process_has_spoken_the_node_is_alone_and_owns_everything(outlook: Outlook) -> None:
    assert outlook.view.alone
    assert outlook.view.me() is None
    assert outlook.view.order(1) == []


def test_a_new_roster_is_seen_at_once(outlook: Outlook) -> None:
    outlook.publish(member("00"))
    assert outlook.view.alone
    outlook.publish(member("00"), member("01"))
    assert not outlook.view.alone
    assert [each.node_id for each in outlook.view.roster.members] == ["00", "01"]


def test_owners_are_those_of_the_rule_and_change_with_the_members(outlook: Outlook) -> None:
    roster = outlook.publish(*(member(name, "east" if int(name, 16) % 2 else "west") for name in NAMES))
    for place in range(50):
        assert outlook.view.order(place) == Owners(roster).order(place)[:8]
        assert {each.zone for each in outlook.view.order(place, "east")} == {"east"}
    smaller = outlook.publish(*roster.members[:3])
    assert outlook.view.order(7) == Owners(smaller).order(7)


def test_a_roster_that_is_being_written_or_makes_no_sense_leaves_the_last_one(outlook: Outlook) -> None:
    outlook.publish(member("00"), member("01"))
    assert not outlook.view.alone
    outlook.fleet_state.publish_roster(b'[{"node_id": 7}]')
    assert len(outlook.view.roster.members) == 2
    outlook.fleet_state._words[2] |= 1  # a writer that died in the middle
    outlook.fleet_state._text[:2] = b"xx"
    assert len(outlook.view.roster.members) == 2
    outlook.publish(member("00"))
    assert outlook.view.alone


def test_a_roster_that_makes_no_sense_is_looked_at_once(outlook: Outlook, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []

    def parse(text: bytes) -> Roster:
        parsed.append(text)
        raise ValueError("not a roster")

    monkeypatch.setattr(view_module, "parse_roster", parse)
    outlook.fleet_state.publish_roster(b"nonsense")
    for _ in range(5):
        assert outlook.view.alone
    assert parsed == [b"nonsense"]


def test_a_member_that_failed_owns_nothing_for_a_while_and_longer_each_time(outlook: Outlook) -> None:
    outlook.publish(*map(member, NAMES))
    first = outlook.view.order(7)[0].node_id
    for_s = AVOID_S
    while for_s < AVOID_MAX_S:
        outlook.view.avoid(first)
        assert first not in [each.node_id for each in outlook.view.order(7)]
        outlook.now_s += for_s - 0.01
        assert outlook.view.avoids(first)
        outlook.now_s += 0.02
        assert outlook.view.order(7)[0].node_id == first
        for_s *= 2
    outlook.view.avoid(first)
    outlook.now_s += AVOID_MAX_S + 0.01
    assert not outlook.view.avoids(first)


def test_many_failures_at_the_same_time_count_as_one(outlook: Outlook) -> None:
    outlook.publish(member("00"), member("01"))
    for _ in range(100):
        outlook.view.avoid("01")
    outlook.now_s += AVOID_S
    assert not outlook.view.avoids("01")


def test_what_happened_long_ago_or_was_made_good_is_forgotten(outlook: Outlook) -> None:
    outlook.publish(member("00"), member("01"))
    for made_good in (True, False):
        outlook.view.avoid("01")
        if made_good:
            outlook.view.trust("01")
        outlook.now_s += AVOID_S + AVOID_MAX_S
        outlook.view.avoid("01")
        outlook.now_s += AVOID_S
        assert not outlook.view.avoids("01")
        outlook.now_s += AVOID_S + AVOID_MAX_S


def test_a_node_never_avoids_itself_and_forgets_those_that_left(outlook: Outlook) -> None:
    outlook.publish(member("00"), member("01"))
    outlook.view.avoid("00")
    assert not outlook.view.avoids("00")
    outlook.view.avoid("01")
    outlook.publish(member("00"))
    assert outlook.view.alone
    assert not outlook.view.avoids("01")


def test_orders_that_are_kept_are_bounded(outlook: Outlook) -> None:
    outlook.view = FleetView(outlook.fleet_state, "00", orders_max=8)
    outlook.publish(*map(member, NAMES))
    before = [outlook.view.order(place) for place in range(30)]
    assert [outlook.view.order(place) for place in range(30)] == before
    assert len(outlook.view._orders) <= 8
