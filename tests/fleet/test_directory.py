"""What an owner answers: one chain for each block, a source for whoever asks, never one that may wait for the asker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.chains import OWNER_ENDS, UPLOAD_WEIGHT, is_head
from proxy.fleet.directory import FORGET_S, WHOLE_AFTER_S, BlockDirectory
from proxy.fleet.fill_ids import LEASED, ORIGIN, REGION, ZONE, level_of
from proxy.fleet.owners import hash_block, hash_name
from proxy.fleet.protocol import Ask, NamedSource
from proxy.fleet.state import UPLOADS, FleetState

OWNER = "0a"
DIGEST = bytes(range(32))
PLACE = hash_block(DIGEST, 7)
PLAIN = [name for name in (f"{number:x}" for number in range(16, 200)) if not is_head(hash_name(name), PLACE)]


class Office:
    """A directory whose clock stands still until a test moves it."""

    def __init__(self, fleet_state: FleetState) -> None:
        self.fleet_state = fleet_state
        self.now_s = 1000.0
        self.directory = BlockDirectory(OWNER, fleet_state, clock=lambda: self.now_s)

    def ask(self, asker: str, *tried: str, level: int = ZONE, uploads: int = 0, slow: bool = False) -> NamedSource:
        return self.directory.name(Ask(DIGEST, 7, level, uploads, slow, tried), asker)


@pytest.fixture
def office() -> Iterator[Office]:
    fleet_state = FleetState.create()
    yield Office(fleet_state)
    fleet_state.close()


def test_the_first_ask_begins_a_fill_and_writes_its_id_on_the_board(office: Office) -> None:
    named = office.ask(PLAIN[0])
    assert named.source == OWNER
    assert level_of(named.fill_id) == ZONE
    assert office.fleet_state.owned(PLACE + ZONE) == named.fill_id
    assert office.fleet_state.joined(PLACE) == 0, "the fill itself is a worker's"


def test_each_tree_of_a_block_has_a_fill_of_its_own(office: Office) -> None:
    zone, region = office.ask(PLAIN[0]), office.ask(PLAIN[0], level=REGION)
    assert zone.fill_id != region.fill_id
    assert (level_of(zone.fill_id), level_of(region.fill_id)) == (ZONE, REGION)
    assert office.fleet_state.owned(PLACE + ZONE) == zone.fill_id
    assert office.fleet_state.owned(PLACE + REGION) == region.fill_id


@pytest.mark.parametrize("level", [ORIGIN, LEASED, 4, 99])
def test_levels_that_have_no_tree_are_refused(office: Office, level: int) -> None:
    with pytest.raises(ValueError, match="level"):
        office.ask(PLAIN[0], level=level)
    assert len(office.directory) == 0


def test_later_askers_read_from_earlier_ones_within_the_same_fill(office: Office) -> None:
    named = [office.ask(name) for name in PLAIN[:8]]
    assert [each.source for each in named[:OWNER_ENDS]] == [OWNER] * OWNER_ENDS
    for number, each in enumerate(named[OWNER_ENDS:], OWNER_ENDS):
        assert each.source in PLAIN[:number]
    assert len({each.fill_id for each in named}) == 1


def test_the_owners_own_uploads_count_against_it(office: Office) -> None:
    office.ask(PLAIN[0], uploads=0)
    office.fleet_state.put(0, UPLOADS, 5)
    assert UPLOAD_WEIGHT * 5 > 1
    assert office.ask(PLAIN[1]).source == PLAIN[0]


def test_what_an_asker_says_of_its_uploads_counts_from_then_on(office: Office) -> None:
    for name in PLAIN[:OWNER_ENDS]:
        office.ask(name, uploads=50 if name == PLAIN[0] else 0)
    assert office.ask(PLAIN[5]).source == PLAIN[1]


def test_a_node_that_asks_again_is_sent_to_the_owner(office: Office) -> None:
    for name in PLAIN[:5]:
        office.ask(name)
    again = office.ask(PLAIN[4])
    assert again.source == OWNER
    assert again.fill_id == office.ask(PLAIN[5]).fill_id


def test_a_node_whose_source_failed_is_sent_to_the_owner_within_the_same_fill(office: Office) -> None:
    first = office.ask(PLAIN[0])
    for name in PLAIN[1:4]:
        office.ask(name)
    assert office.ask(PLAIN[3], PLAIN[1]) == NamedSource(OWNER, first.fill_id)


def test_who_has_lost_the_owner_too_is_sent_to_one_that_should_have_it_all_under_nobodys_fill(office: Office) -> None:
    """That one may still wait for the asker: it must give the block only if it has all of it."""
    first = office.ask(PLAIN[0])
    office.ask(PLAIN[1])
    assert office.ask(PLAIN[0], OWNER).source is None, "the other one can't have it yet"
    office.now_s += WHOLE_AFTER_S
    named = office.ask(PLAIN[0], OWNER)
    assert named.source == PLAIN[1]
    assert named.fill_id != first.fill_id
    assert level_of(named.fill_id) == ZONE
    assert office.fleet_state.owned(PLACE + ZONE) == first.fill_id
    assert office.ask(PLAIN[0], OWNER, PLAIN[1]).source is None


def test_a_chain_is_forgotten_a_minute_after_its_last_ask(office: Office) -> None:
    before = office.ask(PLAIN[0])
    office.now_s += FORGET_S
    assert office.ask(PLAIN[1]).fill_id == before.fill_id
    office.now_s += FORGET_S + 0.1
    office.directory.name(Ask(DIGEST, 8, ZONE), PLAIN[0])
    assert len(office.directory) == 1
    assert office.ask(PLAIN[2]).fill_id != before.fill_id


def test_the_desk_remembers_no_more_chains_than_it_may(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.fleet.directory.CHAINS_MAX", 10)
    for index in range(50):
        office.directory.name(Ask(DIGEST, index, ZONE), PLAIN[0])
        assert len(office.directory) <= 11
    assert office.directory.name(Ask(DIGEST, 49, ZONE), PLAIN[1]).fill_id == office.fleet_state.owned(
        hash_block(DIGEST, 49) + ZONE
    )


def test_queries_that_make_no_sense_are_refused(office: Office) -> None:
    for query in ({}, {"digest": "00"}, {"digest": "zz", "index": "0", "level": "2", "uploads": "0"}):
        with pytest.raises(ValueError):  # each has words of its own
            office.directory.answer(query, PLAIN[0])


@given(steps=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 9)), max_size=40))
def test_within_a_fill_nobody_is_ever_sent_behind_one_that_may_wait_for_it(
    steps: list[tuple[int, bool, int]],
) -> None:
    """Whoever reads within the fill stands behind a node that joined it earlier; owners aside, nobody comes back."""
    fleet_state = FleetState.create()
    office = Office(fleet_state)
    fill_id = office.ask("ff").fill_id
    sources: dict[str, str] = {"ff": OWNER}
    for asker_number, fails, seconds in steps:
        asker = PLAIN[asker_number]
        office.now_s += seconds
        tried = (sources[asker],) if fails and asker in sources else ()
        named = office.ask(asker, *tried)
        if named.source is not None and named.fill_id == fill_id:
            sources[asker] = named.source
        elif named.source is None or named.source == OWNER:
            sources.pop(asker, None)
        for name in sources:
            seen, at = set[str](), name
            while at != OWNER:
                assert at not in seen, f"{name} waits for itself"
                seen.add(at)
                at = sources.get(at, OWNER)
    fleet_state.close()
