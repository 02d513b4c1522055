"""Zones: each block leaves the origin once, and crosses into each other zone once. And secrets that change."""

from __future__ import annotations

import random
from pathlib import Path

from tests.fleet.fleet import BLOCK_BYTES, SECRET, start_fleet, wait_for_members
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.redis_servers import start_redis

BLOCKS = 16
CONTENT = random.Random(8).randbytes(BLOCKS * BLOCK_BYTES)
ZONES = {0: "a", 1: "a", 2: "b", 3: "b"}
NEW_SECRET = "the secret that comes after that one"


def test_a_block_crosses_into_another_zone_once(tmp_path: Path) -> None:
    with HeldOrigin(BLOCK_BYTES) as cloud, start_redis(tmp_path) as redis:
        cloud.put("model", CONTENT)
        with start_fleet(tmp_path, cloud, nodes=4, redis=redis, zones=ZONES) as fleet:
            fleet.assert_right(fleet.load("model"), CONTENT)
            assert cloud.block_gets("model") == dict.fromkeys(range(BLOCKS), 1)
            assert fleet.metric("warmstart_relayed_fills_total", source="origin") == BLOCKS
            assert fleet.metric("warmstart_relayed_fills_total", source="region") == BLOCKS
            assert fleet.metric("warmstart_relayed_fills_total", source="zone") == 2 * BLOCKS


def test_a_fleet_changes_its_secret_without_a_pause(tmp_path: Path) -> None:
    """A node that signs with the new one already, among those that still sign with the old one."""
    both = {"cluster": {"secret": [SECRET, NEW_SECRET]}}
    with HeldOrigin(BLOCK_BYTES) as cloud, start_redis(tmp_path) as redis:
        cloud.put("model", CONTENT)
        with start_fleet(tmp_path, cloud, nodes=2, redis=redis, config=both) as fleet:
            fleet.config = {"cluster": {"secret": [NEW_SECRET, SECRET]}}
            fleet.begin([2])
            wait_for_members(fleet.nodes, 3)
            fleet.assert_right(fleet.load("model"), CONTENT)
            assert cloud.block_gets("model") == dict.fromkeys(range(BLOCKS), 1)
            for number in range(3):
                assert fleet.nodes[number].metric("warmstart_peer_received_bytes_total") > 0
            assert fleet.metric("warmstart_peer_failures_total", reason="refused") == 0
