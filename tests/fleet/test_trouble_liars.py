"""Members that can't be relied on, and nodes that believe in different members: right bytes, or an error, always."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fleet.fleet import BLOCK_BYTES, SECRET, start_fleet
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.liar import MANNERS, Liar
from tests.fleet.midload import put
from tests.waiting import wait_until

BLOCKS = 40
QUICK_MANNERS = ("nonsense", "short", "unproven", "refuses")


@pytest.mark.parametrize(
    "manners", [pytest.param(MANNERS, marks=pytest.mark.long, id="all"), pytest.param(QUICK_MANNERS, id="quick")]
)
def test_a_gang_among_liars_gets_its_bytes(tmp_path: Path, manners: Sequence[str]) -> None:
    """Each liar owns its share of the blocks, and is found out, passed by and avoided."""
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(HeldOrigin(BLOCK_BYTES))
        liars = [stack.enter_context(Liar(manner, SECRET, cloud)) for manner in manners]
        strangers = [liar.url for liar in liars]
        fleet = stack.enter_context(start_fleet(tmp_path, cloud, nodes=2, strangers=strangers))
        for name in ("among-liars", "again"):
            content = put(fleet, name, BLOCKS * BLOCK_BYTES - 99)
            fleet.assert_right(fleet.load(name), content)
            fleet.assert_copies(name, 2.5)  # once for each node, and checks of what a liar gave half of
        assert {liar.manner for liar in liars if not liar.deceived} == set()
        assert fleet.metric("warmstart_peer_failures_total") >= len(liars)


@pytest.mark.parametrize("manner", ["wrong", pytest.param("consistent", marks=pytest.mark.long)])
def test_a_liar_that_gives_wrong_bytes_never_makes_a_complete_wrong_body(tmp_path: Path, manner: str) -> None:
    """A read may fail by it; then it is right. Where its checksum fits, the object's own one tells."""
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        Liar(manner, SECRET, cloud) as liar,
        start_fleet(tmp_path, cloud, nodes=2, strangers=[liar.url]) as fleet,
    ):
        content = put(fleet, "lied-about", 8 * BLOCK_BYTES - 99)
        cloud.put("lied-about", content, summed=manner == "consistent")

        def load() -> bool:
            loads = fleet.load("lied-about")
            for one in loads.values():
                one.wait()
                assert one.error is not None or one.got == content
            return all(one.error is None for one in loads.values())

        wait_until(load, "the object is never read right", 60)
        assert liar.deceived > 0


def test_nodes_that_list_different_members(tmp_path: Path) -> None:
    """No Redis settles it: a block may then be asked for once by each who believes that it owns it."""
    peers = {0: [0, 1], 1: [0, 1, 2], 2: [1, 2]}
    with HeldOrigin(BLOCK_BYTES) as cloud, start_fleet(tmp_path, cloud, nodes=3, peers=peers) as fleet:
        content = put(fleet, "differing")
        fleet.assert_right(fleet.load("differing"), content)
        fleet.assert_copies("differing", 2)
