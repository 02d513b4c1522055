"""One node of a fleet loses its network in mid-load, as a machine does whose cable is pulled: nobody is told.

The nodes are network namespaces; the origin, Redis and the clients reach them by an interface of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.network import Network, permitted
from tests.fleet.fleet import BLOCK_BYTES, PORT, SECRET, Fleet, wait_for_members
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.midload import begin
from tests.fleet.redis_servers import start_redis
from tests.gateways import start_gateway
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not permitted(), reason="may not make network namespaces"),
]
NODES = 3


@contextlib.contextmanager
def start_islands(folder: Path, network: Network) -> Iterator[Fleet]:
    """A fleet with a namespace for each node."""
    namespaces = [network.add(0) for _ in range(NODES)]
    bound = ("--bind", "127.0.0.1", network.host_address, "--protected-mode", "no")
    with (
        HeldOrigin(BLOCK_BYTES, network.host_address) as cloud,
        start_redis(folder, arguments=bound) as redis,
        contextlib.ExitStack() as stack,
    ):
        fleet = Fleet(folder, cloud, "", redis, {}, 1, False)
        for number, place in enumerate(namespaces):
            cluster = {
                "redis": f"redis://{network.host_address}:{redis.port}/0",
                "advertise": f"http://{place.address}:{PORT}",
                "secret": SECRET,
            }
            config = {"listen": f"0.0.0.0:{PORT}", "auth": "none", "cluster": cluster}
            config["cache"] = {"block_size": f"{BLOCK_BYTES}B"}
            home = folder / place.name
            home.mkdir()
            gateway = start_gateway(home, origin=cloud.settings(number), config=config, wait=False, prefix=place.prefix)
            gateway.url = f"http://{place.side_address}:{PORT}"
            fleet.nodes.append(stack.enter_context(gateway))
            fleet.living.add(number)
            wait_until((home / "gateway.url").exists, "a gateway does not start", 120)
        wait_for_members(fleet.nodes, NODES)
        yield fleet


@pytest.fixture(scope="module")
def islands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Network]]:
    with Network() as network, start_islands(tmp_path_factory.mktemp("islands"), network) as fleet:
        yield fleet, network


def test_a_node_that_no_other_node_reaches_goes_on_by_itself(islands: tuple[Fleet, Network]) -> None:
    """It has Redis, the origin and its client, and so have the others."""
    fleet, network = islands
    middle = begin(fleet, "apart")
    network.cut(network.namespaces[middle.asker], side=False)
    try:
        middle.end()
    finally:
        network.mend(network.namespaces[middle.asker])
    fleet.assert_copies("apart", 2)
    fleet.restore()


def test_a_node_that_is_cut_off_from_everything_takes_nobody_along(islands: tuple[Fleet, Network]) -> None:
    fleet, network = islands
    middle = begin(fleet, "cut-off")
    network.cut(network.namespaces[middle.asker])
    try:
        fleet.cloud.release()
        others = {number: middle.loads[number] for number in middle.others(middle.asker)}
        fleet.assert_right(others, middle.content)
    finally:
        network.mend(network.namespaces[middle.asker])
    middle.end()  # its own client, too: the network is back
    fleet.assert_copies("cut-off", 2)
    fleet.restore()
