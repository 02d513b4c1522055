"""Records of keys within a fleet: the owner says what it knows, in ages; an answer that makes no sense is passed by."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import AccessDenied, NotFound, OriginRefused, OriginUnavailable, WarmstartError
from proxy.fleet.freshness import Freshness
from proxy.fleet.owners import Owners, hash_key
from proxy.fleet.protocol import WantedRecord
from proxy.fleet.roster import Member, Roster, render_roster
from proxy.fleet.state import FleetState
from proxy.fleet.view import FleetView
from proxy.gateway.key_owner import KeyOwners, parse_error, render_answer, render_error
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion, SumKind
from proxy.relay.errors import PeerFailed
from tests.fakes.peers import member

KEY = ObjectKey("s3://origin", "bucket", "a key/with \udcff")
VERSION = ObjectVersion(KEY.origin, KEY.bucket, KEY.key, 'etag "1"', 1000)
RECORD = ObjectRecord(
    VERSION,
    '"1"',
    1.5,
    (("content-type", "text/plain"), ("x-amz-meta-a", "ü")),
    5000.0,
    sums=((SumKind.CRC64NVME, 2**64 - 1),),
    md5="0" * 32,
    generation=7,
    user_metadata=(("a", "ü"),),
)


class Owner:
    """Another node that answers what a test says, or raises it; by way of JSON, as on the wire."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.asked: list[tuple[str, WantedRecord]] = []

    async def read_record(self, owner: Member, wanted: WantedRecord) -> Any:
        self.asked.append((owner.node_id, wanted))
        if isinstance(self.answer, Exception):
            raise self.answer
        return json.loads(json.dumps(self.answer))


class AskingNode:
    """A node that asks, and its fleet state. `now_s` is Unix time and the monotonic clock."""

    def __init__(self, me: str = "", private: frozenset[str] = frozenset()) -> None:
        self.fleet_state = FleetState.create()
        self.roster = Roster(tuple(member(f"{number:02x}") for number in range(5)))
        self.fleet_state.publish_roster(render_roster(self.roster))
        self.order = [each.node_id for each in Owners(self.roster).order(hash_key(KEY.digest))]
        self.now_s = 6000.0
        self.view = FleetView(self.fleet_state, me or self.order[-1], clock=lambda: self.now_s)
        self.owner = Owner()
        self.freshness = Freshness(self.fleet_state, clock=lambda: self.now_s)
        self.owners = KeyOwners(self.view, self.owner, private, self.freshness, clock=lambda: self.now_s)


@pytest.fixture
def asking() -> Iterator[AskingNode]:
    made = AskingNode()
    yield made
    made.fleet_state.close()


async def test_the_keys_owner_is_asked_and_its_record_taken_as_old_as_it_says(asking: AskingNode) -> None:
    asking.owner.answer = render_answer(RECORD, 5040.0, asked=False)
    told = await asking.owners.tell(KEY, 60.0, anew=False)
    assert told is not None
    assert told.record == replace(RECORD, checked_at_s=asking.now_s - 40)
    assert not told.asked
    [(owner, wanted)] = asking.owner.asked
    assert owner == asking.order[0]
    assert (wanted.key, wanted.ttl_s, wanted.anew) == (KEY, 60.0, False)


async def test_that_the_origin_was_asked_for_this_very_request_is_told(asking: AskingNode) -> None:
    asking.owner.answer = render_answer(RECORD, RECORD.checked_at_s, asked=True)
    told = await asking.owners.tell(KEY, None, anew=True)
    assert told is not None
    assert told.asked
    assert told.record.checked_at_s == asking.now_s
    assert asking.owner.asked[0][1].anew


async def test_a_record_from_a_clock_that_goes_ahead_is_never_of_the_future(asking: AskingNode) -> None:
    asking.owner.answer = render_answer(RECORD, RECORD.checked_at_s - 1000, asked=False)
    told = await asking.owners.tell(KEY, 60.0, anew=False)
    assert told is not None
    assert told.record.checked_at_s == asking.now_s


async def test_what_the_asker_has_heard_of_writes_goes_with_the_question(asking: AskingNode) -> None:
    asking.fleet_state.heard = 123456
    asking.owner.answer = render_answer(RECORD, 5000.0, asked=False)
    await asking.owners.tell(KEY, 60.0, anew=False)
    assert asking.owner.asked[0][1].heard == 123456


async def test_the_owner_itself_a_node_alone_and_private_origins_ask_nobody(asking: AskingNode) -> None:
    for other in (AskingNode(asking.order[0]), AskingNode(private=frozenset({KEY.origin}))):
        assert other.owners.is_here(KEY)
        assert await other.owners.tell(KEY, 60.0, anew=False) is None
        assert other.owner.asked == []
        other.fleet_state.close()
    assert not asking.owners.is_here(KEY)
    asking.fleet_state.publish_roster(render_roster(Roster((member(asking.view.node_id),))))
    assert asking.owners.is_here(KEY)
    assert await asking.owners.tell(KEY, 60.0, anew=False) is None


