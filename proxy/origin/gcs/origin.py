"""The Origin contract over GCS: `head`, `read_range`, `head_part`, `forward`, `list_objects`, `list_buckets`.

How it works. Metadata and listings come by the JSON API, because only that returns everything about an object (a
download's headers omit the exact times, and the HEAD of a missing object has no body with the reason). Block bytes are
downloads of one generation by the range client (`proxy.wire`), or by httpx if the environment names a proxy. The
requests accept gzip, so that the body is the stored form. For clients that don't, GCS decompresses objects, and such a
body has neither the length nor the checksums of the metadata.
Source: Cloud Storage documentation, "Transcoding of gzip-compressed files".
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from proxy.blocks import ByteSink
from proxy.errors import InvalidRequest, NotFound, NotSupported, OriginUnavailable, VersionChanged, WarmstartError
from proxy.http.headers import Headers
from proxy.http.trail import no_marks
from proxy.metrics import ORIGIN_BYTES, ORIGIN_REQUESTS
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import ForwardRequest, ForwardResponse, ListPage, Opened, PartSpan
from proxy.origin.answers import ExactSink, OpenedAnswer
from proxy.origin.exchange import HttpExchange, HttpLimits, Use, environment_proxy, range_client, tls_context
from proxy.origin.gcs.answers import Collected, is_labelled, is_success
from proxy.origin.gcs.credentials import TokenSource
from proxy.origin.gcs.errors import missing, read_error
from proxy.origin.gcs.forward import USER_PROJECT, Forwarding, authorized
from proxy.origin.gcs.listing import list_page, read_page
from proxy.origin.gcs.record import RESOURCE_FIELDS, parse_time, read_resource
from proxy.origin.gcs.target import Query, Target, parse_site
from proxy.origin.pages import PAGES_MAX, FoundEntry
from proxy.origin.refusals import parse_refusal
from proxy.origin.trouble import changed, from_wire, mismatch, short_body
from proxy.ranges import ByteRange
from proxy.wire.client import WireClient
from proxy.wire.errors import WireError
from proxy.wire.head import ResponseHead
from proxy.wire.response import Accept, Response

Result = TypeVar("Result")

DOCUMENT_BYTES_MAX = 16 << 20  # a page of a thousand names of a kilobyte each has 2 MiB
_AS_STORED = ("accept-encoding", "gzip")
_PLAIN = ("accept-encoding", "identity")
_CURRENT = (None, "null")  # "null" is what S3 clients call the version of an unversioned bucket


@dataclass(frozen=True, slots=True)
class GcsSettings:
    """The settings. `endpoint` is a URL, or None for Google's. `project` is listed; `user_project` is billed."""

    endpoint: str | None = None
    project: str | None = None
    user_project: str | None = None
    ca_file: Path | None = None
    verify_tls: bool = True
    limits: HttpLimits = field(default_factory=HttpLimits)


