"""GetObject and HeadObject in engine words: which version, do the conditions hold, which bytes, from where.

How it works.
1. The key's record is resolved (`versions`), the conditions and the range are decided against it, once for all
   dialects. A verdict that a stale record could have got wrong (412, 416) is given only after the origin was asked.
2. `peek`: all blocks present, checked in this run, their segments open: the pieces are there at once.
3. Else a `Body` supplies them. Its first piece is awaited here: when the origin turns out to hold another version and
   nothing has been sent yet, the read starts over with the new one, `RESTARTS` times at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from functools import partial

from cachetools import LRUCache

from proxy.blocks import Piece, blocks_of
from proxy.cache.store import Store
from proxy.concurrency.tasks import BackgroundTasks
from proxy.errors import (
    InvalidRequest,
    NotFound,
    OriginUnavailable,
    Overloaded,
    PreconditionFailed,
    RangeNotSatisfiable,
    VersionChanged,
)
from proxy.fill.coverage import PEEK_BLOCKS_MAX
from proxy.fill.flight import Flights
from proxy.fill.handle import SpeculativeBlock
from proxy.fill.readahead import ReadAhead
from proxy.fill.supply import second_sums
from proxy.fill.uncached import stream_span
from proxy.gateway.answers import CacheStatus, ReadAnswer, ReadObject
from proxy.gateway.body import Body, BodyParts
from proxy.gateway.decide import decide
from proxy.gateway.hot import HotRead
from proxy.gateway.lookup import OnUnknown, Resolved, SpeculativeAnswer
from proxy.gateway.routes import BucketRoute, Consistency, Routes
from proxy.gateway.versions import Versions
from proxy.metrics import UNCACHED_READS
from proxy.objects import ObjectKey, ObjectName, ObjectRecord, ObjectVersion
from proxy.origin import ExplainsMissing, PartSpan
from proxy.ranges import ByteRange
from proxy.upstream.retry import OriginCall, with_attempts

log = logging.getLogger(__name__)

Pieces = AsyncGenerator[Piece | bytes, None] | AsyncGenerator[bytes, None]

RESTARTS = 3
CHECKED_RECORDS_MAX = 1024


class Gateway:
    """What the surfaces ask. Build one in each worker; all calls belong to its event loop."""

    def __init__(self, routes: Routes, versions: Versions, store: Store, flights: Flights, parts: BodyParts) -> None:
        self._routes = routes
        self._versions = versions
        self._store = store
        self._flights = flights
        self._parts = parts
        self._ahead = ReadAhead(parts.block_bytes, parts.window_blocks_max, flights.has_room)
        self._background = BackgroundTasks(log)
        # Records whose fills may complete an object; those of reads that began no fill must give way some day.
        self._unchecked: LRUCache[bytes, ObjectRecord] = LRUCache(CHECKED_RECORDS_MAX)
        flights.settled = self._check_object

    def route(self, bucket: str) -> BucketRoute:
        """Raises NotFound for a bucket that no rule covers."""
        return self._routes.route(bucket)

    @property
    def routes(self) -> Routes:
        return self._routes

    def known(self, name: ObjectName) -> ObjectRecord | None:
        """What is remembered of a key, if that is fresh. Raises NotFound for a bucket that no rule covers."""
        route = self.route(name.bucket)
        return self._versions.peek(route, route.object_key(name))

    def prepare(self, request: ReadObject) -> HotRead | None:
        """The read, to be answered at once whenever that is possible; None: it never is. Raises NotFound."""
        if request.revalidate or request.part_number is not None:
            return None
        route = self.route(request.name.bucket)
        if route.consistency is Consistency.STRONG:
            return None
        key = route.object_key(request.name)
        return HotRead(request, route, key, self._versions, self._store, self._parts.verifier)

    async def read(self, request: ReadObject) -> ReadAnswer:
        """Raises the errors of `proxy.errors`; what it returns can be sent."""
        route = self.route(request.name.bucket)
        expected: SpeculativeBlock | None = None

        def expect() -> SpeculativeAnswer | None:
            nonlocal expected
            if expected is None:
                expected = self._expect(route, request)
            return expected if expected is not None and expected.tells and not request.needs_sums else None

        try:
            return await self._read(route, request, expect)
        except NotFound as error:
            if error.certain or request.head_only:
                raise
            raise await self._explain(route, request, error) from None
        finally:
            if expected is not None:
                expected.forget()

    async def _explain(self, route: BucketRoute, request: ReadObject, error: NotFound) -> NotFound:
        """For a client whose answer has a body: is the key missing, or its bucket?"""
        if isinstance(route.origin, ExplainsMissing):
            with contextlib.suppress(OriginUnavailable):
                return await route.origin.explain_missing(route.real_bucket, request.name.key, request.name.version_id)
        return NotFound(error.what, error.name)

    def _expect(self, route: BucketRoute, request: ReadObject) -> SpeculativeBlock | None:
        """Asks for the first bytes before the object is known, where these are likely to be what the read wants."""
        conditions, asked = request.conditions, request.range
        only_news = conditions.if_none_match is not None or conditions.if_modified_since is not None
        if conditions.generations is not None:
            only_news = only_news or conditions.generations.only_news
        if request.head_only or request.part_number is not None or request.name.version_id is not None or only_news:
            return None
        first, last = (0, None) if asked is None else (asked.first, asked.last)
        if first is None:
            return None  # from the end, which is not known
        return self._parts.supply.expect(route.origin, route.real_bucket, request.name.key, first, last)

    async def _read(self, route: BucketRoute, request: ReadObject, on_unknown: OnUnknown) -> ReadAnswer:
        revalidate = request.revalidate
        for _ in range(RESTARTS):
            resolved = await self._versions.resolve(route, request.name, revalidate=revalidate, on_unknown=on_unknown)
            if request.needs_sums:
                resolved = await self._versions.complete(route, request.name, resolved)
            try:
                answer = await self._decide(route, request, resolved)
            except (PreconditionFailed, RangeNotSatisfiable):
                if resolved.asked or resolved.stale:
                    raise
                revalidate = True
                continue
            if answer.not_modified or request.head_only:
                answer.cache = CacheStatus.STALE if resolved.stale else await self._head_status(answer)
                return answer
            try:
                await self._open(route, route.object_key(request.name), resolved, answer)
            except VersionChanged:
                revalidate = True
                continue
            return answer
        raise Overloaded("the object changes faster than it can be read")

    async def _decide(self, route: BucketRoute, request: ReadObject, resolved: Resolved) -> ReadAnswer:
        answer = decide(request, resolved.record)
        if request.part_number is not None and not answer.not_modified:
            answer.part = await self._part(route, resolved.record, request.part_number)
            answer.span = answer.part.span
        return answer

    async def _part(self, route: BucketRoute, record: ObjectRecord, number: int) -> PartSpan:
        async def ask() -> PartSpan:
            return await route.origin.head_part(record, number)

        asked = OriginCall(route.origin, record.version.bucket, record.version.key)
        part = await with_attempts(self._parts.policy, route.origin.id, asked, ask)
        if part.span.end > record.size_bytes:
            raise InvalidRequest("InvalidPartNumber", f"part {number} lies beyond the object's end")
        return part

    async def _head_status(self, answer: ReadAnswer) -> CacheStatus:
        span = answer.span or ByteRange(0, answer.record.size_bytes)
        return await self._status(answer.record, span, to_read=False)

    async def _open(self, route: BucketRoute, key: ObjectKey, resolved: Resolved, answer: ReadAnswer) -> None:
        """Gives the answer its body and its X-Cache. Raises VersionChanged only while nothing has been sent."""
        record = resolved.record
        span = answer.span or ByteRange(0, record.size_bytes)
        if span.length == 0:
            answer.cache, answer.body = CacheStatus.HIT, _nothing()
        elif not record.cacheable or self._parts.verifier.hopeless(record):
            UNCACHED_READS.labels("sum_mismatch" if record.cacheable else "uncacheable").inc()
            answer.cache = CacheStatus.BYPASS
            stream = stream_span(route.origin, record.version, span, self._parts.policy, self._parts.uncached)
            answer.body = await self._begun(key, stream)
        else:
            pieces = self._peek(record, span) if resolved.later is None else None
            if pieces is not None:
                answer.cache, answer.body = CacheStatus.HIT, _given(pieces)
            else:
                if answer.span is not None and span.end < record.size_bytes and route.replicate:
                    self._ahead.note(record.version, span, partial(self._parts.supply.fetch, route.origin, record))
                answer.cache = await self._status(record, span, to_read=True)
                self._watch(record, resolved.later)
                body = Body(self._parts, route.origin, record, span, resolved.later, kept=route.replicate)
                answer.body = await self._begun(key, body.pieces())
        if resolved.stale:
            answer.cache = CacheStatus.STALE

    def _peek(self, record: ObjectRecord, span: ByteRange) -> list[Piece] | None:
        if len(blocks_of(span, self._parts.block_bytes)) > PEEK_BLOCKS_MAX:
            return None
        if span.end == record.size_bytes and self._parts.verifier.checkable(record):
            return None
        return self._store.peek(record.version, span)

    async def _status(self, record: ObjectRecord, span: ByteRange, *, to_read: bool) -> CacheStatus:
        if not record.cacheable:
            return CacheStatus.BYPASS
        if span.length == 0:
            return CacheStatus.HIT
        present, total = await self._parts.supply.coverage(record, span, to_read=to_read)
        if present == total:
            return CacheStatus.HIT
        return CacheStatus.PARTIAL if present else CacheStatus.MISS

    def _watch(self, record: ObjectRecord, later: asyncio.Task[Resolved] | None) -> None:
        """Remembers the record so that the object's checksum is compared when its last fill ends."""
        if record.sums:
            self._unchecked[record.version.digest] = record
        elif later is not None:
            later.add_done_callback(lambda done: self._learned(record.version, done))

    def _learned(self, version: ObjectVersion, later: asyncio.Task[Resolved]) -> None:
        if later.cancelled() or later.exception() is not None:
            return
        record = later.result().record
        if record.version == version and record.sums:
            self._unchecked[version.digest] = record
            for kind in second_sums(record):
                self._store.keep_sums(version, kind)
            if not self._flights.under_way(version):
                self._check_object(version)

    def _check_object(self, version: ObjectVersion) -> None:
        record = self._unchecked.pop(version.digest, None)
        if record is None or not self._parts.verifier.checkable(record):
            return
        self._background.start(self._parts.verifier.check(record), name=f"check {version.key!r}")

    async def _begun(self, key: ObjectKey, body: Pieces) -> _Begun:
        """The same body, its first piece already there."""
        resumed = self._watched(key, body)
        try:
            first = await anext(resumed)
        except BaseException:
            await resumed.aclose()
            raise
        return _Begun(first, resumed)

    async def _watched(self, key: ObjectKey, body: Pieces) -> AsyncGenerator[Piece | bytes, None]:
        """The body; when the origin turns out to hold another version, no later read begins with this one."""
        try:
            async with aclosing(body):
                async for piece in body:
                    yield piece
        except VersionChanged:
            await self._versions.outdated(key)
            raise

    async def aclose(self) -> None:
        await self._versions.aclose()
        await self._ahead.aclose()
        await self._parts.supply.aclose()
        await self._flights.aclose()
        await self._background.aclose(cancel=False)


async def _nothing() -> AsyncIterator[Piece | bytes]:
    return
    yield b""


async def _given(pieces: list[Piece]) -> AsyncIterator[Piece | bytes]:
    for piece in pieces:
        yield piece


class _Begun:
    """A body whose first piece is there already. Closed before anybody has taken that, it ends all the same."""

    def __init__(self, first: Piece | bytes, rest: AsyncGenerator[Piece | bytes, None]) -> None:
        self._first: Piece | bytes | None = first
        self._rest = rest

    def __aiter__(self) -> _Begun:
        return self

    async def __anext__(self) -> Piece | bytes:
        if self._first is None:
            return await anext(self._rest)
        first, self._first = self._first, None
        return first

    async def aclose(self) -> None:
        self._first = None
        await self._rest.aclose()
