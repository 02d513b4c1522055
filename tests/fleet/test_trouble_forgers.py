"""Somebody between two nodes who knows no secret: what it changes never reaches a reader as a whole object."""

from __future__ import annotations

from pathlib import Path

from tests.fleet.fleet import BLOCK_BYTES, start_fleet
from tests.fleet.forger import BlockForger, forge_blocks
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.midload import put

OBJECTS = 6


def test_a_block_that_was_changed_on_its_way_is_never_part_of_a_complete_body(tmp_path: Path) -> None:
    """The forger passes requests on, so the real node proves that it is a member; only the bytes are not its own."""
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        start_fleet(tmp_path, cloud, nodes=2, doors=True) as fleet,
    ):
        contents = {f"forged-{number}": put(fleet, f"forged-{number}", 3 * BLOCK_BYTES) for number in range(OBJECTS)}
        for key, content in contents.items():
            fleet.assert_right(fleet.load(key, [0]), content)
        for door in fleet.doors[0]:
            door.slam()  # connections that were made before
            door.open()
            door.change = forge_blocks
        forged = BlockForger.forged
        for key, content in contents.items():
            for _ in range(2):
                load = fleet.load(key, [1])[1]
                load.wait()
                assert load.got == content[: len(load.got)] or load.error is not None, "a complete body is wrong"
        assert BlockForger.forged > forged
        assert fleet.nodes[1].metric("warmstart_checksum_failures_total", where="peer") > 0
        for key, content in contents.items():  # what is kept is right
            fleet.assert_right(fleet.load(key, [1]), content)
