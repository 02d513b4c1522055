"""What a thief of addresses does to a block on its way: another byte, and a checksum that fits the new bytes.

    Door(here, there, change=forge_blocks)      # in a door's words: made anew for each connection

Everything else passes as it is: the forger knows no secret, so it lets the real node prove that it is a member.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from proxy.blocks import update_sum
from proxy.fleet.tail import TAIL_BYTES
from proxy.objects import SumKind

BODY_BYTES_MIN = 4096  # of a block's answer; asks and hellos are shorter


class BlockForger:
    """The answers of one connection, gathered until a whole body can be changed. `forged` counts for all."""

    forged = 0

    def __init__(self) -> None:
        self._held = bytearray()

    def __call__(self, data: bytes) -> bytes:
        self._held += data
        out = bytearray()
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._held[: end + 4])
            found = re.search(rb"(?i)content-length: (\d+)", head)
            length = int(found[1]) if found is not None else 0
            if len(self._held) < len(head) + length:
                return bytes(out)
            body = self._held[len(head) : len(head) + length]
            del self._held[: len(head) + length]
            out += head + (self._forge(body) if length >= BODY_BYTES_MIN and b" 200 " in head[:16] else body)
        return bytes(out)

    def _forge(self, body: bytearray) -> bytearray:
        block = memoryview(body)[:-TAIL_BYTES]
        block[len(block) // 2] ^= 1
        struct.pack_into("<I", body, len(block) + 4, update_sum(SumKind.CRC32C, block))
        block.release()
        BlockForger.forged += 1
        return body


forge_blocks: Callable[[], Callable[[bytes], bytes]] = BlockForger
