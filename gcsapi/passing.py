"""Operations that go on to GCS: requests in real names, inside the fence of what they write; answers in the client's.

How it works.
1. What the request writes is found out: from its path, its query, or the beginning of its body (`uploads`).
2. The client's names of buckets become the real ones, in the path, and in a JSON resource that was read anyway.
3. The rest streams on. The answer streams back; a JSON document is read whole, for the names and links in it (`links`),
   and so is nothing else.
A copy reads one bucket and writes another; both must be at one origin.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gcsapi.exchange import Exchange
from gcsapi.links import DOCUMENT_BYTES_MAX, rewrite_document, rewrite_link, rewrite_names
from gcsapi.operations import written_names
from gcsapi.requests import Api, Pass
from gcsapi.resources import encode
from gcsapi.sessions import Session, Sessions
from gcsapi.targets import JsonTarget, XmlTarget
from gcsapi.uploads import (
    RESOURCE_BYTES_MAX,
    object_name,
    parse_resource,
    read_first_part,
)
from proxy.errors import InvalidRequest, NotSupported, OriginUnavailable
from proxy.gateway.answers import CacheStatus
from proxy.gateway.forward import Forwarder, ForwardRequest, ForwardResponse, read_body
from proxy.gateway.routes import BucketRoute, Routes
from proxy.http.targets import parse_copy_source
from proxy.lanes.asgi import PiecesResponse
from proxy.lanes.incoming import chain, read_whole
from proxy.surface.forms import read_form_key
from proxy.surface.heads import Headers, Reply, render_passed

_COPY_SOURCES = ("x-goog-copy-source", "x-amz-copy-source")  # GCS takes S3's words, too
_INSERT = "storage.objects.insert"


@dataclass(frozen=True, slots=True)
class Upload:
    """What the body, or an earlier request, says of an upload."""

    name: str
    session: Session | None = None
    begins_session: bool = False


class Passing:
    """Sends operations to GCS origins."""

    def __init__(self, routes: Routes, forwarder: Forwarder, sessions: Sessions) -> None:
        self._routes = routes
        self._forwarder = forwarder
        self._sessions = sessions

    async def answer(self, exchange: Exchange, route: BucketRoute, operation: Pass) -> PiecesResponse:
        """`route` is that of the bucket that is written, or read. Raises what the origin raises, AccessDenied."""
        if operation.mutates:
            self._forwarder.check_writable(route)  # before the client is told to send its body
        names = self._names(route, operation)
        body, body_bytes, upload = await self._open_body(exchange, route, operation, names)
        written = operation.written
        if upload is not None and not upload.begins_session:
            written = written_names(operation.target.bucket, upload.name)
        request = self._request(route, operation, names, upload.session if upload is not None else None)
        request = replace(request, body=body, body_bytes=body_bytes)
        try:
            response = await self._forwarder.forward(route, request, written, mutates=operation.mutates)
        except Exception:
            if exchange.body_failure is not None:  # what the origin's client made of it says less
                raise exchange.body_failure from None
            raise
        return await self._answered(exchange, route, operation, response, names, upload)

    # The request

    def _names(self, route: BucketRoute, operation: Pass) -> dict[str, str]:
        """The buckets that the request names, and their real names. Raises NotSupported, NotFound."""
        named = {route.name: route.real_bucket}
        source = operation.target.bucket
        copied = _copy_source(operation)
        if copied is not None:
            source = parse_copy_source(copied)[0]
        if source and source not in named:
            other = self._routes.route(source)
            if other.origin.id != route.origin.id:
                raise NotSupported(f"The buckets {source!r} and {route.name!r} are at two origins.")
            named[source] = other.real_bucket
        return named

    def _request(
        self, route: BucketRoute, operation: Pass, names: Mapping[str, str], session: Session | None
    ) -> ForwardRequest:
        target = operation.target
        headers = tuple(pair for pair in operation.headers if pair[0] != "accept-encoding" or operation.media)
        if not operation.media:
            headers = (*headers, ("accept-encoding", "identity"))  # its documents are looked into
        if isinstance(target, XmlTarget):
            headers, query = _with_real_source(headers, names), session.query if session is not None else target.query
            return ForwardRequest(operation.method, route.real_bucket, target.name, query, headers)
        if session is not None:
            return ForwardRequest(operation.method, route.real_bucket, None, session.query, headers, path=session.path)
        path = json_path(target, names)
        return ForwardRequest(operation.method, route.real_bucket, None, target.query, headers, path=path)

    async def _open_body(
        self, exchange: Exchange, route: BucketRoute, operation: Pass, names: Mapping[str, str]
    ) -> tuple[AsyncIterator[bytes] | None, int | None, Upload | None]:
        """The body to send on, its length, and what it tells of an upload."""
        form = operation.body
        body = exchange.body() if form.present else None
        if not isinstance(operation.target, JsonTarget):
            if operation.method == "POST" and operation.target.name is None:
                return await _open_form(exchange, operation, body)
            return body, form.length_bytes, self._xml_upload(route, operation)
        if operation.operation == _INSERT:
            return await self._open_upload(exchange, route, operation, names, body)
        if body is None or "application/json" not in (operation.header("content-type") or ""):
            return body, form.length_bytes, None
        content = await read_whole(exchange.held.counted(body), RESOURCE_BYTES_MAX)
        return *_sent(_renamed(content, operation, names)), None

    async def _open_upload(
        self,
        exchange: Exchange,
        route: BucketRoute,
        operation: Pass,
        names: Mapping[str, str],
        body: AsyncIterator[bytes] | None,
    ) -> tuple[AsyncIterator[bytes] | None, int | None, Upload | None]:
        form, parameters = operation.body, operation.parameters
        kind = upload_kind(operation)
        if kind == "session":
            name = parameters.get("name", "")
            session = self._sessions.parse_json(parameters["upload_id"], route.real_bucket, name)
            return body, form.length_bytes, Upload(name, session)
        if kind == "media":
            return body, form.length_bytes, Upload(object_name(parameters, {}))
        if kind == "multipart" and body is not None:
            content_type = operation.header("content-type") or ""
            resource, read = await read_first_part(content_type, exchange.held.counted(body))
            return chain(read, body), form.length_bytes, Upload(object_name(parameters, resource))
        counted = exchange.held.counted(body) if body is not None else None
        content = await read_whole(counted, RESOURCE_BYTES_MAX) if counted is not None else b""
        name = object_name(parameters, parse_resource(content))
        return *_sent(_renamed(content, operation, names)), Upload(name, begins_session=kind == "resumable")

    def _xml_upload(self, route: BucketRoute, operation: Pass) -> Upload | None:
        """That of a resumable upload which goes on."""
        name, token = operation.target.name, operation.parameters.get("upload_id")
        if name is None or token is None:
            return None
        return Upload(name, self._sessions.parse_xml(token, route.real_bucket, name))

    # The answer

    async def _answered(
        self,
        exchange: Exchange,
        route: BucketRoute,
        operation: Pass,
        response: ForwardResponse,
        names: Mapping[str, str],
        upload: Upload | None,
    ) -> PiecesResponse:
        headers = render_passed(response.status, response.headers)
        clients = {real: name for name, real in names.items()}
        headers = tuple(
            (name, self._location(exchange, route, operation, value, clients, upload) if name == "location" else value)
            for name, value in headers
        )
        if _is_document(operation, headers):
            document = await _read_document(route, response)
            content = await asyncio.to_thread(rewrite_document, document, clients, exchange.host)
            kept = tuple(pair for pair in headers if pair[0] != "content-length")
            return exchange.reply(Reply(response.status, kept, content))
        length = next((int(value) for name, value in headers if name == "content-length" and value.isdigit()), None)
        final = exchange.finish(response.status, headers, CacheStatus.BYPASS)
        return PiecesResponse(response.status, final, response.body, length, memory_source="forward")

    def _location(
        self,
        exchange: Exchange,
        route: BucketRoute,
        operation: Pass,
        location: str,
        clients: Mapping[str, str],
        upload: Upload | None,
    ) -> str:
        """Where the client goes on: never past this gateway."""
        if upload is not None and upload.begins_session:
            return self._sessions.json_location(location, exchange.host, route.name, route.real_bucket, upload.name)
        if isinstance(operation.target, XmlTarget) and (name := operation.target.name) is not None:
            query = location.partition("?")[2]
            if "upload_id=" in query:
                return self._sessions.xml_location(location, exchange.host, route.name, route.real_bucket, name)
            path = f"{exchange.host}/{encode(route.name)}/{encode(name)}"
            return f"{path}?{query}" if query else path
        return rewrite_link(location, clients, exchange.host)


async def _open_form(
    exchange: Exchange, operation: Pass, body: AsyncIterator[bytes] | None
) -> tuple[AsyncIterator[bytes], int | None, Upload]:
    """A browser's form, which names its object in a field. Raises NotSupported for another POST to a bucket."""
    content_type = operation.header("content-type") or ""
    if body is None or not content_type.lower().startswith("multipart/form-data"):
        raise NotSupported("A POST to a bucket is possible only as a form that writes an object.")
    key, read = await read_form_key(content_type, exchange.held.counted(body))
    return chain(read, body), operation.body.length_bytes, Upload(key)


