"""kill -9 in the middle of a gang's load: every other client gets all bytes, the origin sends little more than once.

In each test the origin stands still within every block from the third on, so that all nodes are in mid-load; then
somebody dies, then the origin goes on.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest

from tests.fleet.cloud import Asked, HeldCloud
from tests.fleet.fleet import BLOCK_BYTES, Fleet, Load, start_fleet
from tests.fleet.servers import start_redis

BLOCKS = 12
SIZE_BYTES = BLOCKS * BLOCK_BYTES - 777
HELD_AT = 2 * BLOCK_BYTES + 200_000


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with (
        HeldCloud(BLOCK_BYTES) as cloud,
        start_redis(folder) as redis,
        start_fleet(folder, cloud, nodes=3, redis=redis) as fleet,
    ):
        yield fleet


@pytest.fixture
def fleet(started: Fleet) -> Iterator[Fleet]:
    yield started
    started.cloud.release()
    started.restore()


def begin(fleet: Fleet, key: str) -> tuple[bytes, dict[int, Load], list[Asked]]:
    """The object, its loads, all in mid-block, and the answers of the origin that stand still."""
    content = random.Random(key).randbytes(SIZE_BYTES)
    fleet.cloud.put(key, content)
    fleet.cloud.hold_at(HELD_AT)
    loads = fleet.load(key)
    for load in loads.values():
        load.wait_for(HELD_AT - HELD_AT % BLOCK_BYTES)
        assert load.error is None
    return content, loads, fleet.cloud.wait_until_held()


def end(fleet: Fleet, key: str, content: bytes, loads: dict[int, Load]) -> None:
    fleet.cloud.release()
    fleet.assert_right(loads, content)
    again = fleet.load(key)
    fleet.assert_right(again, content)


def test_who_asked_the_origin_for_the_held_block_dies(fleet: Fleet) -> None:
    """It owns the block, holds its lease, and feeds the others."""
    content, loads, held = begin(fleet, "winner")
    lost = {asked.start // BLOCK_BYTES for asked in held if asked.node == held[0].node}
    fleet.kill(held[0].node)
    end(fleet, "winner", content, loads)
    counts = fleet.cloud.block_gets("winner")
    assert all(count == 1 for block, count in counts.items() if block not in lost)
    assert fleet.cloud.copies("winner") <= 1 + len(lost) * BLOCK_BYTES / SIZE_BYTES  # its share is read again, to check


def test_who_reads_from_another_node_dies(fleet: Fleet) -> None:
    """Nothing of the blocks that the origin is sending is lost."""
    content, loads, held = begin(fleet, "reader")
    fleet.kill(next(number for number in fleet.living if number != held[0].node))
    end(fleet, "reader", content, loads)
    first = held[0].start // BLOCK_BYTES
    assert fleet.cloud.block_gets("reader")[first] == 1
    assert fleet.cloud.copies("reader") <= 1.5


def test_two_of_three_die(fleet: Fleet) -> None:
    content, loads, held = begin(fleet, "last")
    survivor = next(number for number in fleet.living if number != held[0].node)
    for number in sorted(fleet.living - {survivor}):
        fleet.kill(number)
    end(fleet, "last", content, loads)


def test_one_worker_dies_and_the_node_goes_on(fleet: Fleet) -> None:
    """Only clients of that worker notice: here, its own."""
    content, loads, held = begin(fleet, "worker")
    victim = held[0].node
    os.kill(fleet.nodes[victim].worker_pids()[0], signal.SIGKILL)
    loads.pop(victim).wait()
    end(fleet, "worker", content, loads)


def test_redis_dies(fleet: Fleet) -> None:
    assert fleet.redis is not None
    content, loads, _ = begin(fleet, "no-redis")
    fleet.redis.kill()
    try:
        fleet.cloud.release()
        fleet.assert_right(loads, content)
        assert fleet.cloud.block_gets("no-redis") == dict.fromkeys(range(BLOCKS), 1)
        content = random.Random(9).randbytes(SIZE_BYTES)
        fleet.cloud.put("without-redis", content)
        fleet.assert_right(fleet.load("without-redis"), content)
        assert fleet.cloud.block_gets("without-redis") == dict.fromkeys(range(BLOCKS), 1)
    finally:
        fleet.redis.restart()


def test_redis_dies_and_then_a_node(fleet: Fleet) -> None:
    assert fleet.redis is not None
    content, loads, held = begin(fleet, "both")
    fleet.redis.kill()
    fleet.kill(held[0].node)
    fleet.cloud.release()
    try:
        fleet.assert_right(loads, content)
        assert fleet.cloud.copies("both") <= 2
    finally:
        fleet.redis.restart()
