"""Passing any operation on, signed anew, streaming both ways.

How it works. The client's headers go on without those of its connection and its signature. The payload goes unsigned
(UNSIGNED-PAYLOAD) unless the client itself gave a SHA-256 of it. A length that is known is sent; a body of unknown
length goes chunked, which AWS refuses with 411, as it would from the client. An answer that says to ask elsewhere is
followed where the request can be sent again, that is without a body. With one, AWS is asked for the bucket's region
beforehand; if the origin still sends the request elsewhere, the client is told to try again, never redirected.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from proxy.errors import OriginUnavailable
from proxy.metrics import ORIGIN_ERRORS, ORIGIN_REQUESTS
from proxy.origin import ForwardRequest, ForwardResponse
from proxy.origin.s3.credentials import CredentialSource
from proxy.origin.s3.exchange import Exchange, header_pairs
from proxy.origin.s3.headers import Headers, connection_headers, end_to_end, first_value
from proxy.origin.s3.redirects import TURNING_STATUSES, Course, Regions
from proxy.origin.s3.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD, Signer
from proxy.origin.s3.target import Site, is_region

PEEKED_BYTES_MAX = 64 << 10

_OWN_HEADERS = frozenset(
    ["host", "authorization", "content-length", "expect", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"]
)


class Forwarding:
    """Sends `ForwardRequest`s to one S3 service."""

    def __init__(
        self,
        origin: str,
        site: Site,
        regions: Regions,
        exchange: Exchange,
        signer: Signer,
        credentials: CredentialSource,
    ) -> None:
        self._origin = origin
        self._site = site
        self._regions = regions
        self._exchange = exchange
        self._signer = signer
        self._credentials = credentials

    async def send(self, request: ForwardRequest) -> ForwardResponse:
        body = request.body if request.body_bytes != 0 else None
        if body is not None and self._site.endpoint is None and not self._regions.knows(request.bucket):
            await self._find_region(request.bucket)
        course = Course(self._site, self._regions, request.bucket, request.key, request.query)
        while True:
            answer = await self._send_once(request, course, body)
            if answer.status not in TURNING_STATUSES:
                return answer
            seen = await _peek(answer.body)
            if not course.turn(answer.status, answer.headers, seen):
                answer.body = _replay(seen, answer.body)
                return answer
            await answer.close()
            if body is not None:
                raise OriginUnavailable("the origin sends this upload elsewhere; try again", retry_after_s=1.0)

    async def _send_once(
        self, request: ForwardRequest, course: Course, body: AsyncIterator[bytes] | None
    ) -> ForwardResponse:
        ORIGIN_REQUESTS.labels(self._origin, "forward").inc()
        keys = await self._credentials.get()
        headers = _sent_headers(request, body is not None)
        payload = EMPTY_PAYLOAD if body is None else request.payload_hash or UNSIGNED_PAYLOAD
        signed = self._signer.sign(keys, course.region, request.method, course.target, headers, payload)
        if request.method == "HEAD":
            status, answered = await self._exchange.head(course.target, signed, slow=True)
            self._count(status)
            return ForwardResponse(status, end_to_end(answered), _replay(b"", None), _nothing)
        response = await self._exchange.send(request.method, course.target, signed, body, slow=True)
        self._count(response.status_code)
        answered = end_to_end(header_pairs(response))
        return ForwardResponse(response.status_code, answered, self._exchange.chunks(response), response.aclose)

    async def _find_region(self, bucket: str) -> None:
        """Asks for the bucket's region before a body is sent that could be sent only once."""
        course = Course(self._site, self._regions, bucket, None)
        answer = await self._send_once(ForwardRequest("HEAD", bucket, None, (), ()), course, None)
        await answer.close()
        region = first_value(answer.headers, "x-amz-bucket-region")
        if region is not None and is_region(region):
            self._regions.learn(bucket, region)

    def _count(self, status: int) -> None:
        if status in (429, 503):
            ORIGIN_ERRORS.labels(self._origin, "throttled").inc()
        elif status >= 500 and status != 501:
            ORIGIN_ERRORS.labels(self._origin, "server").inc()


def _sent_headers(request: ForwardRequest, has_body: bool) -> Headers:
    refused = connection_headers(request.headers) | _OWN_HEADERS
    headers = tuple((name, value) for name, value in request.headers if name not in refused)
    if has_body and request.body_bytes is not None:
        return (*headers, ("content-length", str(request.body_bytes)))
    if has_body:
        return (*headers, ("transfer-encoding", "chunked"))
    if request.method in ("PUT", "POST"):
        return (*headers, ("content-length", "0"))
    return headers


async def _peek(body: AsyncIterator[bytes]) -> bytes:
    """The beginning of a body, long enough for an error document."""
    seen = bytearray()
    async for chunk in body:
        seen += chunk
        if len(seen) > PEEKED_BYTES_MAX:
            break
    return bytes(seen)


async def _replay(seen: bytes, rest: AsyncIterator[bytes] | None) -> AsyncIterator[bytes]:
    if seen:
        yield seen
    if rest is not None:
        async for chunk in rest:
            yield chunk


async def _nothing() -> None:
    """What remains to be closed of an answer that is complete."""
