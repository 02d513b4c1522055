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
        self._member = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> None:
        self._packed += data

    def take(self) -> bytes:
        """Up to OUT_BYTES; nothing: feed it. Raises OriginUnavailable."""
        if self._plain:
            data, self._packed = self._packed, b""
            return data
        try:
            while True:
                if self._member.eof and self._packed:
                    if not self._packed.strip(b"\0"):  # padding behind the last member, as tape drives write it
                        self._packed = b""
                        return b""
                    self._member = zlib.decompressobj(wbits=31)
                data = self._member.decompress(self._packed, OUT_BYTES)
                self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
                if data or not self._packed:
                    return data
        except zlib.error as error:
            raise OriginUnavailable(f"the object's gzip data is broken: {error}") from None

    def check_end(self) -> None:
        if not self._plain and not self._member.eof:
            raise OriginUnavailable("the object's gzip data is cut short")
