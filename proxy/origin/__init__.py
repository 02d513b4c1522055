"""Origins, where objects live: S3 endpoints (`s3`), Google Cloud Storage (`gcs`), directories, and other gateways.

Knows how to query an origin and how to read its answers into neutral values; knows nothing of clients, caches or
flights. Every failure leaves this package as one of `proxy.errors`. The modules beside the kinds are shared:
`exchange` sends by httpx (`transport`), `headers` and `answers` check the responses, `trouble` names what failed,
`passing` is for `forward`.

The Origin contract (one suite in `tests/contract` runs over every kind):

- `head` asks for a key's current version. It never returns a part's length as the object's size.
- `read_range` delivers exactly the bytes [start, end) of exactly that object version to the sink, in order, or
  raises. It makes ONE attempt: the fill retries and resumes, as it knows how far the sink got. Before the first byte
  is delivered, the answer's range, size and validator are compared with the version. Another version raises
  VersionChanged, a nonsensical answer OriginUnavailable.
- `open_range` (`OpensRanges`, for origins where a round trip is expensive) requests bytes of whatever version is
  current; they are checked when the version is known. Its head may name that version (`opening_tells`): then no
  separate `head` is needed.
- `forward` (not of a directory) sends any other operation to the origin in its own dialect, with our credentials,
  streaming in both directions.
- `list_objects` and `list_buckets` answer in neutral values, for clients of another dialect than the origin's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from proxy.blocks import ByteSink
from proxy.errors import NotFound
from proxy.http.headers import Headers
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.ranges import ByteRange

if TYPE_CHECKING:
    from proxy.config.limits import LimitSettings


@dataclass(frozen=True, slots=True)
class ForwardRequest:
    """An operation to pass through. `bucket` is the real one ("" for the service); `key` is None for the bucket.

    `query` holds decoded pairs in the client's order, without signature parameters (a missing `=` is "").
    `headers` are lower-case, without hop-by-hop, Host, Authorization and other signature headers. `body` is None or
    the decoded body's chunks; `body_bytes` is its length if known. `payload_hash` is the client's own
    x-amz-content-sha256 if it is a real SHA-256 of exactly that body. `path` is that of an operation of GCS's JSON
    API, percent-encoded, with the real bucket's name in it (`/upload/storage/v1/b/BUCKET/o`). It replaces bucket and
    key, which may then be "" and None. Without it, the origin's XML API gets bucket and key.
    """

    method: str
    bucket: str
    key: str | None
    query: tuple[tuple[str, str], ...]
    headers: tuple[tuple[str, str], ...]
    body: AsyncIterator[bytes] | None = None
    body_bytes: int | None = None
    payload_hash: str | None = None
    path: str | None = None


@dataclass(slots=True)
class ForwardResponse:
    """The origin's answer as received; its holder must call `close` when done with `body`."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object in a listing, with `generation` and `metageneration` if the origin has them."""

    key: str
    size_bytes: int
    etag: str
    last_modified_s: float
    generation: int | None = None
    metageneration: int | None = None


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page, in UTF-8 byte order of keys and prefixes together; `next_after` (exclusive) continues it."""

    objects: tuple[ListedObject, ...]
    prefixes: tuple[str, ...]
    next_after: str | None


@dataclass(frozen=True, slots=True)
class PartSpan:
    """The span of part `number` of a multipart object, and how many parts there are."""

    number: int
    count: int
    span: ByteRange = field(default_factory=lambda: ByteRange(0, 0))


Attach = Callable[[ObjectVersion, ByteRange, ByteSink], ByteSink]
"""Checks an answer's head against this version and span, and returns the sink of its body. Raises as `read_range`."""


class Opened(Protocol):
    """The receiver of what `open_range` reads: `begin` is called for a success, then the body is written."""

    def begin(self, attach: Attach, record: ObjectRecord | None = None) -> ByteSink:
        """Begin a body. `record` is the current version by its head; None if incomplete, or for another range."""
        ...


@runtime_checkable
class OpensRanges(Protocol):
    """An origin that can send a key's bytes before it has said which version is current."""

    opening_tells: bool  # whether `begin` usually gets a record

    async def open_range(self, bucket: str, key: str, span: ByteRange, opened: Opened) -> None:
        """Send one GET without a condition; `span` may lie beyond the object's end. Raises as `read_range`."""
        ...


@runtime_checkable
class ExplainsMissing(Protocol):
    """An origin whose `head` can't distinguish a missing bucket from a missing key: its NotFound is not `certain`."""

    async def explain_missing(self, bucket: str, key: str, version_id: str | None = None) -> NotFound:
        """Find out what is missing. Raises OriginUnavailable."""
        ...


class Origin(Protocol):
    """The contract of an origin; the module's docstring says what each call promises."""

    id: str  # kind and endpoint, the same on every node: s3://host:port, gcs://host, file:///root
    name: str  # as configured, for logs and metrics
    dialect: str  # of `forward`: "s3", "gcs", or "file" (no `forward`)

    async def head(self, bucket: str, key: str, version_id: str | None = None) -> ObjectRecord: ...

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None: ...

    async def head_part(self, record: ObjectRecord, number: int) -> PartSpan:
        """Find a part. Raises InvalidRequest("InvalidPartNumber") (416 at AWS) if the object has no such part."""
        ...

    async def forward(self, request: ForwardRequest) -> ForwardResponse:
        """Pass an operation through. Raises OriginUnavailable, or NotSupported if the origin takes none."""
        ...

    async def list_objects(self, bucket: str, *, prefix: str, delimiter: str, after: str, limit: int) -> ListPage: ...

    async def list_buckets(self) -> tuple[tuple[str, float], ...]:
        """Return names and creation times (Unix seconds)."""
        ...

    async def aclose(self) -> None: ...


class Builder(Protocol):
    """The module that builds a kind of origin, named as `builder` in its settings."""

    def build(self, name: str, settings: Any, limits: LimitSettings, marks: Callable[[], Headers]) -> Origin:
        """Build an origin of that kind, without contacting it. `marks`: headers that each request carries."""
        ...

    def load_later(self, settings: Any) -> None:
        """Load what the first request needs but a start does not. Blocking."""
        ...
