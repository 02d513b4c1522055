"""Pass-through of any operation, with a new signature, streaming in both directions.

How it works. The client's headers are forwarded without those of its connection and its signature. The payload is not
signed (UNSIGNED-PAYLOAD) unless the client itself gave its SHA-256. A known length is sent; a body of unknown length is
sent chunked, which AWS rejects with 411, as it would from the client. A redirect within the origin is followed if the
request can be sent again, that is if it has no body. With a body, AWS is asked for the bucket's region beforehand. If
the origin still redirects the request, the client gets an error to retry, never a redirect. A redirect out of the
origin is an error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from proxy.errors import OriginUnavailable
from proxy.http.headers import Headers, end_to_end
from proxy.metrics import ORIGIN_REQUESTS
from proxy.origin import ForwardRequest, ForwardResponse
from proxy.origin.exchange import HttpExchange, Use, header_pairs
from proxy.origin.headers import first_value
from proxy.origin.passing import nothing, peek, replay, sent_headers
from proxy.origin.refusals import parse_code
from proxy.origin.s3.credentials import CredentialSource
from proxy.origin.s3.errors import credentials_refused, refuses_credentials
from proxy.origin.s3.redirects import TURNING_STATUSES, OperationRoute, Regions
from proxy.origin.s3.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD, Signer
from proxy.origin.s3.target import Site, is_region
from proxy.origin.trouble import redirect_refused

_READING = ("GET", "HEAD", "OPTIONS")
_REFUSING = frozenset({400, 401, 403})
_OWN_HEADERS = frozenset(["x-amz-content-sha256", "x-amz-date", "x-amz-security-token"])


class Forwarding:
    """The sender of `ForwardRequest`s to one S3 service."""

    def __init__(
        self,
        name: str,
        site: Site,
        regions: Regions,
        exchange: HttpExchange,
        signer: Signer,
        credentials: CredentialSource,
        marks: Callable[[], Headers],
    ) -> None:
        self._name = name
        self._site = site
        self._regions = regions
        self._exchange = exchange
        self._signer = signer
        self._credentials = credentials
        self._marks = marks

    async def send(self, request: ForwardRequest, use: Use = Use.PASSING) -> ForwardResponse:
        """Send a request; see `S3Origin.forward`."""
        body = request.body if request.body_bytes != 0 else None
        if body is not None and self._site.endpoint is None and not self._regions.knows(request.bucket):
            await self._find_region(request.bucket)
        writes = request.method not in _READING
        route = OperationRoute(self._site, self._regions, request.bucket, request.key, request.query, writes=writes)
        while True:
            answer = await self._send_once(request, route, body, use)
            if answer.status not in TURNING_STATUSES | _REFUSING:
                return answer
            seen = await peek(answer.body)
            turned = route.turn(answer.status, answer.headers, seen)
            if not turned and answer.status in _REFUSING:
                return await self._judged(answer, seen)
            await answer.close()
            if not turned:
                raise redirect_refused(answer.status, answer.headers)
            if body is not None:
                raise OriginUnavailable("the origin sends this upload elsewhere; try again", retry_after_s=1.0)

    async def _judged(self, answer: ForwardResponse, seen: bytes) -> ForwardResponse:
        """Return the client's answer. Raises AccessDenied if it rejects our credentials, not the client's operation."""
        if refuses_credentials(answer.status, parse_code(seen)):
            await answer.close()
            raise credentials_refused(answer.status, answer.headers, seen)
        answer.body = replay(seen, answer.body)
        return answer

    async def _send_once(
        self, request: ForwardRequest, route: OperationRoute, body: AsyncIterator[bytes] | None, use: Use
    ) -> ForwardResponse:
        ORIGIN_REQUESTS.labels(self._name, "forward").inc()
        keys = await self._credentials.get()
        headers = sent_headers(request, body is not None, _OWN_HEADERS)
        payload = EMPTY_PAYLOAD if body is None else request.payload_hash or UNSIGNED_PAYLOAD
        signed = self._signer.sign(keys, route.region, request.method, route.target, headers, payload)
        signed = (*signed, *self._marks())
        if request.method == "HEAD":
            status, answered = await self._exchange.head(route.target, signed)
            return ForwardResponse(status, end_to_end(answered), replay(b"", None), nothing)
        response = await self._exchange.send(request.method, route.target, signed, body, use=use)
        answered = end_to_end(header_pairs(response))
        return ForwardResponse(response.status_code, answered, self._exchange.chunks(response), response.aclose)

    async def _find_region(self, bucket: str) -> None:
        """Ask for the bucket's region, before a body is sent that can be sent only once."""
        route = OperationRoute(self._site, self._regions, bucket, None)
        answer = await self._send_once(ForwardRequest("HEAD", bucket, None, (), ()), route, None, Use.METADATA)
        await answer.close()
        region = first_value(answer.headers, "x-amz-bucket-region")
        if region is not None and is_region(region):
            self._regions.learn(bucket, region)
