"""The S3 surface as an ASGI application: one way in, one way out.

How it works. The raw target is parsed by `requests`, never by a router: routers decode and normalise. Then
1. a `Read` is answered by the gateway, from the cache;
2. a bucket operation on a directory or a GCS bucket is answered by `buckets`;
3. everything else goes to the bucket's origin and comes back as it is, streaming both ways; to GCS in its own words
   (`goog`).
All answers and all errors leave through `finish`, which gives X-Cache and the request's id and counts. It counts what
is said to the client, so metrics and headers can't differ. Plain hits need none of this: `hot` answers them with the
same functions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import quote

from proxy.admission import Admission, HeldBytes
from proxy.errors import InvalidRequest, NotSupported, Overloaded, WarmstartError
from proxy.gateway.answers import CacheStatus, ReadAnswer, ReadObject
from proxy.gateway.forward import Forwarder, ForwardRequest, ForwardResponse
from proxy.gateway.hot import HotRead
from proxy.gateway.routes import BucketRoute, Routes
from proxy.http.targets import parse_copy_source
from proxy.lanes.asgi import OnReadError, PiecesResponse, Receive, Scope, Send
from proxy.lanes.incoming import RECEIVE_TIMEOUT_S, REFUSED, ClientGone, chain, raw_target, read_whole, receive_body
from proxy.metrics import REQUESTS
from proxy.objects import ObjectName
from proxy.rate_limited_log import REQUEST_ID
from proxy.surface.forms import read_form_key
from proxy.surface.heads import Headers, Reply, new_request_id, render_passed
from s3api.bodies import (
    DELETE_BYTES_MAX,
    PARTS_BYTES_MAX,
    parse_delete,
    parse_delete_items,
    render_parts,
)
from s3api.buckets import answer_bucket, list_buckets
from s3api.chunked import decode_chunked
from s3api.errors import Asked, render_error
from s3api.hot import hot_reads
from s3api.removal import delete_each, read_deletion
from s3api.requests import (
    COPY_SOURCE,
    RDMA_DECLINED,
    RDMA_PREFIX,
    RDMA_TOKEN,
    Pass,
    Read,
    copy_source,
    parse_request,
    written_names,
)
from s3api.responses import complete, render_read
from s3api.sums import verified
from s3api.targets import render_path
from s3api.to_gcs import SENT_ON, answer_headers, claimed_sums, rename

_RDMA_TOKEN = RDMA_TOKEN.encode()

log = logging.getLogger(__name__)


class Reads(Protocol):
    """What this surface asks of `proxy.gateway.read.Gateway`."""

    @property
    def routes(self) -> Routes: ...

    def route(self, bucket: str) -> BucketRoute: ...

    async def read(self, request: ReadObject) -> ReadAnswer: ...

    def prepare(self, request: ReadObject) -> HotRead | None: ...


@dataclass(slots=True)
class Exchange:
    """One request and what is known of it so far."""

    method: str
    target: bytes
    raw_headers: Sequence[tuple[bytes, bytes]]
    held: HeldBytes  # of the request's body, in memory
    refused: Overloaded | None = None  # whatever is asked
    request_id: str = field(default_factory=new_request_id)
    operation: str = "Other"
    reads: bool = False
    expects_continue: bool = False  # and was not told to continue yet
    body_failure: Exception | None = None

    def asked(self) -> Asked:
        ranges = [value.decode("latin-1") for name, value in self.raw_headers if name == b"range"]
        return Asked(self.method, render_path(self.target), self.request_id, ranges[0] if ranges else None)


def finish(exchange: Exchange, status: int, headers: Headers, cache: CacheStatus) -> Headers:
    """The one way out: the final headers, and the count. Call it once for each answer."""
    REQUESTS.labels(exchange.operation, str(status), "asgi", cache.value).inc()
    if any(name == _RDMA_TOKEN for name, _ in exchange.raw_headers):
        headers = (*(pair for pair in headers if not pair[0].startswith(RDMA_PREFIX)), RDMA_DECLINED)
    # Whether an expected body comes after all, nobody can know: end the connection.
    return complete(headers, cache, exchange.request_id, closes=exchange.expects_continue)


class S3App:
    """See the module's text. `host_suffixes` are the hosts under which buckets are sub-domains.

    `on_read_error` hears of a cached file that could not be read while it was sent.
    """

    def __init__(
        self,
        gateway: Reads,
        forwarder: Forwarder,
        *,
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
        self._host_suffixes = tuple(host_suffixes)
        self._body_timeout_s = body_timeout_s
        self._on_read_error = on_read_error
        self.answer_hot = hot_reads(gateway.prepare, host_suffixes).answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        held = self._hold_body()
        exchange = Exchange(scope["method"], raw_target(scope), scope["headers"], held, scope.get(REFUSED))
        REQUEST_ID.set(exchange.request_id)
        try:
            try:
                response = await self._answer(exchange, receive)
            except ClientGone:
                return
            except Exception as error:
                response = self._refuse(exchange, error)
            await response(scope, receive, send)
        finally:
            held.release()

    async def _answer(self, exchange: Exchange, receive: Receive) -> PiecesResponse:
        operation = parse_request(exchange.method, exchange.target, exchange.raw_headers, self._host_suffixes)
        exchange.operation = operation.operation
        exchange.expects_continue = isinstance(operation, Pass) and operation.body.expects_continue
        if exchange.refused is not None:
            raise exchange.refused
        if isinstance(operation, Read):
            return await self._read(exchange, operation)
        if not operation.bucket:
            return await self._answer_service(exchange, operation, receive)
        route = self._gateway.route(operation.bucket)
        if route.origin.dialect == "s3":
            return await self._forward(exchange, route, operation, receive)
        if operation.instead is not None:
            return await self._read(exchange, operation.instead)
        if route.origin.dialect == "gcs" and operation.operation in SENT_ON:
            return await self._forward(exchange, route, operation, receive)
        if route.origin.dialect == "gcs" and operation.operation == "DeleteObjects":
            return await self._delete_each(exchange, route, operation, receive)
        return _reply(exchange, await answer_bucket(route, operation), CacheStatus.BYPASS)

    async def _read(self, exchange: Exchange, read: Read) -> PiecesResponse:
        exchange.reads = True
        answer = await self._gateway.read(read.request)
        status, headers = render_read(read, answer)
        length = None if answer.not_modified else answer.length
        final = finish(exchange, status, headers, answer.cache)
        return PiecesResponse(status, final, answer.body, length, on_read_error=self._on_read_error)

    async def _answer_service(self, exchange: Exchange, operation: Pass, receive: Receive) -> PiecesResponse:
        """ListBuckets: a wildcard's S3 origin lists its own; else the gateway names what it knows."""
        if operation.operation != "ListBuckets":
            raise InvalidRequest("MethodNotAllowed", "The specified method is not allowed against this resource.")
        wildcard = self._gateway.routes.wildcard
        if wildcard is not None and wildcard.origin.dialect == "s3":
            return await self._forward(exchange, self._gateway.route(""), operation, receive)
        return _reply(exchange, await list_buckets(self._gateway.routes), CacheStatus.BYPASS)

    async def _forward(
        self, exchange: Exchange, route: BucketRoute, operation: Pass, receive: Receive
    ) -> PiecesResponse:
        if operation.mutates:
            self._forwarder.check_writable(route)  # before the client is told to send its body
        operation = replace(operation, headers=self._with_real_source(route, operation.headers))
        claimed = {}
        if route.origin.dialect == "gcs":
            claimed, operation = claimed_sums(operation), rename(operation)
        body, body_bytes, named = await self._open_body(exchange, operation, receive)
        if claimed and body is not None:
            body = _noting(exchange, verified(claimed, body))
        request = ForwardRequest(
            method=operation.method,
            bucket=route.real_bucket,
            key=operation.key,
            query=operation.query,
            headers=operation.headers,
            body=body,
            body_bytes=body_bytes,
            payload_hash=operation.body.payload_hash,
        )
        try:
            response = await self._forwarder.forward(
                route, request, (*operation.written, *named), mutates=operation.mutates
            )
        except Exception:
            if exchange.body_failure is not None:  # what the origin's client made of it says less
                raise exchange.body_failure from None
            raise
        if route.origin.dialect == "gcs":
            if operation.operation == "DeleteObject" and response.status == 404:
                return await self._answer_deletion(exchange, response)
            response = replace(response, headers=answer_headers(response.headers))
        passed = render_passed(response.status, response.headers)
        length = _announced_length(passed)
        final = finish(exchange, response.status, passed, CacheStatus.BYPASS)
        return PiecesResponse(response.status, final, response.body, length, memory_source="forward")

    async def _answer_deletion(self, exchange: Exchange, response: ForwardResponse) -> PiecesResponse:
        """GCS's 404: there is nothing to delete, which S3 says with a 204, or there is no bucket."""
        gone, body = await read_deletion(response)
        passed = answer_headers(render_passed(response.status, response.headers))
        kept = tuple(pair for pair in passed if pair[0] != "content-length")
        return _reply(exchange, Reply(204, ()) if gone else Reply(response.status, kept, body), CacheStatus.BYPASS)

    async def _delete_each(
        self, exchange: Exchange, route: BucketRoute, operation: Pass, receive: Receive
    ) -> PiecesResponse:
        self._forwarder.check_writable(route)
        if not operation.body.present:
            raise InvalidRequest("MissingRequestBodyError", "Request body is empty.")
        body = exchange.held.counted(self._decode(exchange, operation, receive))
        content = await read_whole(body, DELETE_BYTES_MAX)
        items, quiet = await asyncio.to_thread(parse_delete_items, content)
        reply = await delete_each(self._forwarder, route, items, exchange.asked(), quiet=quiet)
        return _reply(exchange, reply, CacheStatus.BYPASS)

    async def _open_body(
        self, exchange: Exchange, operation: Pass, receive: Receive
    ) -> tuple[AsyncIterator[bytes] | None, int | None, tuple[ObjectName, ...]]:
        """The body to send on, its length, and the names that it says are written."""
        form = operation.body
        if not form.present:
            return None, form.length_bytes, ()
        body = self._decode(exchange, operation, receive)
        if operation.body_names == "parts":
            content = await asyncio.to_thread(
                render_parts, await read_whole(exchange.held.counted(body), PARTS_BYTES_MAX)
            )
            return chain(content), len(content), ()
        if operation.body_names == "delete":
            content = await read_whole(exchange.held.counted(body), DELETE_BYTES_MAX)
            return chain(content), len(content), await asyncio.to_thread(parse_delete, operation.bucket, content)
        if operation.body_names == "form":
            content_type = next((value for name, value in operation.headers if name == "content-type"), "")
            key, read = await read_form_key(content_type, exchange.held.counted(body))
            return _noting(exchange, chain(read, body)), form.length_bytes, written_names(operation.bucket, key)
        if form.length_bytes == 0:  # only framing: it must be sound before the origin hears of it
            await read_whole(body, 0)
            return None, 0, ()
        return _noting(exchange, body), form.length_bytes, ()

    def _decode(self, exchange: Exchange, operation: Pass, receive: Receive) -> AsyncIterator[bytes]:
        """The body without its framing."""
        body = self._receive(exchange, receive)
        return body if operation.body.chunked is None else decode_chunked(operation.body.chunked, body)

    async def _receive(self, exchange: Exchange, receive: Receive) -> AsyncIterator[bytes]:
        exchange.expects_continue = False
        async for data in receive_body(receive, self._body_timeout_s, self._upload_pace):
            yield data

    def _with_real_source(self, route: BucketRoute, headers: Headers) -> Headers:
        """The headers with a copy's source as the origin names it. Raises NotFound, NotSupported, InvalidRequest."""
        found = copy_source(headers)
        if found is None:
            return headers
        source = parse_copy_source(found)
        from_route = self._gateway.route(source[0])
        if from_route.origin.id != route.origin.id:
            raise NotSupported(
                f"The buckets {source[0]!r} and {route.name!r} are at two origins: no copy between them."
            )
        renamed = f"/{quote(from_route.real_bucket)}/{source[1]}"
        return tuple((name, renamed if name == COPY_SOURCE else value) for name, value in headers)

    def _refuse(self, exchange: Exchange, error: Exception) -> PiecesResponse:
        if not isinstance(error, WarmstartError):
            log.error("request %s failed", exchange.request_id, exc_info=error)
        cache = CacheStatus.MISS if exchange.reads else CacheStatus.BYPASS
        return _reply(exchange, render_error(error, exchange.asked()), cache)


def _reply(exchange: Exchange, reply: Reply, cache: CacheStatus) -> PiecesResponse:
    headers = finish(exchange, reply.status, reply.headers, cache)
    if exchange.method == "HEAD":
        return PiecesResponse(reply.status, headers)
    return PiecesResponse(reply.status, headers, chain(reply.body), len(reply.body), memory_source="forward")


async def _noting(exchange: Exchange, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body; what ends it early is kept with the exchange."""
    try:
        async for data in body:
            yield data
    except (ClientGone, WarmstartError) as error:
        exchange.body_failure = error
        raise


def _announced_length(headers: Headers) -> int | None:
    """Bytes of the origin's Content-Length; None where it says none that is a number."""
    values = [value for name, value in headers if name == "content-length"]
    return int(values[0]) if values and values[0].isascii() and values[0].isdigit() else None
