"""Block handles, and speculative reads of blocks whose object is not known yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proxy.blocks import Piece
from proxy.cache.store import Block
from proxy.fill.follow import FollowedProgress
from proxy.objects import ObjectRecord
from proxy.upstream.speculative import SpeculativeRead

SMALL_READ_BYTES = 256 << 10  # a read of at most this does not need its whole block at once


@dataclass(slots=True)
class BlockHandle:
    """A block that is on disk (`arrival` is None) or on its way there. Release it by `Supply.release`."""

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
        """Whether it contains bytes of other nodes that have not been compared with their checksum yet."""
        arrival = self.arrival
        return arrival is not None and not arrival.published and arrival.unverified

    def is_far(self, offset: int, end: int) -> bool:
        """Return whether a small read is served sooner by a request of its own than by waiting for the fill."""
        if self.arrival is None or end - offset > SMALL_READ_BYTES:
            return False
        return self.arrival.is_far(offset, end)


@dataclass(frozen=True, slots=True)
class SpeculativeBlock:
    """A speculative read of a key's first bytes. Call `forget` when the reader has its block, or never will.

    `tells`: the answer may say what the object is; otherwise a HEAD is needed.
    """

    speculative: SpeculativeRead
    forget: Callable[[], None]
    tells: bool
    block_bytes: int

    async def tell(self) -> ObjectRecord | None:
        """Return what the answer says of the object; None: too little. Raise what the origin raises."""
        return await self.speculative.tell()

    def tells_all(self, record: ObjectRecord) -> bool:
        """Return whether no further request is needed. An object of one block needs no combined checksum."""
        return record.sums_known or record.size_bytes <= self.block_bytes
