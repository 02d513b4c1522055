"""The checksums kept of a block: its crc32c, and one of the object's own kind if that is another."""

from __future__ import annotations

import os

from proxy.blocks import Piece, combine_sums, update_sum
from proxy.objects import SumKind

READ_BYTES = 1 << 20


class RunningSums:
    """Checksums of the bytes seen so far, in order. `kind` is that of the second sum; None: there is no second sum."""

    __slots__ = ("crc32c", "kind", "length", "second")

    def __init__(self, kind: SumKind | None = None) -> None:
        self.kind = kind
        self.crc32c = 0
        self.second = 0
        self.length = 0

    def update(self, data: memoryview) -> None:
        self.crc32c = update_sum(SumKind.CRC32C, data, self.crc32c)
        if self.kind is not None:
            self.second = update_sum(self.kind, data, self.second)
        self.length += len(data)

    def append(self, following: RunningSums) -> None:
        """Extend the sums as if the bytes that `following` has seen came next."""
        self.crc32c = combine_sums(SumKind.CRC32C, self.crc32c, following.crc32c, following.length)
        if self.kind is not None:
            assert following.kind is self.kind
            self.second = combine_sums(self.kind, self.second, following.second, following.length)
        self.length += following.length

    def read(self, fd: int, offset: int, length: int) -> bool:
        """Add `length` bytes of a file from `offset`. Return False if the file is shorter. Blocking. Raises OSError."""
        buffer = memoryview(bytearray(min(length, READ_BYTES)))
        end = offset + length
        while offset < end:
            count = os.preadv(fd, [buffer[: end - offset]], offset)
            if count == 0:
                return False
            self.update(buffer[:count])
            offset += count
        return True


def sum_piece(piece: Piece) -> int:
    """Return the crc32c of a piece's bytes. Blocking. Raises OSError."""
    sums = RunningSums()
    if not sums.read(piece.file.fd, piece.offset, piece.length):
        raise OSError("a data file has lost bytes that were written to it")
    return sums.crc32c
