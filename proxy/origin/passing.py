"""The common parts of passing an operation through, whatever the origin: headers, and peeking at a body."""

from __future__ import annotations

from collections.abc import AsyncIterator

from proxy.http.headers import FRAMING, HOPS, Headers, connection_headers
from proxy.origin import ForwardRequest

PEEKED_BYTES_MAX = 64 << 10

_OWN_HEADERS = FRAMING | {"authorization", HOPS}


def sent_headers(request: ForwardRequest, has_body: bool, own_headers: frozenset[str] = frozenset()) -> Headers:
    """Return the client's headers as forwarded, with the body's framing. The signature provides `own_headers`."""
    refused = connection_headers(request.headers) | _OWN_HEADERS | own_headers
    headers = tuple((name, value) for name, value in request.headers if name not in refused)
    if has_body and request.body_bytes is not None:
        return (*headers, ("content-length", str(request.body_bytes)))
    if has_body:
        return (*headers, ("transfer-encoding", "chunked"))
    if request.method in ("PUT", "POST"):
        return (*headers, ("content-length", "0"))
    return headers


async def peek(body: AsyncIterator[bytes]) -> bytes:
    """Return the beginning of a body, long enough for an error document."""
    seen = bytearray()
    async for chunk in body:
        seen += chunk
        if len(seen) > PEEKED_BYTES_MAX:
            break
    return bytes(seen)


async def replay(seen: bytes, rest: AsyncIterator[bytes] | None) -> AsyncIterator[bytes]:
    if seen:
        yield seen
    if rest is not None:
        async for chunk in rest:
            yield chunk


async def nothing() -> None:
    """Do nothing: the `close` of an answer that is complete."""
