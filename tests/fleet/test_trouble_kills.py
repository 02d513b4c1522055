"""kill -9 in the middle of a gang's load: every other client gets all bytes, the origin sends little more than once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.fleet.fleet import BLOCK_BYTES, Fleet, start_fleet
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.midload import BLOCKS, SIZE_BYTES, begin, put
from tests.fleet.redis_servers import RedisServer, start_redis


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        start_redis(folder) as redis,
        start_fleet(folder, cloud, nodes=3, redis=redis) as fleet,
    ):
        yield fleet


def test_who_asked_the_origin_for_the_held_block_dies(fleet: Fleet) -> None:
    middle = begin(fleet, "winner")
    fleet.kill(middle.asker)
    lost = middle.blocks_of(middle.asker)
    middle.end()
    counts = fleet.cloud.block_gets("winner")
    assert {block for block, count in counts.items() if count > 1} <= lost
    fleet.assert_copies("winner", 1 + len(lost) * BLOCK_BYTES / SIZE_BYTES)  # its share is read again, to check


@pytest.mark.long
def test_who_reads_from_another_node_dies(fleet: Fleet) -> None:
    """Nothing of the blocks that the origin is sending to others is asked for again."""
    middle = begin(fleet, "reader")
    victim = middle.others(middle.asker)[0]
    fleet.kill(victim)
    lost = middle.blocks_of(victim)
    middle.end()
    counts = fleet.cloud.block_gets("reader")
    assert {block for block, count in counts.items() if count > 1} <= lost


@pytest.mark.long
def test_all_but_one_die(fleet: Fleet) -> None:
    middle = begin(fleet, "last")
    survivor = middle.others(middle.asker)[0]
    for number in middle.others(survivor):
        fleet.kill(number)
    middle.end()


def test_one_worker_dies_and_the_others_do_not_notice(fleet: Fleet) -> None:
    middle = begin(fleet, "worker")
    os.kill(fleet.nodes[middle.asker].worker_pids()[0], signal.SIGKILL)
    middle.loads.pop(middle.asker).wait()  # only its own client may
    middle.end()


def test_one_control_process_dies_and_nobody_notices(fleet: Fleet) -> None:
    middle = begin(fleet, "control")
    os.kill(fleet.nodes[middle.asker].control_pid(), signal.SIGKILL)
    middle.end()


def test_redis_dies(fleet: Fleet) -> None:
    assert isinstance(fleet.redis, RedisServer)
    middle = begin(fleet, "no-redis")
    fleet.redis.kill()
    try:
        middle.end()
        assert fleet.cloud.block_gets("no-redis") == dict.fromkeys(range(BLOCKS), 1)
        content = put(fleet, "without-redis")
        fleet.assert_right(fleet.load("without-redis"), content)
        fleet.assert_copies("without-redis", 1 + BLOCK_BYTES / SIZE_BYTES)
    finally:
        fleet.redis.restart()


@pytest.mark.long
def test_redis_dies_and_then_a_node(fleet: Fleet) -> None:
    assert isinstance(fleet.redis, RedisServer)
    middle = begin(fleet, "both")
    fleet.redis.kill()
    fleet.kill(middle.asker)
    try:
        middle.end()
        fleet.assert_copies("both", 2)
    finally:
        fleet.redis.restart()