@pytest.mark.parametrize("reason", ["gone", "silent", "refused", "foreign", "wrong"])
async def test_an_owner_that_fails_is_avoided_and_the_next_one_owns_the_key(asking: AskingNode, reason: str) -> None:
    asking.owner.answer = PeerFailed(asking.order[0], reason, "as scripted")
    assert await asking.owners.tell(KEY, 60.0, anew=False) is None
    await asking.owners.tell(KEY, 60.0, anew=False)
    assert [owner for owner, _ in asking.owner.asked] == asking.order[:2]


@pytest.mark.parametrize("reason", ["unavailable", "missing", "busy"])
async def test_an_owner_that_can_not_say_is_passed_by_and_asked_again_next_time(
    asking: AskingNode, reason: str
) -> None:
    asking.owner.answer = PeerFailed(asking.order[0], reason, "as scripted")
    for _ in range(2):
        assert await asking.owners.tell(KEY, 60.0, anew=False) is None
    assert [owner for owner, _ in asking.owner.asked] == asking.order[:1] * 2


@pytest.mark.parametrize(
    "error",
    [
        NotFound("key", "a key"),
        NotFound("key", "a key", certain=False),
        NotFound("version", "7"),
        AccessDenied("the origin refuses"),
        OriginRefused(403, (("content-type", "application/xml"), ("x", "ü")), b"<Error>\xff</Error>"),
    ],
)
async def test_final_answers_of_the_origin_arrive_as_they_were(asking: AskingNode, error: WarmstartError) -> None:
    asking.owner.answer = render_error(error, 0.0)
    with pytest.raises(type(error)) as raised:
        await asking.owners.tell(KEY, 60.0, anew=False)
    assert str(raised.value) == str(error)
    assert vars(raised.value) | {"checked_at_s": None} == vars(error) | {"checked_at_s": None}


async def test_not_found_is_as_old_as_the_owner_says(asking: AskingNode) -> None:
    error = NotFound("key", "k", checked_at_s=5000.0)
    asking.owner.answer = render_error(error, 5003.0)
    with pytest.raises(NotFound) as raised:
        await asking.owners.tell(KEY, 60.0, anew=False, negative_ttl_s=9.0)
    assert raised.value.checked_at_s == asking.now_s - 3.0
    assert asking.owner.asked[0][1].negative_ttl_s == 9.0


def test_what_the_asker_had_better_find_out_itself_does_not_travel() -> None:
    assert render_error(OriginUnavailable("down"), 0.0) is None


def with_change(**changes: Any) -> Any:
    told = render_answer(RECORD, 5040.0, asked=False)
    return told | {"record": told["record"] | changes}


ANSWERS: list[Any] = [
    None,
    7,
    "text",
    [],
    {},
    {"record": None, "age_s": 1, "asked": False},
    {"record": {}, "age_s": 1, "asked": False},
    with_change(size_bytes="1000"),
    with_change(size_bytes=-1),
    with_change(validator=""),
    with_change(validator=None),
    with_change(sums=[["md5", 1]]),
    with_change(headers=[["one"]]),
    with_change(cacheable=1),
    render_answer(RECORD, 5040.0, asked=False) | {"age_s": "old"},
    render_answer(RECORD, 5040.0, asked=False) | {"age_s": None},
    render_answer(RECORD, 5040.0, asked=False) | {"age_s": 10**400},
    {"error": None},
    {"error": "not_found"},
    {"error": {}},
    {"error": {"kind": "else"}},
    {"error": {"kind": "not_found"}},
    {"error": {"kind": "not_found", "what": "else", "name": "k", "certain": True, "age_s": 1}},
    {"error": {"kind": "not_found", "what": "key", "name": "k", "certain": True, "age_s": "nan"}},
    {"error": {"kind": "not_found", "what": "key", "name": "k", "certain": True}},
    {"error": {"kind": "refused", "status": "x", "headers": [], "body": ""}},
    {"error": {"kind": "refused", "status": 403, "headers": [["x"]], "body": ""}},
    {"error": {"kind": "refused", "status": 403, "headers": [], "body": "not base64"}},
]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_answer_that_no_owner_gives_is_passed_by(asking: AskingNode, answer: Any) -> None:
    asking.owner.answer = answer
    assert await asking.owners.tell(KEY, 60.0, anew=False) is None


async def test_an_age_that_is_no_number_never_makes_a_record_fresh_for_ever(asking: AskingNode) -> None:
    for age_s in (math.nan, math.inf, -math.inf):
        asking.owner.answer = render_answer(RECORD, 5000.0, asked=False) | {"age_s": age_s}
        told = await asking.owners.tell(KEY, 60.0, anew=False)
        assert told is None or told.record.checked_at_s <= asking.now_s


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(json_values)
def test_no_error_of_another_node_breaks_the_one_that_asked(values: Any) -> None:
    try:
        parse_error(values, 0.0)
    except (KeyError, TypeError, ValueError, OverflowError):
        return
