"""The sinks of a relay: they count bytes and digest them on their way to the block, or drop them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from proxy.blocks import ByteSink, Later
from proxy.ranges import ByteRange
from proxy.relay.digests import Digest


class Rest:
    """The rest of a span, as a sink that counts what has been taken."""

    def __init__(self, span: ByteRange, sink: ByteSink, last: bool) -> None:
        self.start = span.start
        self.end = span.end
        self.last = last
        self.taken_bytes = 0
        self._sink = sink

    @property
    def left(self) -> int:
        return self.end - self.start

    def write(self, data: memoryview) -> Awaitable[None] | None:
        pending = self._sink.write(data)
        if pending is not None:
            return Later(self._finish, pending, len(data))
        self._took(len(data))
        return None

    async def _finish(self, pending: Awaitable[None], length: int) -> None:
        """Wait for a write even if its source is given up: what is being written must not be requested again."""
        writing, given_up = asyncio.ensure_future(pending), False
        while not writing.done():
            try:
                await asyncio.wait({writing})
            except asyncio.CancelledError:
                given_up = True
        writing.result()
        self._took(length)
        if given_up:
            raise asyncio.CancelledError

    def _took(self, length: int) -> None:
        self.start += length
        self.taken_bytes += length


class Dropped:
    """A sink for bytes that are here already."""

    def write(self, data: memoryview) -> None:
        return


class Watched:
    """A sink that passes bytes to a digest and then on."""

    def __init__(self, sink: ByteSink, digest: Digest) -> None:
        self._sink = sink
        self._digest = digest

    def write(self, data: memoryview) -> Awaitable[None] | None:
        self._digest.write(data)
        return self._sink.write(data)
