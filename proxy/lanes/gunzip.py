"""A body that is stored as gzip, unpacked as it leaves.

How it works. Pieces are read and inflated in a thread, STEP_BYTES of the one at a time and OUT_BYTES of the other, so
that neither a large object nor one that unpacks to a thousand times its size takes more memory than that. A gzip file
may have several members. What does not begin like gzip, though its label says so, goes out as it is; what turns out to
be broken or cut short later breaks the body off.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing

from proxy.blocks import Piece
from proxy.errors import OriginUnavailable

STEP_BYTES = 64 << 10
OUT_BYTES = 256 << 10
PIECE_BYTES = 2 << 10  # given to a member at once
_MAGIC = b"\x1f\x8b"


async def unpacked(body: AsyncIterator[Piece | bytes]) -> AsyncGenerator[bytes, None]:
    """The bytes that are packed in the body, which is closed at the end. Raises OriginUnavailable for bad data."""
    inflater: _Inflater | None = None
    async with aclosing(_steps(body)) as steps:
        head = b""
        async for step in steps:
            if inflater is None:
                head += step
                if len(head) < len(_MAGIC):
                    continue
                inflater = _Inflater(plain=not head.startswith(_MAGIC))
                step = head
            inflater.feed(step)
            while data := await asyncio.to_thread(inflater.take):
                yield data
        if inflater is None:
            yield head
        else:
            inflater.check_end()


async def _steps(body: AsyncIterator[Piece | bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for item in body:
            if isinstance(item, bytes):
                yield item
                continue
            for offset, length in _cut(item):
                yield await asyncio.to_thread(_read, item, offset, length)
    finally:
        if (aclose := getattr(body, "aclose", None)) is not None:
            await aclose()


def _cut(piece: Piece) -> Iterator[tuple[int, int]]:
    for offset in range(piece.offset, piece.offset + piece.length, STEP_BYTES):
        yield offset, min(STEP_BYTES, piece.offset + piece.length - offset)


def _read(piece: Piece, offset: int, length: int) -> bytes:
    data = os.pread(piece.file.fd, length, offset)
    if len(data) < length:
        raise OSError(f"the file ends {length - len(data)} bytes before its piece")
    return data


class _Inflater:
    """Fed with a step, it is taken from until nothing comes. `plain`: what goes in comes out."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        self._packed = b""
        self._at = 0  # what comes before has been unpacked
        self._member = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> None:
        self._packed, self._at = self._packed[self._at :] + data, 0

    def take(self) -> bytes:
        """Up to OUT_BYTES; nothing: feed it. Raises OriginUnavailable."""
        if self._plain:
            data, self._packed = self._packed, b""
            return data
        unpacked, left_bytes = [], OUT_BYTES
        try:
            while left_bytes > 0:
                if self._member.eof and self._at < len(self._packed):
                    if self._is_padding():
                        self._at = len(self._packed)
                        break
                    self._member = zlib.decompressobj(wbits=31)
                data = self._inflate(left_bytes)
                unpacked.append(data)
                left_bytes -= len(data)
                if not data and self._at == len(self._packed):
                    break
        except zlib.error as error:
            raise OriginUnavailable(f"the object's gzip data is broken: {error}") from None
        return b"".join(unpacked)

    def _inflate(self, bytes_max: int) -> bytes:
        """A little at a time: a member gives back what it did not need, and many may be tiny."""
        piece = self._packed[self._at : self._at + PIECE_BYTES]
        data = self._member.decompress(piece, bytes_max)
        rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        self._at += len(piece) - len(rest)
        return data

    def _is_padding(self) -> bool:
        """Zeros behind the last member, as tape drives write them; a member never begins with one."""
        return self._packed[self._at] == 0 and not self._packed[self._at :].strip(b"\0")

    def check_end(self) -> None:
        if not self._plain and not self._member.eof:
            raise OriginUnavailable("the object's gzip data is cut short")
