"""What a reader gets of a block, and what it has asked for before its object was known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.blocks import Piece
from proxy.cache.store import Block
from proxy.fill.follow import FollowedProgress
from proxy.objects import ObjectRecord
from proxy.upstream.speculative import SpeculativeRead

SMALL_READ_BYTES = 256 << 10  # a read of no more than this does not call for its whole block at once


@dataclass(slots=True)
class BlockHandle:
    """A block that is on disk (`arrival` None) or on its way there. `release` it when done."""

    block: Block
    arrival: FollowedProgress | None

    def available(self, offset: int) -> int:
        if self.arrival is None:
            return self.block.length - offset
        return self.arrival.available(offset)

    def piece(self, offset: int, length: int) -> Piece:
        return self.block.piece(offset, length)

    @property
    def unverified(self) -> bool:
        """Whether bytes of other nodes are in it that have not been compared with their checksum yet."""
        arrival = self.arrival
        return arrival is not None and not arrival.published and arrival.unverified

    def is_far(self, offset: int, end: int) -> bool:
        """Whether a small read is better off with a request of its own than waiting until the fill comes to it."""
        if self.arrival is None or end - offset > SMALL_READ_BYTES:
            return False
        return self.arrival.is_far(offset, end)


@dataclass(frozen=True, slots=True)
class SpeculativeBlock:
    """A first read's bytes, asked for: `forget` them when the read has its block, or never will.

    `tells`: their answer may say what the object is, else a HEAD must be asked.
    """

    speculative: SpeculativeRead
    forget: Callable[[], None]
    tells: bool
    block_bytes: int

    async def tell(self) -> ObjectRecord | None:
        """What the answer says; None: too little. Raises as the origin does."""
        return await self.speculative.tell()

    def tells_all(self, record: ObjectRecord) -> bool:
        """Whether nothing more need be asked: of one block, no combined checksum can tell more than its bytes' own."""
        return record.sums_known or record.size_bytes <= self.block_bytes
