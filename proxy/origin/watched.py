"""A wrapper that reports an origin's failures; the gateway wraps each of its origins in it.

How it works. Each operation goes to the origin unchanged. An error that carries a trouble, and a forwarded answer which
says that the origin refuses or fails, are reported to the origin's `Incidents`. Any other outcome counts as an answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from proxy.blocks import ByteSink
from proxy.errors import NotFound, OriginRefused, OriginUnavailable, VersionChanged, WarmstartError, blame
from proxy.http.trail import LOOP_STATUS
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import (
    Attach,
    ExplainsMissing,
    ForwardRequest,
    ForwardResponse,
    ListPage,
    Opened,
    OpensRanges,
    Origin,
    PartSpan,
)
from proxy.origin.incidents import Incidents
from proxy.origin.passing import peek, replay
from proxy.origin.refusals import parse_refusal
from proxy.origin.trouble import request_id_of
from proxy.ranges import ByteRange

_ANSWERS = (NotFound, VersionChanged, OriginRefused)  # errors that a healthy origin also sends

Result = TypeVar("Result")


def watched(origin: Origin, incidents: Incidents) -> WatchedOrigin:
    """Wrap an origin; the wrapper is `OpensRanges` if the origin is."""
    if isinstance(origin, OpensRanges):
        return WatchedOpener(origin, origin, incidents)
    return WatchedOrigin(origin, incidents)


class WatchedOrigin:
    """A watched origin; see `proxy.origin` for what each call promises."""

    def __init__(self, origin: Origin, incidents: Incidents) -> None:
        self.id = origin.id
        self.name = origin.name
        self.dialect = origin.dialect
        self.incidents = incidents
        self._origin = origin

    async def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectRecord:
        return await self._seen(self._origin.head(bucket, key, version_id), bucket, key)

    async def explain_missing(self, bucket: str, key: str, version_id: str | None = None) -> NotFound:
        """Find out what is missing; a key, if the origin can't say more."""
        if not isinstance(self._origin, ExplainsMissing):
            return NotFound("key", key)
        return await self._seen(self._origin.explain_missing(bucket, key, version_id), bucket, key)

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        await self._seen(self._origin.read_range(version, span, sink), version.bucket, version.key)

    async def head_part(self, record: ObjectRecord, number: int) -> PartSpan:
        version = record.version
        return await self._seen(self._origin.head_part(record, number), version.bucket, version.key)

    async def list_objects(self, bucket: str, *, prefix: str, delimiter: str, after: str, limit: int) -> ListPage:
        listing = self._origin.list_objects(bucket, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        return await self._seen(listing, bucket, "")

    async def list_buckets(self) -> tuple[tuple[str, float], ...]:
        return await self._seen(self._origin.list_buckets(), "", "")

    async def forward(self, request: ForwardRequest) -> ForwardResponse:
        bucket, key = request.bucket, request.key or request.path or ""
        answer = await self._seen(self._origin.forward(request), bucket, key, answers=False)
        reason = reason_of(answer.status)
        if reason is None:
            self.incidents.answered(bucket, key)
            answer.body = self._watch_body(answer.body, bucket, key)
            return answer
        try:
            seen = await peek(answer.body)
        except OriginUnavailable as error:
            await answer.close()
            self.note(error, bucket, key)
            raise
        answer.body = replay(seen, answer.body)
        refusal = OriginRefused(answer.status, (), b"")
        said = parse_refusal(seen).said(answer.status)
        self.note(blame(refusal, reason, said, request_id_of(answer.headers)), bucket, key)
        return answer

    async def aclose(self) -> None:
        await self._origin.aclose()

    def note(self, error: WarmstartError, bucket: str, key: str) -> None:
        """Report the error with which an operation ended."""
        if error.trouble is not None:
            self.incidents.failed(error, bucket, key)
        elif isinstance(error, _ANSWERS):
            self.incidents.answered(bucket, key)

    async def _seen(self, call: Awaitable[Result], bucket: str, key: str, *, answers: bool = True) -> Result:
        try:
            result = await call
        except WarmstartError as error:
            self.note(error, bucket, key)
            raise
        if answers:
            self.incidents.answered(bucket, key)
        return result

    async def _watch_body(self, body: AsyncIterator[bytes], bucket: str, key: str) -> AsyncIterator[bytes]:
        try:
            async for chunk in body:
                yield chunk
        except OriginUnavailable as error:
            self.note(error, bucket, key)
            raise


class WatchedOpener(WatchedOrigin):
    """A watched origin that can send bytes before its current version is known."""

    def __init__(self, origin: Origin, opener: OpensRanges, incidents: Incidents) -> None:
        super().__init__(origin, incidents)
        self.opening_tells = opener.opening_tells
        self._opener = opener

    async def open_range(self, bucket: str, key: str, span: ByteRange, opened: Opened) -> None:
        taker = _WatchedOpened(self, bucket, key, opened)
        await self._seen(self._opener.open_range(bucket, key, span, taker), bucket, key)


class _WatchedOpened:
    """The receiver for a watched origin: the head is checked later, in another task, and errors are reported."""

    def __init__(self, origin: WatchedOrigin, bucket: str, key: str, opened: Opened) -> None:
        self._origin = origin
        self._bucket, self._key = bucket, key
        self._opened = opened

    def begin(self, attach: Attach, record: ObjectRecord | None = None) -> ByteSink:
        def judged(version: ObjectVersion, span: ByteRange, sink: ByteSink) -> ByteSink:
            try:
                return attach(version, span, sink)
            except WarmstartError as error:
                self._origin.note(error, self._bucket, self._key)
                raise

        return self._opened.begin(judged, record)


def reason_of(status: int) -> str | None:
    """Return the reason for a forwarded answer's status; None if it is not the origin's fault."""
    if status in (401, 403):
        return "refused"
    if status in (429, 503):
        return "throttled"
    if status == LOOP_STATUS:
        return "loop"
    return "server" if status >= 500 and status != 501 else None
