"""In a fleet, what a node remembers counts only while it is sure to have heard of every write."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from proxy.errors import NotFound
from proxy.fleet.freshness import FRESHNESS_S, Freshness
from proxy.fleet.state import FleetState
from proxy.gateway.answers import ReadObject
from proxy.gateway.routes import Consistency
from proxy.objects import ObjectName
from tests.gateway.engine import Engine
from tests.waiting import until

OLD, NEW = b"old content", b"new and longer content"


@pytest.fixture
def fleet_state(engine: Engine) -> Iterator[FleetState]:
    """The engine's node is in a fleet; it has a freshness window until the test takes it away. One clock for all."""
    fleet_state = FleetState.create()
    fleet_state.fresh_until_s = engine.now_s + 1000
    engine.rule(freshness=Freshness(fleet_state, clock=lambda: engine.now_s))
    yield fleet_state
    fleet_state.close()


def hot(engine: Engine) -> bool:
    """Whether the next read would be answered at once."""
    prepared = engine.gateway.prepare(ReadObject(ObjectName("b", "k")))
    return prepared is not None and prepared.peek(None) is not None


async def soon_hot(engine: Engine) -> bool:
    """As soon as what was found is remembered."""
    await until(lambda: hot(engine))
    return True


async def test_within_the_window_a_record_lasts_its_ttl(engine: Engine, fleet_state: FleetState) -> None:
    engine.origin.put("k", OLD)
    for _ in range(3):
        await engine.get("k")
        engine.now_s += 19
    assert await soon_hot(engine)
    assert engine.origin.heads == 1
    engine.now_s += 10
    assert not hot(engine)


async def test_without_a_window_the_origin_is_asked_once_in_a_while(engine: Engine, fleet_state: FleetState) -> None:
    engine.origin.put("k", OLD)
    await engine.get("k")
    fleet_state.fresh_until_s = engine.now_s
    engine.now_s += FRESHNESS_S - 0.1
    assert await engine.get("k") == OLD
    assert await soon_hot(engine)
    assert engine.origin.heads == 1
    engine.origin.put("k", NEW)
    engine.now_s += 0.2
    assert not hot(engine)
    assert await engine.get("k") == NEW
    assert engine.origin.heads == 2


async def test_what_was_checked_before_a_gap_is_asked_for_once(engine: Engine, fleet_state: FleetState) -> None:
    engine.origin.put("k", OLD)
    await engine.get("k")
    fleet_state.due_before_s = engine.now_s
    engine.now_s += 0.1
    engine.origin.put("k", NEW)
    assert not hot(engine)
    assert await engine.get("k") == NEW
    engine.now_s += 10
    assert await engine.get("k") == NEW
    assert engine.origin.heads == 2


async def test_an_immutable_bucket_needs_no_window(engine: Engine, fleet_state: FleetState) -> None:
    engine.rule(consistency=Consistency.IMMUTABLE)
    engine.origin.put("k", OLD)
    await engine.get("k")
    fleet_state.fresh_until_s, fleet_state.due_before_s = 0.0, engine.now_s
    engine.now_s += 1e6
    assert await soon_hot(engine)


async def test_not_found_is_believed_no_longer_than_a_record(engine: Engine, fleet_state: FleetState) -> None:
    engine.rule(negative_ttl_s=60.0)
    with pytest.raises(NotFound):
        await engine.get("k")
    engine.origin.put("k", NEW)
    with pytest.raises(NotFound):
        await engine.get("k")
    fleet_state.fresh_until_s = engine.now_s
    engine.now_s += FRESHNESS_S + 0.1
    assert await engine.get("k") == NEW


async def test_nobody_joins_a_question_from_before_a_write_that_this_node_has_missed(
    engine: Engine, fleet_state: FleetState
) -> None:
    engine.rule(ttl_s=1000.0)
    engine.origin.put("k", OLD)
    await engine.get("k")
    fleet_state.fresh_until_s = engine.now_s
    engine.now_s += 60
    asked, answer_now = asyncio.Event(), asyncio.Event()
    old = engine.origin.objects["k"]

    async def before_head() -> None:
        asked.set()
        await answer_now.wait()

    engine.origin.before_head = before_head
    first = asyncio.ensure_future(engine.get("k"))
    await asked.wait()
    engine.now_s += FRESHNESS_S + 0.1
    engine.origin.put("k", NEW)
    second = asyncio.ensure_future(engine.get("k"))
    await asyncio.sleep(0)
    engine.origin.before_head = None
    new, engine.origin.objects["k"] = engine.origin.objects["k"], old
    answer_now.set()
    async with asyncio.timeout(10):
        while engine.origin.heads < 2:
            await asyncio.sleep(0)
    engine.origin.objects["k"] = new
    await asyncio.wait({first})
    assert await second == NEW
