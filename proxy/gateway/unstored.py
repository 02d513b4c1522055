"""What a body has sent of blocks that the disk may not have yet.

How it works. A written block's bytes are in the page cache until the disk has them. Where the disk can't store them
they may leave memory, and are read as zeros from then on; the kernel tells of it first (`Segment.has_lost`). So:

1. Before each piece of such a block, the body asks whether the block's file has lost bytes. If not, the piece leaves.
   A client that takes it slowly may still be sent zeros from it.
2. The body's last bytes are read into memory, 64 KiB at most. Then it asks again, for every file that such blocks were
   sent from. No loss by now means that all that was sent was right, and the last bytes leave.
3. A loss: the rest comes past the cache. What was sent of the block under way is compared with the same bytes, read
   again (`continuation`). Earlier blocks are compared with their checksums: nothing writes to them again, so what is
   right now was right when it was sent. Where something differs, the body ends short.
"""

from __future__ import annotations

import asyncio
import os

from proxy.blocks import Piece
from proxy.cache.store import Block

PRUNE_BLOCKS = 64  # beyond so many, those that were stored meanwhile are forgotten


class Unstored:
    """One body's. False while it has sent nothing that could have been lost."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def note(self, block: Block) -> None:
        """Bytes of this block are about to be sent."""
        if block.index not in self._blocks:
            if len(self._blocks) >= PRUNE_BLOCKS:
                self._prune()
            self._blocks[block.index] = block

    def forget(self, index: int) -> None:
        """What was sent of that block was compared."""
        self._blocks.pop(index, None)

    async def was_right(self) -> bool:
        """Whether all that was sent was what the origin gave."""
        self._prune()
        suspects = [block for block in self._blocks.values() if block.is_lost()]
        for block in suspects:
            if not await asyncio.to_thread(block.agrees):
                return False
        return True

    def _prune(self) -> None:
        self._blocks = {index: block for index, block in self._blocks.items() if block.at_risk}


async def read_piece(piece: Piece) -> Piece | bytes:
    """A small piece's bytes in memory; the piece itself where they can't be read: who sends it meets the same error."""
    buffer = bytearray(piece.length)
    try:
        count = os.preadv(piece.file.fd, [buffer], piece.offset, os.RWF_NOWAIT)
    except OSError:  # not in memory, or a file system that always waits
        count = -1
    if count != piece.length:
        try:
            count = await asyncio.to_thread(os.preadv, piece.file.fd, [buffer], piece.offset)
        except OSError:
            return piece
    return bytes(buffer) if count == piece.length else piece