def upload_kind(operation: Pass) -> str:
    """session, media, multipart, resumable, or "plain": a resource without content."""
    parameters = operation.parameters
    if not isinstance(operation.target, JsonTarget) or operation.target.endpoint != "upload":
        return "plain"
    if "upload_id" in parameters:
        return "session"
    told = parameters.get("uploadType", "")
    if not told:
        told = "multipart" if "multipart/" in (operation.header("content-type") or "") else "media"
    if told not in ("media", "multipart", "resumable"):
        raise InvalidRequest("invalid", f"Invalid value for uploadType: '{told[:100]}'")
    return told


def json_path(target: JsonTarget, names: Mapping[str, str]) -> str:
    """The path, percent-encoded, with real buckets' names in it."""
    endpoint = {"upload": "/upload/storage/v1/", "download": "/download/storage/v1/"}.get(
        target.endpoint, "/storage/v1/"
    )
    segments = list(target.segments)
    for position in (1, 6):  # a copy's second bucket stands behind `rewriteTo/b`
        if len(segments) > position and segments[position - 1] == "b":
            segments[position] = names.get(segments[position], segments[position])
    return endpoint + "/".join(encode(segment) for segment in segments)


def _is_document(operation: Pass, headers: Headers) -> bool:
    """Whether an answer is a JSON document that can be read."""
    fields = dict(headers)
    readable = fields.get("content-type", "").startswith("application/json") and "content-encoding" not in fields
    return operation.api is Api.JSON and not operation.media and readable and operation.method != "HEAD"


