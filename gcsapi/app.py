"""The GCS surface as an ASGI application: one way in, one way out.

How it works. The raw target is parsed by `requests`, never by a router: an object's name is one percent-encoded
segment. Then
1. a `Read` is answered by the gateway, from the cache: bytes, or the resource that is made of the object's record;
2. everything else goes to the bucket's origin where that is GCS (`passing`), but listings of the XML API, which all
   origins answer alike;
3. for other origins it is answered in GCS's words, as far as they can do it (`elsewhere`);
4. a batch is as many requests as it holds, each going the same ways (`batch`).
All answers and all errors leave through `Exchange.finish`, which gives X-Cache and the request's id and counts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from gcsapi.batch import BATCH_BYTES_MAX, Inner, fits_batch, parse_batch, render_batch
from gcsapi.errors import render_error
from gcsapi.exchange import Exchange
from gcsapi.fallback import answer_bucket, list_buckets, list_objects
from gcsapi.fields import OBJECT, select
from gcsapi.hot import hot_reads
from gcsapi.operations import destination
from gcsapi.passing import Passing
from gcsapi.requests import Api, Pass, Read, parse_request
from gcsapi.resources import object_resource
from gcsapi.responses import (
    is_unpacked,
    json_reply,
    object_etag,
    render_read,
    render_unpacked,
)
from gcsapi.sessions import Sessions
from gcsapi.targets import JsonTarget
from proxy.admission import Admission
from proxy.errors import InvalidRequest, NotSupported, OtherGeneration, RangeNotSatisfiable, WarmstartError
from proxy.gateway.answers import CacheStatus, ReadAnswer, ReadObject
from proxy.gateway.forward import Forwarder
from proxy.gateway.hot import HotRead
from proxy.gateway.routes import BucketRoute, Routes
from proxy.generations import generation_of
from proxy.lanes.asgi import OnReadError, PiecesResponse, Receive, Scope, Send
from proxy.lanes.gunzip import unpacked
from proxy.lanes.incoming import RECEIVE_TIMEOUT_S, ClientGone, read_whole
from proxy.objects import ObjectName, ObjectRecord
from proxy.rate_limited_log import REQUEST_ID
from proxy.surface.heads import Reply

log = logging.getLogger(__name__)


class Reads(Protocol):
    """What this surface asks of `proxy.gateway.read.Gateway`."""

    @property
    def routes(self) -> Routes: ...

    def route(self, bucket: str) -> BucketRoute: ...

    def known(self, name: ObjectName) -> ObjectRecord | None: ...

    def prepare(self, request: ReadObject) -> HotRead | None: ...

    async def read(self, request: ReadObject) -> ReadAnswer: ...


class GcsApp:
    """See the module's text. `session_keys` sign resumable uploads; under `host_suffixes` buckets are sub-domains.

    `on_read_error` hears of a cached file that could not be read while it was sent.
    """

    def __init__(
        self,
        gateway: Reads,
        forwarder: Forwarder,
        *,
        session_keys: Sequence[bytes],
        host_suffixes: Sequence[str] = (),
        body_timeout_s: float = RECEIVE_TIMEOUT_S,
        upload_pace: int = 0,
        admission: Admission | None = None,
        on_read_error: OnReadError | None = None,
    ) -> None:
        admission = admission or Admission()
        self._hold_body = admission.hold_body
        self._upload_pace = upload_pace
        self._gateway = gateway
        self._forwarder = forwarder
        self._passing = Passing(gateway.routes, forwarder, Sessions(session_keys))
        self._host_suffixes = tuple(host_suffixes)
        self._body_timeout_s = body_timeout_s
        self._on_read_error = on_read_error
        self.answer_hot = hot_reads(gateway.prepare, gateway.known, host_suffixes).answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        held = self._hold_body()
        exchange = Exchange.begin(scope, receive, held, self._body_timeout_s, self._upload_pace)
        REQUEST_ID.set(exchange.request_id)
        try:
            try:
                response = await self._answer(exchange)
            except ClientGone:
                return
            await response(scope, receive, send)
        finally:
            held.release()

    async def _answer(self, exchange: Exchange) -> PiecesResponse:
        """Raises only ClientGone."""
        try:
            return await self._dispatch(exchange)
        except ClientGone:
            raise
        except Exception as error:
            if not isinstance(error, WarmstartError):
                log.error("request %s failed", exchange.request_id, exc_info=error)
            cache = CacheStatus.MISS if exchange.reads else CacheStatus.BYPASS
            return exchange.reply(render_error(error, exchange.asked()), cache)

    async def _dispatch(self, exchange: Exchange) -> PiecesResponse:
        operation = parse_request(exchange.method, exchange.target, exchange.raw_headers, self._host_suffixes)
        exchange.operation, exchange.api = operation.operation, operation.api
        if exchange.batched and not fits_batch(operation):
            raise InvalidRequest("invalid", "A batch holds requests of the JSON API for metadata only.")
        exchange.expects_continue = isinstance(operation, Pass) and operation.body.expects_continue
        if exchange.refused is not None:
            raise exchange.refused
        if isinstance(operation, Read):
            exchange.resource = f"{operation.request.name.bucket}/{operation.request.name.key}"
            return await self._read(exchange, operation)
        target = operation.target
        exchange.resource = target.bucket if target.name is None else f"{target.bucket}/{target.name}"
        if isinstance(target, JsonTarget) and target.endpoint == "batch":
            return await self._batch(exchange, operation)
        if not target.bucket:
            return await self._answer_service(exchange, operation)
        bucket = destination(target) if isinstance(target, JsonTarget) else target.bucket
        route = self._gateway.route(bucket)
        if operation.operation == "storage.objects.list" and operation.api is Api.XML:
            return exchange.reply(await list_objects(exchange, route, operation))
        if route.origin.dialect == "gcs":
            return await self._passing.answer(exchange, route, operation)
        if operation.instead is not None:
            return await self._read(exchange, operation.instead)
        return exchange.reply(await answer_bucket(exchange, self._gateway, self._forwarder, route, operation))

    async def _answer_service(self, exchange: Exchange, operation: Pass) -> PiecesResponse:
        """Buckets in all, and projects: a wildcard's GCS origin tells its own."""
        wildcard = self._gateway.routes.wildcard
        listing = operation.operation == "storage.buckets.list"
        if wildcard is not None and wildcard.origin.dialect == "gcs" and (operation.api is Api.JSON or not listing):
            return await self._passing.answer(exchange, wildcard, operation)
        if not listing:
            raise NotSupported(f"{operation.operation} is possible only where all buckets are at one GCS origin.")
        return exchange.reply(await list_buckets(exchange, self._gateway.routes, operation))

    # Reads

    async def _read(self, exchange: Exchange, read: Read) -> PiecesResponse:
        exchange.reads = True
        if not read.media:
            select({}, read.fields, OBJECT)  # refused before the object is looked up
        answer = await self._read_object(read)
        if not read.media and not answer.not_modified:
            return exchange.reply(self._resource(exchange, read, answer), answer.cache)
        if not answer.not_modified and is_unpacked(read, answer.record):
            return await self._send_unpacked(exchange, read, answer)
        status, headers = render_read(read, answer)
        length = None if answer.not_modified else answer.length
        final = exchange.finish(status, headers, answer.cache)
        return PiecesResponse(status, final, answer.body, length, on_read_error=self._on_read_error)

    async def _read_object(self, read: Read) -> ReadAnswer:
        """A generation is looked for in the current version first, then, at GCS, by its number."""
        request = read.request
        if read.pin is None or self._gateway.route(request.name.bucket).origin.dialect != "gcs":
            return await self._read_ranged(read, request)
        current = self._gateway.known(request.name)
        if current is not None and generation_of(current) == read.pin:
            try:
                return await self._read_ranged(read, request)
            except OtherGeneration:
                pass  # it was the current one a moment ago
        return await self._read_ranged(read, replace(request, name=replace(request.name, version_id=str(read.pin))))

    async def _read_ranged(self, read: Read, request: ReadObject) -> ReadAnswer:
        """A Range counts for the stored bytes, so it does not count for an answer that is unpacked."""
        if request.range is None or read.accepts_gzip:
            return await self._gateway.read(request)
        whole = replace(request, range=None)
        try:
            answer = await self._gateway.read(request)
        except RangeNotSatisfiable:
            looked = await self._gateway.read(replace(whole, head_only=True))
            if looked.not_modified or not is_unpacked(read, looked.record):
                raise
            return await self._gateway.read(whole)
        if answer.span is None or not is_unpacked(read, answer.record):
            return answer
        if answer.body is not None:
            await _close(answer)
        return await self._gateway.read(whole)

    async def _send_unpacked(self, exchange: Exchange, read: Read, answer: ReadAnswer) -> PiecesResponse:
        headers = exchange.finish(200, render_unpacked(read, answer), answer.cache)
        if answer.body is None:
            return PiecesResponse(200, headers)
        return PiecesResponse(200, headers, unpacked(answer.body), None, on_read_error=self._on_read_error)

    def _resource(self, exchange: Exchange, read: Read, answer: ReadAnswer) -> Reply:
        resource = object_resource(read.request.name, answer.record, exchange.host)
        etag = object_etag(Api.JSON, answer.record)
        return json_reply(select(resource, read.fields, OBJECT), headers=(("etag", etag),))

    # Batches

    async def _batch(self, exchange: Exchange, operation: Pass) -> PiecesResponse:
        if exchange.method != "POST":
            raise InvalidRequest("MethodNotAllowed", "A batch is a POST.")
        content = await read_whole(exchange.held.counted(exchange.body()), BATCH_BYTES_MAX)
        inner = parse_batch(operation.header("content-type") or "", content)
        return exchange.reply(await render_batch(inner, lambda one: self._answer_inner(exchange, one)))

    async def _answer_inner(self, exchange: Exchange, inner: Inner) -> PiecesResponse:
        """One request of a batch, answered as if it had come alone."""
        one = Exchange(inner.method, inner.target, inner.headers, exchange.host, inner.receive, exchange.held)
        one.batched = True
        return await self._answer(one)


async def _close(answer: ReadAnswer) -> None:
    aclose = getattr(answer.body, "aclose", None)
    if aclose is not None:
        await aclose()
