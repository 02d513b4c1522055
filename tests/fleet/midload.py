"""The middle of a gang's load, for tests of trouble: the origin stands still within every block from the third on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.fleet.fleet import BLOCK_BYTES, Fleet, Load
from tests.fleet.held_origin import Asked

BLOCKS = 12
SIZE_BYTES = BLOCKS * BLOCK_BYTES - 777
HELD_AT = 2 * BLOCK_BYTES + 200_000


@dataclass(frozen=True, slots=True)
class MidLoad:
    """`held` are the origin's answers that stand still; of the first one's block, `asker` is the node that asked."""

    fleet: Fleet
    key: str
    content: bytes
    loads: dict[int, Load]
    held: list[Asked]

    @property
    def asker(self) -> int:
        """It owns the block, holds its lease, and feeds the others."""
        return self.held[0].node

    def blocks_of(self, node: int) -> set[int]:
        """Those that the origin has begun to send it, and not ended. Of one that is gone: ask after its death."""
        gets = [asked for asked in self.fleet.cloud.gets(self.key) if asked.node == node]
        return {asked.start // BLOCK_BYTES for asked in gets if asked.sent_bytes < asked.end - asked.start}

    def others(self, node: int) -> list[int]:
        return sorted(self.fleet.living - {node})

    def end(self) -> None:
        """The origin goes on; every client of a living node must get all, now and when it reads again."""
        self.fleet.cloud.release()
        self.fleet.assert_right(self.loads, self.content)
        self.fleet.assert_right(self.fleet.load(self.key), self.content)


def put(fleet: Fleet, key: str, size_bytes: int = SIZE_BYTES) -> bytes:
    """An object of its own bytes."""
    content = random.Random(key).randbytes(size_bytes)
    fleet.cloud.put(key, content)
    return content


def begin(fleet: Fleet, key: str, numbers: Sequence[int] | None = None) -> MidLoad:
    """Every client has the first two blocks and waits for the third."""
    content = put(fleet, key)
    fleet.cloud.hold_at(HELD_AT)
    loads = fleet.load(key, numbers)
    for number, load in loads.items():
        load.wait_for(HELD_AT - HELD_AT % BLOCK_BYTES)
        assert load.error is None, f"node {number}: {load.error!r}\n{fleet.story(key)}"
    return MidLoad(fleet, key, content, loads, fleet.cloud.wait_until_held())