async def _read_document(route: BucketRoute, response: ForwardResponse) -> bytes:
    """The whole body; the response is closed then, and its fences lifted. Raises OriginUnavailable."""
    content = await read_body(response, DOCUMENT_BYTES_MAX)
    if len(content) > DOCUMENT_BYTES_MAX:
        raise OriginUnavailable(f"{route.origin.id} sent a document of more than {DOCUMENT_BYTES_MAX} bytes")
    return content


def _renamed(content: bytes, operation: Pass, names: Mapping[str, str]) -> bytes:
    """A JSON resource with the real names in it; as it came where there is nothing to rename."""
    if not content.strip():
        return content
    resource: dict[str, Any] = parse_resource(content)
    return json.dumps(resource).encode() if rewrite_names(resource, names) else content


def _with_real_source(headers: Headers, names: Mapping[str, str]) -> Headers:
    """The headers with a copy's source as the origin names it."""

    def rename(source: str) -> str:
        bucket, rest = parse_copy_source(source)
        return f"{names.get(bucket, bucket)}/{rest}"

    return tuple((name, rename(value) if name in _COPY_SOURCES else value) for name, value in headers)


def _copy_source(operation: Pass) -> str | None:
    """The value of the one header that names a copy's source. Raises InvalidRequest where another vendor's does."""
    sources = [(name, value) for name, value in operation.headers if name.endswith("-copy-source")]
    if not sources:
        return None
    if len(sources) > 1 or sources[0][0] not in _COPY_SOURCES or operation.api is not Api.XML:
        raise InvalidRequest("InvalidArgument", "One header of the XML API names a copy's source: x-goog-copy-source.")
    return sources[0][1]


def _sent(content: bytes) -> tuple[AsyncIterator[bytes] | None, int]:
    return (chain(content) if content else None), len(content)
