"""Decompression of a body that is stored as gzip, as it leaves.

How it works. Pieces are read and inflated in a thread: STEP_BYTES are read at a time, and at most OUT_BYTES inflated.
So neither a large object nor one that inflates to a thousand times its size takes more memory than that. A gzip file
may have several members. A body that is labelled gzip but does not begin like it is sent unchanged. If the data turns
out to be broken or truncated later, the body breaks off.
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
PIECE_BYTES = 2 << 10  # fed to a member at once
_MAGIC = b"\x1f\x8b"


async def unpacked(body: AsyncIterator[Piece | bytes]) -> AsyncGenerator[bytes, None]:
    """Yield the decompressed bytes of the body, and close it at the end. Raises OriginUnavailable for bad data."""
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
    """A decompressor. After `feed`, call `take` until it returns nothing. `plain`: bytes pass unchanged."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        self._packed = b""
        self._at = 0  # bytes before it have been inflated
        self._member = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> None:
        self._packed, self._at = self._packed[self._at :] + data, 0

    def take(self) -> bytes:
        """Return up to OUT_BYTES, or nothing if it needs `feed`. Raises OriginUnavailable."""
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
        """Inflate a little at a time: a member returns the input that it did not need, and many may be tiny."""
        piece = self._packed[self._at : self._at + PIECE_BYTES]
        data = self._member.decompress(piece, bytes_max)
        rest = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        self._at += len(piece) - len(rest)
        return data

    def _is_padding(self) -> bool:
        """Return whether only zeros follow the last member, as tape drives write them; no member begins with one."""
        return self._packed[self._at] == 0 and not self._packed[self._at :].strip(b"\0")

    def check_end(self) -> None:
        if not self._plain and not self._member.eof:
            raise OriginUnavailable("the object's gzip data is cut short")
