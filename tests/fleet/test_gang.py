"""A whole fleet loads one object at once: right bytes everywhere, and the origin is asked for each block once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.fleet import BLOCK_BYTES, Fleet, start_fleet
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.redis_servers import start_redis

BLOCKS = 12
SIZE_BYTES = BLOCKS * BLOCK_BYTES - 777


def content_of(seed: int, size_bytes: int = SIZE_BYTES) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


@pytest.fixture(scope="module", params=["redis", "peers"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder: Path = tmp_path_factory.mktemp("fleet")
    with HeldOrigin(BLOCK_BYTES) as cloud:
        if request.param == "redis":
            with start_redis(folder) as redis, start_fleet(folder, cloud, redis=redis, workers=2) as started:
                yield started
        else:
            with start_fleet(folder, cloud) as started:
                yield started


def test_each_block_is_asked_of_the_origin_once_and_the_key_once(fleet: Fleet) -> None:
    content = content_of(1)
    fleet.cloud.put("together", content)
    fleet.assert_right(fleet.load("together"), content)
    assert fleet.cloud.block_gets("together") == dict.fromkeys(range(BLOCKS), 1)
    assert fleet.cloud.copies("together") == 1
    assert fleet.cloud.heads("together") == 1


def test_more_than_one_client_at_each_node_changes_nothing(fleet: Fleet) -> None:
    content = content_of(2)
    fleet.cloud.put("crowded", content)
    crowd = [fleet.load("crowded") for _ in range(4)]
    for loads in crowd:
        fleet.assert_right(loads, content)
    assert fleet.cloud.block_gets("crowded") == dict.fromkeys(range(BLOCKS), 1)


def test_who_comes_later_gets_it_from_those_who_have_it(fleet: Fleet) -> None:
    content = content_of(3)
    fleet.cloud.put("later", content)
    fleet.assert_right(fleet.load("later", [0]), content)
    before = len(fleet.cloud.asked)
    fleet.assert_right(fleet.load("later", [1, 2]), content)
    assert len(fleet.cloud.asked) == before
    assert fleet.cloud.block_gets("later") == dict.fromkeys(range(BLOCKS), 1)


def test_bytes_are_passed_on_before_the_origin_has_sent_the_block(fleet: Fleet) -> None:
    content = content_of(4)
    fleet.cloud.put("relayed", content)
    fleet.cloud.hold_at(BLOCK_BYTES + 200_000)
    loads = fleet.load("relayed")
    fleet.cloud.wait_until_held()
    for load in loads.values():
        load.wait_for(BLOCK_BYTES + 64_000)
        assert load.error is None
    fleet.cloud.release()
    fleet.assert_right(loads, content)
    assert fleet.cloud.copies("relayed") == 1


def test_a_small_object_is_read_once(fleet: Fleet) -> None:
    content = content_of(5, 10_000)
    fleet.cloud.put("small", content)
    fleet.assert_right(fleet.load("small"), content)
    assert len(fleet.cloud.gets("small")) == 1
    assert fleet.cloud.heads("small") == 1


def test_nodes_feed_each_other(fleet: Fleet) -> None:
    content = content_of(6)
    fleet.cloud.put("fed", content)
    before = fleet.metric("warmstart_peer_received_bytes_total")
    fleet.assert_right(fleet.load("fed"), content)
    assert fleet.metric("warmstart_peer_received_bytes_total") - before == 2 * len(content)
