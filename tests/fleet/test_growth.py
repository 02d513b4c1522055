"""A fleet that grows keeps what it has: whom a block belongs to now asks whom it belonged to before."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fleet.fleet import BLOCK_BYTES, start_fleet, wait_for_members
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.redis_servers import start_redis

CONTENT = random.Random(9).randbytes(20 * BLOCK_BYTES)


def test_a_node_that_joins_later_costs_the_origin_nothing(tmp_path: Path) -> None:
    with HeldOrigin(BLOCK_BYTES) as cloud, start_redis(tmp_path) as redis:
        cloud.put("model", CONTENT)
        with start_fleet(tmp_path, cloud, nodes=2, redis=redis) as fleet:
            fleet.assert_right(fleet.load("model"), CONTENT)
            client = redis.client()
            for name in client.scan_iter("*:lease:*"):  # their word of who has what, as after their minute
                client.delete(name)
            client.close()
            before = len([asked for asked in cloud.asked if asked.method == "GET"])
            fleet.begin([2])
            wait_for_members([fleet.nodes[number] for number in range(3)], 3)
            fleet.assert_right(fleet.load("model", [2]), CONTENT)
            after = len([asked for asked in cloud.asked if asked.method == "GET"])
            assert (before, after) == (20, 20)
            assert fleet.nodes[2].metric("warmstart_relayed_fills_total", source="former") > 0
