"""Three real gateways at an origin that throttles: together they ask no more than it allows, and each its part."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.client import Connection
from bench.limiter import limited_origin, origin_counts, start_nodes
from tests.gateways import GatewayProcess

ALLOWED = 60
OBJECTS = 300
READERS = 12


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with limited_origin(ALLOWED, 1) as port:
        yield port


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[list[GatewayProcess]]:
    folder: Path = tmp_path_factory.mktemp("fleet")
    with start_nodes(folder, port, 3) as gateways:
        yield gateways


def test_a_fleet_asks_no_more_than_the_origin_allows_and_each_node_its_part(
    gateways: list[GatewayProcess], port: int
) -> None:
    numbers = iter(range(OBJECTS))
    guard = threading.Lock()
    failed: list[Exception] = []

    def read(number: int) -> None:
        connection = Connection(gateways[number % 3].url)
        try:
            while True:
                with guard:
                    key = next(numbers, None)
                if key is None:
                    return
                connection.get(f"/bench/object-{key}")
        except Exception as error:
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failed
    served, refused = origin_counts(port)
    assert served >= OBJECTS
    assert refused <= 0.05 * served
    asked = [gateway.metric("warmstart_origin_requests_total") for gateway in gateways]
    assert max(asked) <= 2 * min(asked)
