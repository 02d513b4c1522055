"""Origins for first reads: one in memory that opens ranges, and S3 as the wire sees it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from proxy.blocks import ByteSink
from proxy.errors import NotFound, RangeNotSatisfiable, VersionChanged
from proxy.objects import ObjectVersion
from proxy.origin import Opened
from proxy.ranges import ByteRange
from tests.fakes.scripted import Exchange
from tests.gateway.engine import ObjectOrigin
from tests.waiting import until


class SpeculativeOrigin(ObjectOrigin):
    """Also opens ranges, of what `objects` holds at that moment. `heads_wait`: HEADs answer when it is set.

    With `opening_tells` the answer to a range says all but the checksums, as S3's.
    """

    def __init__(self, *, opening_tells: bool = False) -> None:
        super().__init__()
        self.opening_tells = opening_tells
        self.open_error: Exception | None = None
        self.opened: list[ByteRange] = []
        self.closed = 0
        self.heads_wait = asyncio.Event()
        self.heads_wait.set()
        self.before_head = self._wait_heads

    async def _wait_heads(self) -> None:
        await self.heads_wait.wait()

    async def open_range(self, bucket: str, key: str, span: ByteRange, opened: Opened) -> None:
        self.opened.append(span)
        try:
            if self.open_error is not None:
                raise self.open_error
            if key not in self.objects:
                raise NotFound("key", key)
            record, content = self.objects[key]
            if span.start >= len(content):
                raise RangeNotSatisfiable(len(content))

            def attach(version: ObjectVersion, wanted: ByteRange, sink: ByteSink) -> ByteSink:
                if version != record.version:
                    raise VersionChanged("another version")
                return sink

            told = replace(record, sums=(), sums_known=False) if self.opening_tells else None
            sink = opened.begin(attach, told)
            for start in range(span.start, min(span.end, len(content)), 32 << 10):
                pending = sink.write(memoryview(content[start : min(start + (32 << 10), span.end)]))
                if pending is not None:
                    await pending
                await asyncio.sleep(0)
        finally:
            self.closed += 1

    async def wait_opened(self, count: int) -> None:
        await until(lambda: len(self.opened) >= count)

    async def wait_closed(self) -> None:
        """Returns when no opened range is under way."""
        await until(lambda: self.closed >= len(self.opened))


class CountingStore:
    """S3 as seen by the wire, with one checksum that only a HEAD tells."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.sent_bytes = 0

    async def __call__(self, exchange: Exchange) -> None:
        headers = [("ETag", '"v1"'), ("Last-Modified", "Tue, 24 Nov 2026 09:00:00 GMT")]
        if exchange.request.method == "HEAD":
            await exchange.send_head(200, headers, content_length=len(self.content))
            return
        asked = exchange.request.get("range")
        assert asked is not None
        start, end = map(int, asked.removeprefix("bytes=").split("-"))
        body = self.content[start : end + 1]
        self.sent_bytes += len(body)
        label = f"bytes {start}-{start + len(body) - 1}/{len(self.content)}"
        await exchange.respond(206, body, [*headers, ("Content-Range", label)])
