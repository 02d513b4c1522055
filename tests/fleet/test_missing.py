"""Keys that are not there cost the origin one request, once a while, of the whole fleet; a write ends that at once."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fleet.fleet import BLOCK_BYTES, Fleet, start_fleet
from tests.fleet.held_origin import BUCKET, HeldOrigin
from tests.fleet.redis_servers import RedisServer, start_redis
from tests.gateways import GatewayProcess, start_gateway

KEYS = 100
TTL_S = 5.0
FOR_EVER = {"buckets": {"*": {"negative_ttl": "1h", "writes": "through"}}}
CONNECTIONS = 4  # to each gateway, kept


def ask_all(gateways: Sequence[GatewayProcess], method: str, prefix: str, count: int) -> float:
    """So many requests for KEYS missing keys, by all connections at once; how long they took, in seconds."""
    wrong: list[object] = []

    def ask(gateway: GatewayProcess, first: int, share: int) -> None:
        place = urlsplit(gateway.url)
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        try:
            for number in range(first, first + share):
                connection.request(method, f"/{BUCKET}/{prefix}-{number % KEYS}")
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 404 or (method == "GET") != (b"<Code>NoSuchKey</Code>" in body):
                    wrong.append((answer.status, body))
        except Exception as error:
            wrong.append(error)
        finally:
            connection.close()

    share = count // (CONNECTIONS * len(gateways))
    began_s = time.monotonic()
    threads = [
        threading.Thread(target=ask, args=(gateway, KEYS * number // CONNECTIONS, share))
        for gateway in gateways
        for number in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    return time.monotonic() - began_s


def most(took_s: float) -> int:
    """One request for each key in each of the periods that the questions lasted."""
    return KEYS * (1 + int(took_s / TTL_S))


def missed(cloud: HeldOrigin, prefix: str) -> Counter[str]:
    """What the origin was asked for that it does not have, by method."""
    return Counter(asked.method for asked in cloud.asked if asked.key.startswith(prefix))


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_many_questions_for_missing_keys_cost_one_request_for_each_key(tmp_path: Path, count: int) -> None:
    """By HEADs and by GETs, whichever worker is asked."""
    config = {"buckets": {"*": {"negative_ttl": f"{TTL_S:.0f}s"}}, "cache": {"block_size": f"{BLOCK_BYTES}B"}}
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        start_gateway(tmp_path, origin=cloud.settings(0), workers=2, config=config) as gateway,
    ):
        took_s = ask_all([gateway], "HEAD", "headed", count)
        asked = missed(cloud, "headed")
        assert asked.keys() == {"HEAD"}
        assert KEYS <= asked["HEAD"] <= most(took_s)
        took_s = ask_all([gateway], "GET", "got", count // 2)
        assert missed(cloud, "got").total() <= most(took_s) + 4  # and whether the bucket is there, each worker
        assert gateway.metric("warmstart_missing_remembered_total") > 0


def test_without_memory_a_head_of_a_missing_key_costs_one_request(tmp_path: Path) -> None:
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        start_gateway(tmp_path, origin=cloud.settings(0)) as gateway,
    ):
        ask_all([gateway], "HEAD", "headed", 2 * KEYS)
        assert missed(cloud, "headed") <= Counter({"HEAD": 2 * KEYS})


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_in_a_fleet_the_keys_owner_remembers_for_all(tmp_path: Path, redis: RedisServer) -> None:
    config = {"buckets": {"*": {"negative_ttl": f"{TTL_S:.0f}s"}}}
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        start_fleet(tmp_path, cloud, nodes=3, redis=redis, config=config) as fleet,
    ):
        took_s = ask_all(fleet.nodes, "HEAD", "headed", 1200)
        asked = missed(cloud, "headed")
        assert asked.keys() == {"HEAD"}
        assert asked["HEAD"] <= most(took_s)


def status_of(fleet: Fleet, number: int, key: str) -> int:
    place = urlsplit(fleet.nodes[number].url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    try:
        connection.request("HEAD", f"/{BUCKET}/{key}")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def test_a_write_through_one_node_ends_what_all_remember(tmp_path: Path, redis: RedisServer) -> None:
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        start_fleet(tmp_path, cloud, nodes=3, redis=redis, config=FOR_EVER) as fleet,
    ):
        for round_number in range(3):
            key = f"written-{round_number}"
            for _ in range(2):
                assert [status_of(fleet, number, key) for number in range(3)] == [404] * 3
            assert cloud.heads(key) == 1
            place = urlsplit(fleet.nodes[round_number].url)
            connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
            connection.request("PUT", f"/{BUCKET}/{key}", b"here it is")
            assert connection.getresponse().read() == b""
            connection.close()
            assert [status_of(fleet, number, key) for number in range(3)] == [200] * 3
