"""Gateways as the origin of gateways, and directories that are a node's own, or the same on all."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fleet.fleet import BLOCK_BYTES, Fleet, start_fleet
from tests.fleet.held_origin import BUCKET, HeldOrigin
from tests.gateways import start_gateway

CONTENT = random.Random(3).randbytes(9 * BLOCK_BYTES + 5)


class OtherOrigins(HeldOrigin):
    """Nodes get the origins that `choose` gives for their number."""

    choose: Callable[[int], dict[str, Any]]

    def settings(self, node: int) -> dict[str, Any]:
        return self.choose(node)


def read(fleet: Fleet, number: int, key: str) -> bytes:
    answer = httpx.get(f"{fleet.nodes[number].url}/{BUCKET}/{key}", trust_env=False, timeout=60)
    assert answer.status_code == 200
    return answer.content


def test_a_region_pulls_once_through_the_gateways_of_another(tmp_path: Path) -> None:
    with HeldOrigin(BLOCK_BYTES) as cloud, OtherOrigins(BLOCK_BYTES) as region:
        cloud.put("model", CONTENT)
        (tmp_path / "upstream").mkdir()
        with start_gateway(tmp_path / "upstream", origin=cloud.settings(7)) as upstream:
            region.choose = lambda node: {"type": "gateway", "endpoint": upstream.url}
            with start_fleet(tmp_path, region, nodes=2) as fleet:
                fleet.assert_right(fleet.load("model"), CONTENT)
                assert fleet.metric("warmstart_origin_bytes_total") == len(CONTENT)
        reads = [asked for asked in cloud.asked if asked.method == "GET"]
        assert sum(asked.sent_bytes for asked in reads) == len(CONTENT)


@pytest.mark.parametrize("shared", [False, True])
def test_a_directory_is_a_nodes_own_unless_it_is_shared(tmp_path: Path, shared: bool) -> None:
    for number in range(2):
        bucket = tmp_path / "shelves" / str(0 if shared else number) / BUCKET
        bucket.mkdir(parents=True, exist_ok=True)
        for key in range(8):
            (bucket / f"note-{key}").write_bytes(b"%d" % key if shared else b"%d of node %d" % (key, number))
    roots = tmp_path / "shelves"
    with OtherOrigins(BLOCK_BYTES) as shelves:
        shelves.choose = lambda node: {
            "type": "file",
            "root": str(roots / str(0 if shared else node)),
            "shared": shared,
        }
        with start_fleet(tmp_path, shelves, nodes=2) as fleet:
            for number in range(2):
                for key in range(8):
                    expected = b"%d" % key if shared else b"%d of node %d" % (key, number)
                    assert read(fleet, number, f"note-{key}") == expected
            assert (fleet.metric("warmstart_peer_received_bytes_total") > 0) == shared
