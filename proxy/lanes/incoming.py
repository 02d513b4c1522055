"""A client's request, whatever the dialect: the target as it was sent, and the body as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

from proxy.errors import InvalidRequest
from proxy.lanes.asgi import Receive, Scope

RECEIVE_TIMEOUT_S = 60.0  # without one byte from the client
FULL = "warmstart.full"  # in a scope's extensions: {"room": the Room that had no place for this connection}
REFUSED = "warmstart.refused"  # in a scope: the error that answers this request, whatever it asks for


class ClientGone(Exception):
    """The client closed the connection before its body had ended."""


def raw_target(scope: Scope) -> bytes:
    """Return the target as received; under other servers than ours, only its path and query."""
    raw: bytes | None = (scope.get("extensions") or {}).get("warmstart.target", {}).get("raw")
    if raw is not None:
        return raw
    path: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    query: bytes = scope.get("query_string", b"")
    return b"%s?%s" % (path, query) if query else path


async def receive_body(receive: Receive, timeout_s: float = RECEIVE_TIMEOUT_S, pace: int = 0) -> AsyncIterator[bytes]:
    """Yield the body's bytes as they come. Raises ClientGone.

    Raises InvalidRequest when none come for `timeout_s`, or fewer than `pace` per second during half of that. Only the
    time spent waiting for the client counts.
    """
    clock, waited_s, received_bytes = asyncio.get_running_loop().time, 0.0, 0
    more_body = True
    while more_body:
        began_s = clock()
        try:
            async with asyncio.timeout(timeout_s):
                message = await receive()
        except TimeoutError:
            raise _too_slow() from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        more_body = message.get("more_body", False)
        data = message.get("body", b"")
        waited_s, received_bytes = waited_s + clock() - began_s, received_bytes + len(data)
        if more_body and waited_s >= timeout_s / 2:
            if received_bytes < pace * waited_s:
                raise _too_slow()
            waited_s, received_bytes = 0.0, 0
        if data:
            yield data


def _too_slow() -> InvalidRequest:
    text = "Your socket connection to the server was not read from or written to within the timeout period."
    return InvalidRequest("RequestTimeout", text)


async def read_whole(body: AsyncIterator[bytes], limit_bytes: int) -> bytes:
    """Return the whole body. Raises InvalidRequest("MaxMessageLengthExceeded")."""
    content = bytearray()
    async for data in body:
        content += data
        if len(content) > limit_bytes:
            raise InvalidRequest("MaxMessageLengthExceeded", f"Your request was too big: over {limit_bytes} bytes.")
    return bytes(content)


async def chain(first: bytes, rest: AsyncIterator[bytes] | None = None) -> AsyncIterator[bytes]:
    """Yield bytes that were already read, then the rest."""
    if first:
        yield first
    if rest is not None:
        async for data in rest:
            yield data
