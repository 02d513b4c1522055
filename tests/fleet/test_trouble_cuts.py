"""Nodes that stand still, are cut off, join and leave in the middle of a gang's load, and an origin that throttles."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from proxy.fleet.rediskeys import RedisKeys
from tests.fleet.fleet import BLOCK_BYTES, Fleet, start_fleet, wait_for_members
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.midload import SIZE_BYTES, begin, put
from tests.fleet.redis_servers import RedisServer, start_redis
from tests.gateways import GatewayProcess, send_signal
from tests.waiting import wait_until

NODES = 3


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        start_redis(folder) as redis,
        start_fleet(folder, cloud, nodes=NODES, redis=redis, doors=True) as fleet,
    ):
        yield fleet


def lease_holders(fleet: Fleet) -> set[str]:
    """Ids of the nodes that hold a lease on a block just now."""
    assert isinstance(fleet.redis, RedisServer)
    client = fleet.redis.client()
    names = list(client.scan_iter(RedisKeys("warmstart").lease("*", "*")))
    found = [json.loads(text) for text in client.mget(names) if text] if names else []
    client.close()
    return {lease["node"] for lease in found if not lease["done"]}


def test_a_node_that_stands_still_for_longer_than_its_lease(fleet: Fleet) -> None:
    middle = begin(fleet, "paused")
    paused = middle.asker
    holders = lease_holders(fleet)
    fleet.pause(paused)
    lost = middle.blocks_of(paused)
    try:
        fleet.cloud.release()
        fleet.assert_right({number: middle.loads[number] for number in middle.others(paused)}, middle.content)
        own = holders - lease_holders(fleet)
        wait_until(lambda: not lease_holders(fleet), "a lease is held for ever")
        assert own or not lease_holders(fleet)
    finally:
        fleet.resume(paused)
    middle.end()
    fleet.assert_copies("paused", 1 + 2 * len(lost) * BLOCK_BYTES / SIZE_BYTES)  # its own, and a check of what it gave


@pytest.mark.long
def test_a_node_that_nobody_reaches(fleet: Fleet) -> None:
    """Nor does it reach Redis; it does reach the others, and the origin."""
    middle = begin(fleet, "cut")
    fleet.cut(middle.asker)
    try:
        middle.end()
    finally:
        fleet.mend(middle.asker)
    fleet.assert_copies("cut", 2)  # it owns its share, and no lease tells it otherwise


@pytest.mark.long
def test_a_load_while_a_node_is_cut_off(fleet: Fleet) -> None:
    content = put(fleet, "while-cut")
    fleet.cut(0)
    try:
        fleet.assert_right(fleet.load("while-cut"), content)
    finally:
        fleet.mend(0)
    fleet.assert_copies("while-cut", 2)


@pytest.mark.long
def test_connections_between_nodes_break(fleet: Fleet) -> None:
    middle = begin(fleet, "slammed")
    for door in fleet.doors[middle.asker][:2]:
        door.slam()
        door.open()
    lost = middle.blocks_of(middle.asker)
    middle.end()
    fleet.assert_copies("slammed", 1 + len(lost) * BLOCK_BYTES / SIZE_BYTES)


def test_a_node_joins(fleet: Fleet) -> None:
    middle = begin(fleet, "joined")
    with fleet.guest(NODES):
        middle.loads.update(fleet.load("joined", [NODES]))
        middle.end()
        fleet.assert_copies("joined", 1)


@pytest.mark.long
def test_a_node_that_has_not_heard_of_a_new_one(fleet: Fleet) -> None:
    """Two then believe that they own one block: the lease settles it, until the silent one is no member any more."""
    control = fleet.nodes[0].control_pid()
    content = put(fleet, "unheard-of")
    os.kill(control, signal.SIGSTOP)
    try:
        with fleet.guest(NODES, known_to=[NODES]):
            fleet.assert_right(fleet.load("unheard-of"), content)
            os.kill(control, signal.SIGCONT)
    finally:
        send_signal(control, signal.SIGCONT)
    fleet.assert_copies("unheard-of", 2)


def test_a_node_leaves_and_its_own_client_gets_all(fleet: Fleet) -> None:
    middle = begin(fleet, "left")
    leaving = middle.asker
    stopping = threading.Thread(target=fleet.nodes[leaving].stop)
    stopping.start()
    wait_for_members([fleet.nodes[number] for number in middle.others(leaving)], NODES)  # draining, it is still one
    lost = middle.blocks_of(leaving)
    fleet.cloud.release()
    fleet.assert_right(middle.loads, middle.content)
    stopping.join()
    fleet.living.discard(leaving)
    middle.end()
    fleet.assert_copies("left", 1 + len(lost) * BLOCK_BYTES / SIZE_BYTES)


def test_an_origin_that_refuses_the_first_get_of_each_block(fleet: Fleet) -> None:
    blocks = 4
    content = put(fleet, "throttled", blocks * BLOCK_BYTES)
    fleet.cloud.refuse_first_gets(1)
    try:
        fleet.assert_right(fleet.load("throttled"), content)
    finally:
        fleet.cloud.refuse_first_gets(None)
    assert fleet.cloud.refused() == blocks
    assert fleet.cloud.block_gets("throttled") == dict.fromkeys(range(blocks), 1)


def drops_messages(node: GatewayProcess) -> bool:
    return node.metric("warmstart_fleet_dropped_messages_total", reason="signature") > 0


@pytest.mark.long
def test_a_node_with_another_secret_is_left_alone_and_serves_its_clients_itself(fleet: Fleet) -> None:
    content = put(fleet, "foreign")
    with fleet.guest(NODES, secret="not the secret of this fleet", known_to=[]):
        for node in (fleet.nodes[0], fleet.nodes[NODES]):  # each drops what the other says in Redis
            wait_until(partial(drops_messages, node), f"{node.url} drops nothing that is sealed with another secret")
        wait_for_members(fleet.nodes[:NODES], NODES)
        wait_for_members([fleet.nodes[NODES]], 1)
        fleet.assert_right(fleet.load("foreign"), content)
        fleet.assert_copies("foreign", 2.1)
