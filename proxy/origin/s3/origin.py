"""The Origin contract over S3: `head`, `read_range`, `head_part`, `forward`, `list_objects`, `list_buckets`.

How it works. Every operation follows an `OperationRoute`: sign for the bucket's region, send, and if the answer names
another region or location, do so again there, at most three times. Block bytes come by the range client (`proxy.wire`),
or by httpx if the environment names a proxy; everything else comes by httpx.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from proxy.blocks import ByteSink
from proxy.errors import InvalidRequest, NotFound, VersionChanged, WarmstartError
from proxy.http.headers import Headers
from proxy.http.trail import no_marks
from proxy.metrics import ORIGIN_BYTES, ORIGIN_REQUESTS
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import ForwardRequest, ForwardResponse, ListPage, Opened, PartSpan
from proxy.origin.answers import ExactSink, OpenedAnswer, told_size
from proxy.origin.exchange import HttpExchange, HttpLimits, Use, environment_proxy, range_client, tls_context
from proxy.origin.headers import first_value, parse_content_range, read_length
from proxy.origin.pages import FoundEntry
from proxy.origin.refusals import parse_code
from proxy.origin.s3.answers import check_version, is_success
from proxy.origin.s3.credentials import CredentialSource
from proxy.origin.s3.errors import refusal
from proxy.origin.s3.forward import Forwarding
from proxy.origin.s3.headers import parse_validator, read_record, without_sums
from proxy.origin.s3.lately import Lately
from proxy.origin.s3.listing import list_page, read_buckets, read_page
from proxy.origin.s3.parts import PartAnswer, PartSpans, is_part_etag
from proxy.origin.s3.redirects import OperationRoute, Regions
from proxy.origin.s3.signing import EMPTY_PAYLOAD, Signer
from proxy.origin.s3.target import Addressing, Query, aws_endpoint, parse_site
from proxy.origin.trouble import changed, from_wire, mismatch, short_body
from proxy.ranges import ByteRange
from proxy.wire.client import WireClient
from proxy.wire.errors import WireError
from proxy.wire.head import ResponseHead
from proxy.wire.response import Accept, Response

_WITH_SUMS = ("x-amz-checksum-mode", "ENABLED")
DOCUMENT_BYTES_MAX = 16 << 20  # a page of a thousand names of a kilobyte each has 4 MiB, percent-encoded

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class S3Settings:
    """The settings. `endpoint` is a URL, with any path that precedes the bucket's name, or None for AWS. `region` is
    used for signing until a bucket turns out to be in another one. `user_agent` is sent with each request."""

    endpoint: str | None = None
    region: str = "us-east-1"
    addressing: Addressing = "auto"
    ca_file: Path | None = None
    verify_tls: bool = True
    user_agent: str | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)


class S3Origin:
    """An S3 origin of one event loop; see `proxy.origin`. Raises ConfigInvalid for settings that can't work.

    `wire` reads the block bytes; without it the origin makes its own client, with its own trust. `clock` is Unix time;
    `marks` returns headers that are sent, unsigned, with each request to a configured endpoint.
    """

    dialect = "s3"
    opening_tells = True

    def __init__(
        self,
        settings: S3Settings,
        credentials: CredentialSource,
        wire: WireClient | None = None,
        *,
        name: str | None = None,
        marks: Callable[[], Headers] = no_marks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._site = parse_site(settings.endpoint, settings.addressing)
        self.id = self._site.id
        self.name = name or self.id
        context = tls_context(settings.ca_file, verify=settings.verify_tls)
        proxy = environment_proxy(self._site.endpoint or aws_endpoint(settings.region))
        patience = settings.limits.patience()
        self._wire = wire or range_client(context, settings.limits, patience)
        self._exchange = HttpExchange(context, proxy, settings.limits, patience)
        self._proxied = proxy is not None
        self._credentials = credentials
        self._clock = clock
        self._signer = Signer(clock, settings.user_agent)
        self._there, self._denies = Lately(clock), Lately(clock)  # buckets that have answered, or denied access
        self._marks = marks if self._site.endpoint is not None else no_marks
        self._regions = Regions(settings.region)
        self._parts = PartSpans(self._ask_part)
        self._forwarding = Forwarding(
            self.name, self._site, self._regions, self._exchange, self._signer, credentials, self._marks
        )

    # Keys.

    async def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectRecord:
        """Return a key's record. Raises NotFound, AccessDenied, OriginRefused, OriginUnavailable."""
        checked_at_s = self._clock()
        query = (("versionId", version_id),) if version_id is not None else ()
        status, headers = await self._head(bucket, key, query, (_WITH_SUMS,))
        if status == 404:  # a HEAD has no body that says which; `explain_missing` finds out, if a client needs it
            raise NotFound("key" if version_id is None else "version", key, certain=False)
        if status != 200:
            headers, body = await self._ask_why(status, headers, bucket, key, query)
            raise self._refusal(status, headers, body, bucket, key)
        self._there.note(bucket)
        size_bytes = read_length(headers)
        if size_bytes is None or first_value(headers, "content-range") is not None:
            raise mismatch("an answer to HEAD that does not tell the object's size", headers)
        return read_record(self.id, bucket, key, version_id, size_bytes, headers, checked_at_s)

    async def explain_missing(self, bucket: str, key: str, version_id: str | None = None) -> NotFound:
        """Find out which of bucket, key and version is missing, after `head` has not found a key.

        Asks the origin, unless the key's bucket was there a moment ago. Raises OriginUnavailable.
        """
        if version_id is None and self._there.lately(bucket):
            return NotFound("key", key)
        query = (("versionId", version_id),) if version_id is not None else ()
        headers, body = await self._ask_why(404, (), bucket, key, query)
        found = self._refusal(404, headers, body, bucket, key)
        if not isinstance(found, NotFound):
            return NotFound("key", key)
        if found.what != "bucket":
            self._there.note(bucket)
        return found

    async def head_part(self, record: ObjectRecord, number: int) -> PartSpan:
        """Find a part. Raises InvalidRequest("InvalidPartNumber"), VersionChanged, and what `head` raises."""
        return await self._parts.find(record, number)

    async def _ask_part(self, version: ObjectVersion, number: int) -> PartAnswer:
        version_query, _ = _pinned(version)
        query = (*version_query, ("partNumber", str(number)))
        status, headers = await self._head(version.bucket, version.key, query, ())
        if status in (400, 416):  # HEAD has no body that could say more
            raise InvalidRequest("InvalidPartNumber", f"the object has no part {number}")
        if status not in (200, 206):
            raise self._read_refusal(status, headers, b"", version)
        if not is_part_etag(version, headers):
            check_version(headers, version)
        return self._read_part(version, status, headers)

    def _read_part(self, version: ObjectVersion, status: int, headers: Headers) -> PartAnswer:
        length, label = read_length(headers), first_value(headers, "content-range")
        named = parse_content_range(label) if label is not None else None
        if length is None or (label is not None and (named is None or named.span.length != length)):
            raise mismatch(f"a part of {length} bytes with Content-Range {label!r}", headers)
        if named is not None and named.size_bytes != version.size_bytes:
            raise changed(self.id, version.key, f"{named.size_bytes} bytes, not {version.size_bytes}")
        count = first_value(headers, "x-amz-mp-parts-count") or ""
        return PartAnswer(
            length,
            named.span if named is not None else None,
            int(count) if count.isascii() and count.isdigit() and len(count) <= 9 else None,
        )

    async def _head(self, bucket: str, key: str, query: Query, headers: Headers) -> tuple[int, Headers]:
        route = OperationRoute(self._site, self._regions, bucket, key, query)
        sent = (("accept-encoding", "identity"), *headers)
        while True:
            ORIGIN_REQUESTS.labels(self.name, "head").inc()
            signed = await self._sign(route, "HEAD", sent)
            status, answered = await self._exchange.head(route.target, signed, retried=True)
            if not route.turn(status, answered, b""):
                return status, answered

    async def _ask_why(
        self, status: int, headers: Headers, bucket: str, key: str, query: Query
    ) -> tuple[Headers, bytes]:
        """Return headers and body that explain a HEAD's refusal: those of a GET, as a HEAD has no body with the code.

        An answer of another status explains nothing. Without the right to list a bucket, a missing key gets a 403. So
        once the bucket has said AccessDenied, its keys are no longer asked for twice.
        """
        if status not in (400, 403, 404) or (status == 403 and self._denies.lately(bucket)):
            return headers, b""
        route = OperationRoute(self._site, self._regions, bucket, key, query)
        sent = (("accept-encoding", "identity"), ("range", "bytes=0-0"))
        ORIGIN_REQUESTS.labels(self.name, "head").inc()
        signed = await self._sign(route, "GET", sent)
        answer = await self._exchange.get(route.target, signed, lambda head: None)
        if answer.status != status:
            return headers, b""
        if status == 403 and parse_code(answer.body) == "AccessDenied":
            self._denies.note(bucket)
        return answer.head.headers, answer.body

    # Bytes.

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        """Raises VersionChanged, OriginUnavailable, NotFound, AccessDenied, OriginRefused, and the sink's errors."""
        if span.length == 0:
            return
        exact = ExactSink(sink, version, span)

        def accept(head: ResponseHead) -> ByteSink | None:
            return exact if is_success(head, version, span) else None

        try:
            answer = await self._follow(version, span, accept)
        finally:
            ORIGIN_BYTES.labels(self.name).inc(span.length - exact.left_bytes)
        if answer.status not in (200, 206):
            raise self._read_refusal(answer.status, answer.head.headers, answer.body, version)
        if exact.left_bytes > 0:
            raise short_body(span.length - exact.left_bytes, span.length, answer.head.headers)

    async def open_range(self, bucket: str, key: str, span: ByteRange, opened: Opened) -> None:
        """Raises OriginUnavailable, NotFound, AccessDenied, OriginRefused, and the errors of `opened`."""
        answered = OpenedAnswer(opened, self.name, is_success)
        checked_at_s = self._clock()

        def accept(head: ResponseHead) -> ByteSink | None:
            if head.status not in (200, 206):
                return None
            size_bytes = told_size(head, span)
            if size_bytes is None:
                return answered.begin(head)
            whole = span.start == 0 and size_bytes <= span.end
            headers = head.headers if whole else without_sums(head.headers)  # a part has a checksum of its own
            record = read_record(self.id, bucket, key, None, size_bytes, headers, checked_at_s)
            return answered.begin(head, replace(record, sums_known=bool(record.sums)))

        try:
            answer = await self._ask_range(bucket, key, (), span, (_WITH_SUMS,), accept)
        finally:
            answered.count()
        if answer.status not in (200, 206):
            raise self._refusal(answer.status, answer.head.headers, answer.body, bucket, key)
        answered.check_whole()

    async def _follow(self, version: ObjectVersion, span: ByteRange, accept: Accept) -> Response:
        query, conditions = _pinned(version)
        return await self._ask_range(version.bucket, version.key, query, span, conditions, accept)

    async def _ask_range(
        self, bucket: str, key: str, query: Query, span: ByteRange, conditions: Headers, accept: Accept
    ) -> Response:
        sent = (("accept-encoding", "identity"), ("range", f"bytes={span.start}-{span.end - 1}"), *conditions)
        route = OperationRoute(self._site, self._regions, bucket, key, query)
        while True:
            ORIGIN_REQUESTS.labels(self.name, "read").inc()
            signed = await self._sign(route, "GET", sent)
            answer = await self._get(route, signed, accept)
            if not route.turn(answer.status, answer.head.headers, answer.body):
                return answer

    async def _get(self, route: OperationRoute, headers: Headers, accept: Accept) -> Response:
        if self._proxied:
            return await self._exchange.get(route.target, headers, accept, Use.BULK)
        try:
            return await self._wire.get(route.target.endpoint, route.target.request_target, headers, accept)
        except WireError as error:
            raise from_wire(error) from error

    async def _sign(self, route: OperationRoute, method: str, headers: Headers) -> Headers:
        keys = await self._credentials.get()
        signed = self._signer.sign(keys, route.region, method, route.target, headers, EMPTY_PAYLOAD)
        return (*signed, *self._marks())

    def _refusal(self, status: int, headers: Headers, body: bytes, bucket: str, key: str) -> WarmstartError:
        return refusal(status, headers, body, bucket, key, now_s=self._clock())

    def _read_refusal(self, status: int, headers: Headers, body: bytes, version: ObjectVersion) -> WarmstartError:
        """Return the error; a missing key has changed, as it was there when it was resolved."""
        error = self._refusal(status, headers, body, version.bucket, version.key)
        if isinstance(error, NotFound) and error.what == "key" and not version.validator.startswith("version "):
            return VersionChanged(str(error))
        return error

    # Everything else.

    async def forward(self, request: ForwardRequest) -> ForwardResponse:
        """Raises OriginUnavailable, AccessDenied (no credentials), InvalidRequest, and what the body raises."""
        return await self._forwarding.send(request)

    async def list_objects(self, bucket: str, *, prefix: str, delimiter: str, after: str, limit: int) -> ListPage:
        """Raises NotFound("bucket"), AccessDenied, OriginRefused, OriginUnavailable."""

        async def ask(query: Query) -> FoundEntry:
            return await self._read_document(bucket, query, read_page)

        return await list_page(ask, prefix=prefix, delimiter=delimiter, after=after, limit=limit)

    async def list_buckets(self) -> tuple[tuple[str, float], ...]:
        """Raises what `list_objects` raises."""
        return await self._read_document("", (), read_buckets)

    async def _read_document(self, bucket: str, query: Query, read: Callable[[bytes], Result]) -> Result:
        request = ForwardRequest("GET", bucket, None, query, (("accept-encoding", "identity"),))
        response = await self._forwarding.send(request, Use.METADATA)
        try:
            body = bytearray()
            async for chunk in response.body:
                body += chunk
                if len(body) > DOCUMENT_BYTES_MAX:
                    raise mismatch(f"a document of more than {DOCUMENT_BYTES_MAX} bytes")
        finally:
            await response.close()
        if response.status != 200:
            raise self._refusal(response.status, response.headers, bytes(body), bucket, bucket)
        try:
            return await asyncio.to_thread(read, bytes(body))
        except (ValueError, KeyError, RecursionError) as error:
            raise mismatch(f"a listing that can't be read ({error})") from None

    async def aclose(self) -> None:
        await self._wire.aclose()
        await self._exchange.aclose()


def _pinned(version: ObjectVersion) -> tuple[Query, Headers]:
    """Return what pins a request to this version: a query, and a condition if there is a strong ETag."""
    version_id, etag = parse_validator(version.validator)
    query = (("versionId", version_id),) if version_id is not None else ()
    return query, (("if-match", etag),) if etag is not None else ()
