"""One request and what is known of it so far; the funnel through which every answer leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from gcsapi.errors import Asked
from gcsapi.requests import Api, api_of
from gcsapi.responses import complete
from proxy.admission import HeldBytes
from proxy.errors import Overloaded
from proxy.gateway.answers import CacheStatus
from proxy.lanes.asgi import PiecesResponse, Receive, Scope
from proxy.lanes.incoming import RECEIVE_TIMEOUT_S, REFUSED, ClientGone, chain, raw_target, receive_body
from proxy.metrics import REQUESTS
from proxy.surface.heads import Headers, Reply, new_request_id


@dataclass(slots=True)
class Exchange:
    """`host` is scheme and authority as the client knows this gateway: links must lead there."""

    method: str
    target: bytes
    raw_headers: Sequence[tuple[bytes, bytes]]
    host: str
    receive: Receive
    held: HeldBytes  # of the request's body, in memory
    body_timeout_s: float = RECEIVE_TIMEOUT_S
    upload_pace: int = 0
    refused: Overloaded | None = None  # whatever is asked
    request_id: str = field(default_factory=new_request_id)
    api: Api = Api.XML  # in which errors are told
    operation: str = "storage.other"
    resource: str = ""  # bucket, or bucket/name
    reads: bool = False
    batched: bool = False  # one of a batch
    expects_continue: bool = False  # and was not told to continue yet
    body_failure: Exception | None = None

    @classmethod
    def begin(
        cls, scope: Scope, receive: Receive, held: HeldBytes, body_timeout_s: float, upload_pace: int
    ) -> Exchange:
        head = (scope["method"], raw_target(scope), scope["headers"], _host(scope))
        return cls(*head, receive, held, body_timeout_s, upload_pace, scope.get(REFUSED))

    def __post_init__(self) -> None:
        self.api = api_of(self.target)

    def asked(self) -> Asked:
        return Asked(self.method, self.api, self.resource)

    async def body(self) -> AsyncIterator[bytes]:
        """The request's body as it comes; what ends it early is kept."""
        self.expects_continue = False
        try:
            async for data in receive_body(self.receive, self.body_timeout_s, self.upload_pace):
                yield data
        except (ClientGone, Exception) as error:
            self.body_failure = error
            raise

    def finish(self, status: int, headers: Headers, cache: CacheStatus) -> Headers:
        """The final headers, and the count. Call it once for each answer."""
        REQUESTS.labels(self.operation, str(status), "asgi", cache.value).inc()
        # Whether a body that was announced comes after all, nobody can know: end the connection.
        return complete(headers, cache, self.request_id, closes=self.expects_continue)

    def reply(self, reply: Reply, cache: CacheStatus = CacheStatus.BYPASS) -> PiecesResponse:
        headers = self.finish(reply.status, reply.headers, cache)
        if self.method == "HEAD" or reply.status in (204, 304):
            return PiecesResponse(reply.status, headers)
        return PiecesResponse(reply.status, headers, chain(reply.body), len(reply.body), memory_source="forward")


def _host(scope: Scope) -> str:
    target = (scope.get("extensions") or {}).get("warmstart.target") or {}
    authority = target.get("authority") or next((value for name, value in scope["headers"] if name == b"host"), b"")
    return f"{scope.get('scheme', 'http')}://{authority.decode('latin-1')}"
