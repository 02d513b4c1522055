"""A gateway in this process: the real store and flights over an origin in memory that can change and fail."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from proxy.blocks import ByteSink, Piece, update_sum
from proxy.cache.shared import SharedTables
from proxy.cache.store import DiskSpec, Store
from proxy.concurrency.threads import Threads
from proxy.errors import NotFound, OriginUnavailable, VersionChanged
from proxy.fill.flight import Flights
from proxy.fill.follow import Followers
from proxy.fill.limiter import FillLimiter
from proxy.fill.supply import Supply
from proxy.gateway.answers import ReadAnswer, ReadObject
from proxy.gateway.body import BodyParts
from proxy.gateway.read import Gateway
from proxy.gateway.routes import BucketRoute, Routes
from proxy.gateway.verify import ObjectVerifier
from proxy.gateway.versions import Versions
from proxy.objects import ObjectName, ObjectRecord, ObjectVersion, SumKind
from proxy.origin import ForwardRequest, ForwardResponse, ListPage, PartSpan
from proxy.ranges import ByteRange, RangeRequest
from proxy.relay.relay import Relays
from proxy.upstream.retry import RetryPolicy
from tests.waiting import until

BLOCK_BYTES = 256 << 10
POLICY = RetryPolicy(deadline_s=2, first_pause_s=0.001, longest_pause_s=0.01)


class ObjectOrigin:
    """One bucket of objects in memory. `script(number, sent)` runs before each piece of a read."""

    id = "s3://memory"
    name = "memory"
    dialect = "s3"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[ObjectRecord, bytes]] = {}
        self.heads = 0
        self.reads: list[ByteRange] = []
        self.down = False
        self.piece_bytes = 32 << 10
        self.script: Callable[[int, int], Awaitable[None]] | None = None
        self.before_head: Callable[[], Awaitable[None]] | None = None
        self.corrupt = False

    def put(self, key: str, content: bytes, *, sums: tuple[SumKind, ...] = (), cacheable: bool = True) -> ObjectRecord:
        number = sum(1 for _ in self.objects) + 1
        previous = self.objects.get(key)
        etag = f'"{key}-{number if previous is None else int(previous[0].etag.split("-")[-1][:-1]) + 1}"'
        version = ObjectVersion(self.id, "b", key, f"etag {etag}", len(content))
        values = tuple((kind, update_sum(kind, memoryview(content))) for kind in sums)
        record = ObjectRecord(version, etag, 1000.0, (), 0.0, sums=values, cacheable=cacheable)
        self.objects[key] = (record, content)
        return record

    async def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectRecord:
        self.heads += 1
        if self.before_head is not None:
            await self.before_head()
        if self.down:
            raise OriginUnavailable("down")
        if key not in self.objects:
            raise NotFound("key", key)
        return self.objects[key][0]

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        self.reads.append(span)
        number = len(self.reads)
        if self.down:
            raise OriginUnavailable("down")
        for start in range(span.start, span.end, self.piece_bytes):
            if self.script is not None:
                await self.script(number, start - span.start)
            record, content = self.objects[version.key]
            if record.version != version:
                raise VersionChanged("another version")
            data = bytearray(content[start : min(start + self.piece_bytes, span.end)])
            if self.corrupt:
                data[0] ^= 1
            pending = sink.write(memoryview(data))
            if pending is not None:
                await pending
            await asyncio.sleep(0)

    async def head_part(self, record: ObjectRecord, number: int) -> PartSpan:
        return PartSpan(number, 1, ByteRange(0, record.size_bytes))

    async def forward(self, request: ForwardRequest) -> ForwardResponse:
        raise NotImplementedError

    async def list_objects(self, bucket: str, *, prefix: str, delimiter: str, after: str, limit: int) -> ListPage:
        raise NotImplementedError

    async def list_buckets(self) -> tuple[tuple[str, float], ...]:
        raise NotImplementedError

    async def aclose(self) -> None:
        return


class Engine:
    """`clock` stands still until a test moves it. Two engines with the same `tables` and run are two workers."""

    def __init__(
        self,
        path: Path,
        origin: ObjectOrigin | None = None,
        *,
        tables: SharedTables | None = None,
        run_id: str = "run",
        writer_id: str = "w0",
        size_bytes: int = 1 << 30,
        window_blocks_max: int = 8,
        fills_max: int = 32,
        block_bytes: int = BLOCK_BYTES,
        segment_bytes: int | None = None,
        max_open_segments: int = 64,
        keys_max: int = 1000,
        relays: Relays | None = None,
        sums_wait_s: float = 5.0,
    ) -> None:
        self.origin = origin or ObjectOrigin()
        self.tables = tables or SharedTables.create()
        self.now_s = 5000.0
        self.store = Store(
            [DiskSpec(path, size_bytes)],
            block_bytes=block_bytes,
            run_id=run_id,
            writer_id=writer_id,
            tables=self.tables,
            max_open_segments=max_open_segments,
            segment_bytes=segment_bytes,
        )
        threads = Threads()
        self.limiter = FillLimiter(bytes_in_flight_max=64 << 20, fills_max=fills_max)
        self.flights = Flights(self.limiter, POLICY)
        self.followers = Followers(self.flights)
        self.versions = Versions(
            self.store.keys,
            self.tables.tokens,
            POLICY,
            threads=threads,
            keys_max=keys_max,
            clock=lambda: self.now_s,
        )
        self.verifier = ObjectVerifier(self.store, threads)
        self.supply = supply = Supply(self.store, self.flights, self.followers, threads, relays)
        parts = BodyParts(supply, self.verifier, POLICY, block_bytes, window_blocks_max, sums_wait_s)
        self.bucket = BucketRoute("b", self.origin, "b", writes_through=True)
        self.routes = Routes({"b": self.bucket})
        self.gateway = Gateway(self.routes, self.versions, self.store, self.flights, parts)

    def rule(self, **changes: object) -> None:
        """Changes the bucket's rules."""
        self.bucket = replace(self.bucket, **changes)  # type: ignore[arg-type]
        self.routes.named["b"] = self.bucket

    async def read(self, key: str, first: int | None = None, last: int | None = None, **more: object) -> ReadAnswer:
        asked = None if first is None and last is None else RangeRequest(first, last)
        return await self.gateway.read(ReadObject(ObjectName("b", key), range=asked, **more))  # type: ignore[arg-type]

    async def get(self, key: str, first: int | None = None, last: int | None = None, **more: object) -> bytes:
        answer = await self.read(key, first, last, **more)
        return await body_bytes(answer)

    async def quiet(self) -> None:
        """Returns when no block is on its way."""
        await until(lambda: not self.flights.count())

    async def aclose(self) -> None:
        await self.gateway.aclose()
        await self.followers.aclose()
        self.store.close()


async def body_bytes(answer: ReadAnswer) -> bytes:
    assert answer.body is not None
    got = bytearray()
    async for piece in answer.body:
        got += piece_bytes(piece)
    assert len(got) == answer.length
    return bytes(got)


def piece_bytes(piece: Piece | bytes) -> bytes:
    if isinstance(piece, bytes):
        return piece
    data = os.pread(piece.file.fd, piece.length, piece.offset)
    assert len(data) == piece.length
    return data


async def close_body(body: AsyncIterator[Piece | bytes]) -> None:
    await body.aclose()  # type: ignore[attr-defined]
