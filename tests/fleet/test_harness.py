"""What the fleet's tests stand on: an origin that stands still when told, doors that shut, clients that notice."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from tests.fleet.doors import Door
from tests.fleet.fleet import BLOCK_BYTES, Load
from tests.fleet.held_origin import HeldOrigin
from tests.gateways import start_gateway

CONTENT = random.Random(1).randbytes(3 * BLOCK_BYTES + 1000)


def test_a_held_origin_gives_so_many_bytes_and_goes_on_when_released(tmp_path: Path) -> None:
    config = {"cache": {"block_size": f"{BLOCK_BYTES}B"}}
    with HeldOrigin(BLOCK_BYTES) as cloud:
        cloud.put("model", CONTENT)
        with start_gateway(tmp_path, origin=cloud.settings(3), config=config) as gateway:
            cloud.hold_at(BLOCK_BYTES + 50_000)
            load = Load(gateway, "model")
            cloud.wait_until_held()
            load.wait_for(BLOCK_BYTES)
            assert load.error is None
            assert load.got == CONTENT[: len(load.got)]
            assert BLOCK_BYTES <= len(load.got) <= BLOCK_BYTES + 50_000
            cloud.release()
            load.wait()
            assert load.error is None
            assert load.got == CONTENT
        assert cloud.block_gets("model") == {0: 1, 1: 1, 2: 1, 3: 1}
        assert cloud.copies("model") == 1
        assert cloud.heads("model") <= 1
        assert {asked.node for asked in cloud.asked} == {3}


def test_a_client_notices_that_its_gateway_died(tmp_path: Path) -> None:
    config = {"cache": {"block_size": f"{BLOCK_BYTES}B"}}
    with HeldOrigin(BLOCK_BYTES) as cloud:
        cloud.put("model", CONTENT)
        with start_gateway(tmp_path, origin=cloud.settings(0), config=config) as gateway:
            cloud.hold_at(1000)
            load = Load(gateway, "model")
            load.wait_for(1000)
            gateway.kill()
            load.wait()
            assert load.error is not None
            assert load.got == CONTENT[: len(load.got)]


def test_a_shut_door_says_nothing_and_a_slammed_one_resets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as far, Door(("127.0.0.1", 0), far.getsockname()) as door:
        with socket.create_connection(("127.0.0.1", door.port), 10) as near:
            inside, _ = far.accept()
            near.sendall(b"first")
            assert inside.recv(100) == b"first"
            door.shut()
            near.sendall(b"second")
            inside.settimeout(0.2)
            with pytest.raises(TimeoutError):
                inside.recv(100)
            door.open()
            inside.settimeout(10)
            assert inside.recv(100) == b"second"
            door.slam()
            with pytest.raises(ConnectionError):
                near.recv(100)
                near.recv(100)
            inside.close()
        with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.1", door.port), 10) as late:
            late.sendall(b"x")
            assert late.recv(100) != b"", "a FIN"
