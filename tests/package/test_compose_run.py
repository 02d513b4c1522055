"""The services of configs/compose.yaml without Docker: each with its own variables, on an address of its own."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.fleet.redis_servers import start_redis
from tests.gateways import GatewayProcess, start_gateway
from tests.package.locks import ROOT
from tests.waiting import wait_until

SIZE_BYTES = 20 << 20
BODY = os.urandom(SIZE_BYTES)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[dict[str, GatewayProcess]]:
    stated = yaml.safe_load((ROOT / "configs/compose.yaml").read_text("utf-8"))["services"]
    net = free_net()
    hosts = {name: f"{net}.{number}" for number, name in enumerate(("origin", "gateway", "neighbour"), 1)}
    (tmp_path / "data/models").mkdir(parents=True)
    (tmp_path / "data/models/weights").write_bytes(BODY)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(start_redis(tmp_path))
        moved = {"redis:6379": f"127.0.0.1:{redis.port}", "origin:9000": f"{hosts['origin']}:9000"}
        running = {}
        for name, host in hosts.items():
            moves = {**moved, "0.0.0.0": host, "file:///data": f"file://{tmp_path}/data"}
            given = {key: at_home(value, moves) for key, value in stated[name]["environment"].items()}
            if name != "origin":  # a container's address leads to Redis; here all have 127.0.0.1 for that
                given["WARMSTART_CLUSTER__ADVERTISE"] = f"http://{host}:9000"
            folder = tmp_path / name
            folder.mkdir()
            running[name] = stack.enter_context(start_gateway(folder, environment=given, workers=2))
        yield running


def at_home(value: str, moves: dict[str, str]) -> str:
    """A variable as Docker gives it, and with what is elsewhere there found here."""
    value = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    for there, here in moves.items():
        value = value.replace(there, here)
    return value


def free_net() -> str:
    """Three bytes of a net where all may listen on the ports of the image."""
    while True:
        net = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"
        with contextlib.suppress(OSError), socket.create_server((f"{net}.1", 9000)):
            return net


@pytest.mark.long
def test_two_gateways_take_an_object_from_the_origin_once(services: dict[str, GatewayProcess]) -> None:
    fleet = [services["gateway"], services["neighbour"]]
    for gateway in fleet:
        wait_until(lambda: gateway.metric("warmstart_fleet_members") == 2, "they don't meet")  # noqa: B023
    for gateway in fleet:
        answers = [httpx.get(f"{gateway.url}/models/weights", trust_env=False, timeout=60) for _ in range(2)]
        assert [answer.content == BODY for answer in answers] == [True, True]
        assert answers[1].headers["X-Cache"] == "HIT"
    from_the_origin = services["origin"].metric("warmstart_sent_bytes_total")
    assert from_the_origin == SIZE_BYTES
