"""Records of keys for other nodes: what the owner knows, or the origin says, once for all that ask."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from proxy.errors import NotFound
from proxy.fleet.freshness import Freshness
from proxy.fleet.protocol import WantedRecord
from proxy.gateway.key_owner import parse_error
from proxy.objects import ObjectKey
from proxy.peering.keys import Keys
from proxy.relay.errors import PeerFailed
from tests.peering.answering_node import AnsweringNode, AskingNode


def key_of(node: AnsweringNode, key: str = "k") -> ObjectKey:
    return ObjectKey(node.origin.id, "b", key)


async def ask(asking: AskingNode, key: str = "k", ttl_s: float | None = 60.0, **more: Any) -> Any:
    wanted = WantedRecord(key_of(asking.node, key), ttl_s, **more)
    async with asyncio.timeout(60):
        return await asking.peers.read_record(asking.node.member, wanted)


async def test_the_origin_is_asked_once_and_the_record_has_its_age(node: AnsweringNode, asking: AskingNode) -> None:
    first = await ask(asking)
    assert first["asked"] is True
    assert first["record"]["validator"] == node.record.version.validator
    await node.engine.get("k")
    node.engine.now_s += 40
    later = await ask(asking)
    assert (later["asked"], later["age_s"]) == (False, 40)
    assert node.origin.heads == 1


async def test_many_that_ask_at_once_cost_one_request(node: AnsweringNode, asking: AskingNode) -> None:
    found = await asyncio.gather(*(ask(asking) for _ in range(20)))
    assert node.origin.heads == 1
    assert len({each["record"]["validator"] for each in found}) == 1


async def test_what_is_older_than_the_asker_allows_is_asked_anew(node: AnsweringNode, asking: AskingNode) -> None:
    await ask(asking, ttl_s=100.0)
    node.engine.now_s += 50
    await ask(asking, ttl_s=100.0)
    await ask(asking, ttl_s=None)
    assert node.origin.heads == 1
    assert (await ask(asking, ttl_s=10.0))["age_s"] == 0
    assert node.origin.heads == 2


async def test_an_asker_that_must_know_now_has_the_origin_asked(node: AnsweringNode, asking: AskingNode) -> None:
    await ask(asking)
    assert (await ask(asking, anew=True))["asked"] is True
    assert node.origin.heads == 2


async def test_an_owner_that_has_heard_of_fewer_writes_than_the_asker_asks_anew(
    node: AnsweringNode, asking: AskingNode
) -> None:
    node.fleet_state.heard = 100
    node.fleet_state.fresh_until_s = float("inf")
    keys = Keys(node.engine.versions, {node.origin.id: node.origin}, Freshness(node.fleet_state))
    node.app._keys = keys
    await ask(asking, heard=100)
    await ask(asking, heard=99)
    await ask(asking)
    assert node.origin.heads == 1
    await ask(asking, heard=101)
    assert node.origin.heads == 2


async def test_what_does_not_exist_is_told_as_the_origins_word(node: AnsweringNode, asking: AskingNode) -> None:
    error = parse_error((await ask(asking, "missing"))["error"], 0.0)
    assert isinstance(error, NotFound)
    assert error.what == "key"


async def test_an_origin_that_is_down_is_no_answer(node: AnsweringNode, asking: AskingNode) -> None:
    node.origin.down = True
    node.engine.versions._policy = replace(node.engine.versions._policy, deadline_s=0.0)
    with pytest.raises(PeerFailed) as failed:
        await ask(asking)
    assert (failed.value.reason, failed.value.faulty) == ("unavailable", False)


async def test_a_key_of_an_origin_that_is_not_here_is_no_answer(node: AnsweringNode, asking: AskingNode) -> None:
    with pytest.raises(PeerFailed) as failed:
        await asking.peers.read_record(node.member, WantedRecord(ObjectKey("s3://else", "b", "k"), 60.0))
    assert (failed.value.reason, failed.value.faulty) == ("missing", False)


async def test_an_owner_never_asks_on_whoever_it_thinks_is_the_owner(node: AnsweringNode, asking: AskingNode) -> None:
    class Stranger:
        def is_here(self, key: ObjectKey) -> bool:
            return False

        async def tell(self, key: ObjectKey, ttl_s: float | None, *, anew: bool, negative_ttl_s: float = 0.0) -> None:
            raise AssertionError("the owner asks on")

    node.engine.versions._owner = Stranger()
    assert (await ask(asking))["asked"] is True


async def test_keys_and_headers_of_any_bytes_travel(node: AnsweringNode, asking: AskingNode) -> None:
    key = "a+b %2F/\udcff\ud83d&=;\n"
    node.origin.put(key, b"content")
    record, content = node.origin.objects[key]
    node.origin.objects[key] = (replace(record, headers=(("x-amz-meta-a", "ü\udcff"),)), content)
    assert (await ask(asking, key))["record"]["headers"] == [["x-amz-meta-a", "ü\udcff"]]
