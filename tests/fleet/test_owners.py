"""Who owns an item: shares, what moves when the members change, zones, and who may own at all."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.owners import Owners, eligible, hash_block, hash_key, hash_name, mix
from proxy.fleet.roster import Member, Roster

TIB = 1 << 40


def member(
    number: int, zone: str = "", capacity_bytes: int = TIB, *, draining: bool = False, slow: bool = False
) -> Member:
    name = sha256(f"node {number}".encode()).hexdigest()[:32]
    return Member(name, f"http://{number}", f"http://{number}:1", zone, capacity_bytes, draining, slow)


def namespaces(count: int) -> list[int]:
    chance = random.Random(7)
    return [chance.getrandbits(64) for _ in range(count)]


def owners_of(members: list[Member], count: int, zone: str | None = None) -> list[str]:
    owners = Owners(Roster(tuple(members)))
    found = [owners.owner(place, zone) for place in namespaces(count)]
    return [each.node_id for each in found if each is not None]


members_of_any_kind = st.lists(
    st.builds(
        member,
        st.integers(0, 40),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([0, TIB // 8, TIB, 2 * TIB, 3 * TIB]),
        draining=st.sampled_from([False, False, True]),
        slow=st.sampled_from([False, False, True]),
    ),
    max_size=12,
    unique_by=lambda each: each.node_id,
)
any_place = st.integers(0, (1 << 64) - 1)


def test_equal_nodes_own_equal_shares() -> None:
    shares = Counter(owners_of([member(number) for number in range(8)], 8000))
    assert len(shares) == 8
    assert all(abs(share - 1000) < 4 * math.sqrt(1000) for share in shares.values())


def test_shares_go_by_capacity() -> None:
    members = [member(number, capacity_bytes=(1 + number % 3) * TIB) for number in range(9)]
    shares = Counter(owners_of([replace(each, capacity_bytes=each.capacity_bytes + TIB) for each in members], 9000))
    for each in members:
        expected = 9000 * (each.capacity_bytes + TIB) / (3 * (2 + 3 + 4) * TIB)
        assert abs(shares[each.node_id] - expected) < 4 * math.sqrt(expected)


@given(members_of_any_kind, st.integers(0, 11), any_place)
def test_a_node_that_leaves_moves_only_its_own_places(members: list[Member], at: int, place: int) -> None:
    """Where nobody's right to own depends on it: all of one capacity."""
    even = [replace(each, capacity_bytes=TIB, slow=False, draining=False) for each in members]
    before = Owners(Roster(tuple(even))).owner(place)
    gone = even[at % len(even)] if even else None
    after = Owners(Roster(tuple(each for each in even if each != gone))).owner(place)
    assert before == gone or after == before