class GcsOrigin:
    """A GCS origin of one event loop; see `proxy.origin`. Raises ConfigInvalid for settings that can't work.

    `wire` reads the block bytes; without it the origin makes its own client, with its own trust. `clock` is Unix time;
    `marks` returns headers that are sent with each request to a configured endpoint.
    """

    dialect = "gcs"
    opening_tells = False  # metadata comes only by the JSON API

    def __init__(
        self,
        settings: GcsSettings,
        tokens: TokenSource,
        wire: WireClient | None = None,
        *,
        name: str | None = None,
        marks: Callable[[], Headers] = no_marks,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._site = parse_site(settings.endpoint)
        self.id = self._site.id
        self.name = name or self.id
        self._settings = settings
        context = tls_context(settings.ca_file, verify=settings.verify_tls)
        proxy = environment_proxy(self._site.endpoint)
        patience = settings.limits.patience()
        self._wire = wire or range_client(context, settings.limits, patience)
        self._exchange = HttpExchange(context, proxy, settings.limits, patience)
        self._proxied = proxy is not None
        self._tokens = tokens
        self._clock = clock
        self._marks = marks if settings.endpoint is not None else no_marks
        payer = settings.user_project
        self._common: Headers = ((USER_PROJECT, payer),) if payer is not None else ()
        self._forwarding = Forwarding(self.name, self._site, self._exchange, tokens, settings.user_project, self._marks)

    # Keys.

    async def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectRecord:
        """Return a key's record; `version_id` is a generation.

        Raises NotFound, AccessDenied, OriginRefused, OriginUnavailable.
        """
        query: Query = (("projection", "noAcl"), ("fields", RESOURCE_FIELDS))
        if version_id not in _CURRENT:
            if not version_id or not version_id.isascii() or not version_id.isdigit() or len(version_id) > 19:
                raise NotFound("version", key)
            query += (("generation", version_id),)
        checked_at_s = self._clock()
        answer, document = await self._fetch("head", self._site.resource(bucket, key, query))
        if answer.status != 200:
            error = self._refusal(answer, bucket, key)
            raise await self._missing(answer, bucket, key, version_id) if isinstance(error, NotFound) else error
        record = read_resource(self.id, bucket, key, document, checked_at_s)
        if record is None:
            raise mismatch("metadata without a generation or a size", answer.head.headers)
        return record

    async def _missing(self, answer: Response, bucket: str, key: str, version_id: str | None) -> NotFound:
        """Return what does not exist; if the server does not say, ask it for the bucket."""
        what = missing(parse_refusal(answer.body))
        if what is None:
            asked, _ = await self._fetch("head", self._site.bucket(bucket, (("fields", "name"),)))
            what = "bucket" if asked.status == 404 else "key"
        if what == "key" and version_id not in _CURRENT:
            what = "version"
        return NotFound(what, bucket if what == "bucket" else key)

    async def head_part(self, record: ObjectRecord, number: int) -> PartSpan:
        """Return the whole object: in GCS it is one part, even if it was composed of several objects."""
        if number != 1:
            raise InvalidRequest("InvalidPartNumber", f"the object has no part {number}: objects of GCS have but one")
        return PartSpan(1, 1, ByteRange(0, record.size_bytes))

    # Bytes.

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        """Raises VersionChanged, OriginUnavailable, NotFound, AccessDenied, OriginRefused, and the sink's errors."""
        if span.length == 0:
            return
        exact = ExactSink(sink, version, span)
        unlabelled: list[Collected] = []

        def accept(head: ResponseHead) -> ByteSink | None:
            if not is_success(head, version, span):
                return None
            if is_labelled(head):
                return exact
            unlabelled[:] = [Collected(span.length)]
            return unlabelled[0]

        generation = version.validator.removeprefix("generation ")
        target = self._site.media(version.bucket, version.key, (("generation", generation),))
        try:
            answer = await self._get("read", target, _ranged(span), accept)
            if unlabelled:
                await self._give_checked(version, unlabelled[0], exact)
        finally:
            ORIGIN_BYTES.labels(self.name).inc(span.length - exact.left_bytes)
        if answer.status not in (200, 206):
            raise self._read_refusal(answer, version)
        if exact.left_bytes > 0:
            raise short_body(span.length - exact.left_bytes, span.length, answer.head.headers)

    async def open_range(self, bucket: str, key: str, span: ByteRange, opened: Opened) -> None:
        """Raises OriginUnavailable (also if the server names no generation), and what `head` and `opened` raise."""
        answered = OpenedAnswer(opened, self.name, is_success)

        def accept(head: ResponseHead) -> ByteSink | None:
            return answered.begin(head) if head.status in (200, 206) and is_labelled(head) else None

        try:
            answer = await self._get("read", self._site.media(bucket, key), _ranged(span), accept)
        finally:
            answered.count()
        if answer.status not in (200, 206):
            raise self._refusal(answer, bucket, key)
        if not is_labelled(answer.head):
            raise OriginUnavailable("the origin does not say which generation it sends")
        answered.check_whole()

    async def _give_checked(self, version: ObjectVersion, collected: Collected, sink: ByteSink) -> None:
        """Pass on the bytes of a server that names no generation, after checking that it was still the right one."""
        try:
            record = await self.head(version.bucket, version.key)
        except NotFound as error:
            raise _gone(error) from error
        if record.version != version:
            raise changed(self.id, version.key, f"{record.version.validator}, not {version.validator}")
        pending = sink.write(memoryview(collected.data))
        if pending is not None:
            await pending

    def _read_refusal(self, answer: Response, version: ObjectVersion) -> WarmstartError:
        error = self._refusal(answer, version.bucket, version.key)
        return _gone(error) if isinstance(error, NotFound) else error

    # Everything else.

    async def forward(self, request: ForwardRequest) -> ForwardResponse:
        """Raises OriginUnavailable, AccessDenied (no credentials), InvalidRequest, and what the body raises."""
        return await self._forwarding.send(request)

    async def list_objects(self, bucket: str, *, prefix: str, delimiter: str, after: str, limit: int) -> ListPage:
        """Raises NotFound("bucket"), AccessDenied, OriginRefused, OriginUnavailable."""

        async def ask(query: Query) -> FoundEntry:
            document = await self._list(self._site.listing(bucket, query), bucket)
            return self._read(read_page, document)

        try:
            return await list_page(ask, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        except NotFound as error:
            raise NotFound("bucket", bucket) from error

    async def list_buckets(self) -> tuple[tuple[str, float], ...]:
        """Raises NotSupported if no project is configured, and what `list_objects` raises."""
        if self._settings.project is None:
            raise NotSupported("GCS lists buckets by project: set `project` of this origin")
        query: Query = (("project", self._settings.project), ("projection", "noAcl"), ("maxResults", "1000"))
        query += (("fields", "items(name,timeCreated),nextPageToken"),)
        buckets: list[tuple[str, float]] = []
        token = ""
        for _ in range(PAGES_MAX):
            paged = (*query, ("pageToken", token)) if token else query
            document = await self._list(self._site.buckets(paged), "")
            buckets += self._read(_read_buckets, document)
            token = str(document.get("nextPageToken") or "")
            if not token:
                return tuple(buckets)
        raise mismatch(f"more than {PAGES_MAX} pages of buckets")

    async def aclose(self) -> None:
        await self._wire.aclose()
        await self._exchange.aclose()

    # One request.

    async def _list(self, target: Target, bucket: str) -> dict[str, Any]:
        """Return a page of a listing. Raises the error of the answer."""
        answer, document = await self._fetch("list", target)
        if answer.status != 200:
            raise self._refusal(answer, bucket, "")
        return document

    async def _fetch(self, kind: str, target: Target) -> tuple[Response, dict[str, Any]]:
        """Return an answer and its JSON document, which is empty unless the status is 200."""
        collected = Collected(DOCUMENT_BYTES_MAX)
        answer = await self._get(kind, target, (_PLAIN,), lambda head: collected if head.status == 200 else None)
        document: object = self._read(json.loads, collected.data) if answer.status == 200 else {}
        if not isinstance(document, dict):
            raise mismatch("JSON that is no object")
        return answer, document

    def _read(self, read: Callable[[Any], Result], source: Any) -> Result:
        try:
            return read(source)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise mismatch(f"a document that can't be read ({type(error).__name__})") from None

    async def _get(self, kind: str, target: Target, headers: Headers, accept: Accept) -> Response:
        """Send a GET with a token; after a 401, send it once more with a new one."""
        token = await self._tokens.get()
        answer = await self._get_once(kind, target, authorized((*self._common, *headers), token), accept)
        if answer.status != 401 or token is None:
            return answer
        renewed = await self._tokens.renew(token)
        if renewed == token:
            return answer
        return await self._get_once(kind, target, authorized((*self._common, *headers), renewed), accept)

    async def _get_once(self, kind: str, target: Target, headers: Headers, accept: Accept) -> Response:
        ORIGIN_REQUESTS.labels(self.name, kind).inc()
        endpoint, retried = target.endpoint, kind != "list"
        headers = (*headers, *self._marks())
        if self._proxied:
            use, headers = Use.BULK if kind == "read" else Use.METADATA, (("host", endpoint.authority), *headers)
            return await self._exchange.get(target, headers, accept, use, retried=retried)
        try:
            return await self._wire.get(endpoint, target.request_target, headers, accept, retried=retried)
        except WireError as error:
            raise from_wire(error) from error

    def _refusal(self, answer: Response, bucket: str, key: str) -> WarmstartError:
        return read_error(answer.status, answer.head.headers, answer.body, bucket, key, now_s=self._clock())


def _ranged(span: ByteRange) -> Headers:
    return (_AS_STORED, ("range", f"bytes={span.start}-{span.end - 1}"))


def _gone(error: NotFound) -> WarmstartError:
    """Return the error for a missing generation: it was there when it was resolved, so the key has changed."""
    return VersionChanged(str(error)) if error.what == "key" else error


def _read_buckets(document: dict[str, Any]) -> list[tuple[str, float]]:
    return [(item["name"], parse_time(item.get("timeCreated")) or 0.0) for item in document.get("items") or ()]
