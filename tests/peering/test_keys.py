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
from tests.peering.answering_node import Asker, Station


def key_of(station: Station, key: str = "k") -> ObjectKey:
    return ObjectKey(station.origin.id, "b", key)


async def ask(asker: Asker, key: str = "k", ttl_s: float | None = 60.0, **more: Any) -> Any:
    wanted = WantedRecord(key_of(asker.station, key), ttl_s, **more)
    async with asyncio.timeout(60):
        return await asker.peers.read_record(asker.station.member, wanted)


async def test_the_origin_is_asked_once_and_the_record_has_its_age(station: Station, asker: Asker) -> None:
    first = await ask(asker)
    assert first["asked"] is True
    assert first["record"]["validator"] == station.record.version.validator
    await station.rig.get("k")
    station.rig.now_s += 40
    later = await ask(asker)
    assert (later["asked"], later["age_s"]) == (False, 40)
    assert station.origin.heads == 1


async def test_many_that_ask_at_once_cost_one_request(station: Station, asker: Asker) -> None:
    found = await asyncio.gather(*(ask(asker) for _ in range(20)))
    assert station.origin.heads == 1
    assert len({each["record"]["validator"] for each in found}) == 1


async def test_what_is_older_than_the_asker_allows_is_asked_anew(station: Station, asker: Asker) -> None:
    await ask(asker, ttl_s=100.0)
    station.rig.now_s += 50
    await ask(asker, ttl_s=100.0)
    await ask(asker, ttl_s=None)
    assert station.origin.heads == 1
    assert (await ask(asker, ttl_s=10.0))["age_s"] == 0
    assert station.origin.heads == 2


async def test_an_asker_that_must_know_now_has_the_origin_asked(station: Station, asker: Asker) -> None:
    await ask(asker)
    assert (await ask(asker, anew=True))["asked"] is True
    assert station.origin.heads == 2


async def test_an_owner_that_has_heard_of_fewer_writes_than_the_asker_asks_anew(station: Station, asker: Asker) -> None:
    station.fleet_state.heard = 100
    station.fleet_state.fresh_until_s = float("inf")
    keys = Keys(station.rig.versions, {station.origin.id: station.origin}, Freshness(station.fleet_state))
    station.app._keys = keys
    await ask(asker, heard=100)
    await ask(asker, heard=99)
    await ask(asker)
    assert station.origin.heads == 1
    await ask(asker, heard=101)
    assert station.origin.heads == 2


async def test_what_does_not_exist_is_told_as_the_origins_word(station: Station, asker: Asker) -> None:
    error = parse_error((await ask(asker, "missing"))["error"], 0.0)
    assert isinstance(error, NotFound)
    assert error.what == "key"


async def test_an_origin_that_is_down_is_no_answer(station: Station, asker: Asker) -> None:
    station.origin.down = True
    station.rig.versions._policy = replace(station.rig.versions._policy, deadline_s=0.0)
    with pytest.raises(PeerFailed) as failed:
        await ask(asker)
    assert (failed.value.reason, failed.value.faulty) == ("unavailable", False)


async def test_a_key_of_an_origin_that_is_not_here_is_no_answer(station: Station, asker: Asker) -> None:
    with pytest.raises(PeerFailed) as failed:
        await asker.peers.read_record(station.member, WantedRecord(ObjectKey("s3://else", "b", "k"), 60.0))
    assert (failed.value.reason, failed.value.faulty) == ("missing", False)


async def test_an_owner_never_asks_on_whoever_it_thinks_is_the_owner(station: Station, asker: Asker) -> None:
    class Stranger:
        def is_here(self, key: ObjectKey) -> bool:
            return False

        async def tell(self, key: ObjectKey, ttl_s: float | None, *, anew: bool, negative_ttl_s: float = 0.0) -> None:
            raise AssertionError("the owner asks on")

    station.rig.versions._owner = Stranger()
    assert (await ask(asker))["asked"] is True


async def test_keys_and_headers_of_any_bytes_travel(station: Station, asker: Asker) -> None:
    key = "a+b %2F/\udcff\ud83d&=;\n"
    station.origin.put(key, b"content")
    record, content = station.origin.objects[key]
    station.origin.objects[key] = (replace(record, headers=(("x-amz-meta-a", "ü\udcff"),)), content)
    assert (await ask(asker, key))["record"]["headers"] == [["x-amz-meta-a", "ü\udcff"]]