def test_a_node_that_joins_takes_its_share_and_moves_nothing_else() -> None:
    members = [member(number, capacity_bytes=TIB + number * TIB // 20) for number in range(10)]
    before, after = owners_of(members[:9], 3000), owners_of(members, 3000)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {members[9].node_id}
    assert 300 < len(moved) < 500


@given(members_of_any_kind, any_place)
def test_the_regions_owner_is_its_own_zones_owner(members: list[Member], place: int) -> None:
    owners = Owners(Roster(tuple(members)))
    found = owners.owner(place)
    assert (found is None) == (not members)
    if found is not None:
        assert owners.owner(place, found.zone) == found


@given(members_of_any_kind, any_place, st.sampled_from([None, "a", "b", "nowhere"]))
def test_the_owner_is_the_first_in_the_order_of_all_who_may_own(
    members: list[Member], place: int, zone: str | None
) -> None:
    owners = Owners(Roster(tuple(members)))
    order = owners.order(place, zone)
    assert owners.owner(place, zone) == (order[0] if order else None)
    assert sorted(order, key=lambda each: each.node_id) == sorted(
        (each for each in eligible(members) if zone is None or each.zone == zone), key=lambda each: each.node_id
    )


@given(members_of_any_kind, any_place)
def test_all_who_see_the_same_members_name_the_same_owner(members: list[Member], place: int) -> None:
    assert Owners(Roster(tuple(members))).order(place) == Owners(Roster(tuple(reversed(members)))).order(place)


@given(members_of_any_kind, any_place)
def test_a_new_address_moves_nothing(members: list[Member], place: int) -> None:
    moved = [replace(each, url="http://new", control_url="http://new:1") for each in members]
    before, after = Owners(Roster(tuple(members))).order(place), Owners(Roster(tuple(moved))).order(place)
    assert [each.node_id for each in before] == [each.node_id for each in after]


@given(members_of_any_kind)
def test_somebody_may_always_own_where_there_is_anybody(members: list[Member]) -> None:
    able = eligible(members)
    assert bool(able) == bool(members)
    assert all(each in members for each in able)


def test_draining_slow_and_small_nodes_own_nothing() -> None:
    members = [member(0), member(1), member(2), member(3, draining=True), member(4, slow=True)]
    members.append(member(5, capacity_bytes=TIB // 2 - 1))
    assert eligible(members) == members[:3]
    assert eligible([*members[:3], member(5, capacity_bytes=TIB // 2)])[-1].capacity_bytes == TIB // 2


def test_where_nobody_is_fit_those_who_stay_own() -> None:
    leaving, slow = member(0, draining=True), member(1, slow=True)
    assert eligible([leaving, slow]) == [slow]
    assert eligible([leaving]) == [leaving]
    assert eligible([]) == []


def test_nodes_that_tell_no_capacity_share_evenly() -> None:
    shares = Counter(owners_of([member(number, capacity_bytes=0) for number in range(4)], 4000))
    assert all(abs(share - 1000) < 4 * math.sqrt(1000) for share in shares.values())


def test_the_blocks_of_one_object_are_spread_over_the_nodes() -> None:
    owners = Owners(Roster(tuple(member(number) for number in range(8))))
    digest = sha256(b"a version").digest()
    found = Counter(owners.owner(hash_block(digest, index)) for index in range(800))
    assert len(found) == 8
    assert all(abs(share - 100) < 50 for share in found.values())
    assert len({hash_block(digest, index) for index in range(10_000)}) == 10_000


def test_places_and_hashes_are_64_bits_and_the_same_for_ever() -> None:
    """Nodes of different versions work in one fleet: these numbers are a protocol."""
    digest = bytes(range(32))
    assert mix(1) == 0x5692161D100B05E5
    assert hash_name("00ff") == 0x6DF0F2EA9F566142
    assert hash_key(digest) == 0x0706050403020100
    assert [hash_block(digest, index) for index in (0, 7)] == [0xEA3C324570509D0D, 0x510C0789C33FBE00]
    assert 0 <= hash_block(digest, 1 << 40) < 1 << 64


def test_the_highest_number_of_all_has_a_score_too() -> None:
    """2**64 - 1 over 2**64 is 1.0 as a float, whose logarithm divides nothing."""
    nodes = [member(1, capacity_bytes=TIB), member(2, capacity_bytes=2 * TIB)]
    owners = Owners(Roster(tuple(nodes)))
    for wanted in ((1 << 64) - 1, 0):
        place = _unmix(wanted) ^ hash_name(nodes[0].node_id)
        assert mix(hash_name(nodes[0].node_id) ^ place) == wanted
        assert len(owners.order(place)) == 2


def _unmix(number: int) -> int:
    """What `mix` makes this number of: each of its steps backwards."""
    whole = 1 << 64
    number ^= number >> 31 ^ number >> 62
    number = number * pow(0x94D049BB133111EB, -1, whole) % whole
    number ^= number >> 27 ^ number >> 54
    number = number * pow(0xBF58476D1CE4E5B9, -1, whole) % whole
    return number ^ number >> 30 ^ number >> 60
