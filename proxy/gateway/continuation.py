"""Going on past the cache behind bytes of other nodes that a client has, and that nobody has compared yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from proxy.blocks import Piece, update_sum
from proxy.cache.sums import sum_piece
from proxy.errors import OriginUnavailable
from proxy.objects import SumKind


async def stream_behind(sent: Piece, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """What follows on the bytes of `sent` in a stream that begins with them.

    Raises OriginUnavailable where it begins with others, and what the stream raises.
    """
    left, crc32c = sent.length, 0
    async with aclosing(stream):
        try:
            wanted = await asyncio.to_thread(sum_piece, sent)
        except OSError as error:
            raise OriginUnavailable(f"what was sent can't be compared: {error}") from error
        async for chunk in stream:
            first = chunk[:left]
            if first:
                crc32c = update_sum(SumKind.CRC32C, memoryview(first), crc32c)
                left -= len(first)
                if not left and crc32c != wanted:
                    raise OriginUnavailable("other nodes gave wrong bytes, and they were sent")
            if len(chunk) > len(first):
                yield chunk[len(first) :]
