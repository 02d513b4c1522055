"""HTTP exchanges with an origin by httpx: heads, control requests, uploads, and bytes if they go through a proxy.

How it works. Each use of an origin has connections of its own (`Use`), so that none can take another's: a body that
streams to a client lasts as long as the client likes, and no HEAD must wait for it.
httpx takes a tenth of a second to load, and cache hits don't need it. So a transport (`proxy.origin.transport`) is made
by the first exchange of its use, in a thread. Only with a proxy is one made at once, because an unusable proxy must
prevent the start.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.request import getproxies, proxy_bypass

from proxy.errors import ConfigInvalid, OriginUnavailable
from proxy.http.headers import Headers
from proxy.origin.headers import read_length
from proxy.wire.client import WireClient
from proxy.wire.endpoint import Endpoint
from proxy.wire.head import ResponseHead
from proxy.wire.patience import Patience
from proxy.wire.response import MAX_COLLECTED_BYTES, Accept, Response
from proxy.wire.tls import make_tls_context

if TYPE_CHECKING:
    import httpx

    from proxy.config.limits import LimitSettings
    from proxy.origin.transport import Transport

CONNECTIONS_MIN = 256  # for each use: the limit of connections is never lower


class RequestTarget(Protocol):
    """An endpoint and the request target, which is sent byte for byte."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def request_target(self) -> bytes: ...


class Use(Enum):
    """The purpose of an exchange. Each has its own pool of connections to each origin."""

    METADATA = "metadata"  # heads, listings, and other requests of the gateway itself
    PASSING = "passing"  # clients' requests that pass through, including writes
    BULK = "bulk"  # objects' bytes, if they go through a proxy


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The limits of exchanges. Each time-out bounds the wait for the next byte, never a whole transfer.

    `read_timeout_s` applies to requests that are not retried, the `stall_timeout` ones to the rest: see
    `proxy.wire.patience`.
    """

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    stall_timeout_min_s: float = 2.0
    stall_timeout_s: float = 5.0
    stall_timeout_max_s: float = 15.0
    forward_timeout_s: float = 300.0  # CompleteMultipartUpload and CopyObject of large objects take minutes
    pool_timeout_s: float = 5.0  # for a connection of the pool; a request that waits longer is better retried
    connections_max: int = CONNECTIONS_MIN  # of each pool: more than the throttles and `pass_through` admit
    idle_connections_max: int = 64
    idle_timeout_s: float = 10.0  # AWS closes idle connections after about 20 s

    def patience(self) -> Patience:
        """Return the adaptive time-outs for one service, for requests that are retried."""
        limits_s = (self.stall_timeout_min_s, self.stall_timeout_s, self.stall_timeout_max_s)
        return Patience(*(min(limit_s, self.read_timeout_s) for limit_s in limits_s))


def exchange_limits(limits: LimitSettings) -> HttpLimits:
    """Return the limits of each origin's connections, from the settings."""
    return HttpLimits(
        connect_timeout_s=limits.connect_timeout,
        read_timeout_s=limits.read_timeout,
        stall_timeout_min_s=limits.stall_timeout_min,
        stall_timeout_s=limits.stall_timeout,
        stall_timeout_max_s=limits.stall_timeout_max,
        forward_timeout_s=limits.forward_timeout,
        connections_max=max(CONNECTIONS_MIN, limits.pass_through, limits.origin_requests),
        idle_connections_max=limits.idle_connections,
        idle_timeout_s=limits.idle_timeout,
    )


class HttpExchange:
    """Exchanges with one service. `proxy` is the URL of a proxy, or None. Raises ConfigInvalid.

    `patience` is shared with the service's range client.
    """

    def __init__(self, context: ssl.SSLContext, proxy: str | None, limits: HttpLimits, patience: Patience) -> None:
        self._patience = patience
        self._open: Callable[[Use], Transport] = partial(_open_transport, context, proxy, limits)
        self._transports: dict[Use, Transport] = {}
        if proxy is not None:
            self._transports[Use.METADATA] = self._open(Use.METADATA)

    async def send(
        self,
        method: str,
        target: RequestTarget,
        headers: Headers,
        body: AsyncIterator[bytes] | None = None,
        *,
        use: Use,
    ) -> httpx.Response:
        """Send a request. Return the answer, with its body not yet read; the caller must close it.

        Raises OriginUnavailable; Overloaded if no connection for this use becomes free; InvalidRequest for headers
        that can't be sent, or a body that does not have the announced length.
        """
        return await (await self._opened(use)).send(method, target, headers, body)

    async def head(self, target: RequestTarget, headers: Headers, *, retried: bool = False) -> tuple[int, Headers]:
        """Send a HEAD. Return status and headers, with the connection free again. Raises what `send` does.

        `retried`: the caller retries, so the wait is no longer than the adaptive time-out.
        """
        async with self._asked("HEAD", target, headers, Use.METADATA, retried=retried) as response:
            async for _ in self.chunks(response):
                pass  # there are none, but only a finished response makes its connection reusable
        return response.status_code, header_pairs(response)

    async def get(
        self, target: RequestTarget, headers: Headers, accept: Accept, use: Use = Use.METADATA, *, retried: bool = True
    ) -> Response:
        """Do what `WireClient.get` does, but through a proxy. Raises OriginUnavailable."""
        async with self._asked("GET", target, headers, use, retried=retried) as response:
            pairs = header_pairs(response)
            head = ResponseHead(response.status_code, pairs, read_length(pairs))
            sink = accept(head)
            body = bytearray()
            async for chunk in self.chunks(response):
                if sink is not None:
                    pending = sink.write(memoryview(chunk))
                    if pending is not None:
                        await pending
                elif len(body) < MAX_COLLECTED_BYTES:
                    body += chunk
                else:
                    break
            return Response(head, bytes(body))

    @asynccontextmanager
    async def _asked(
        self, method: str, target: RequestTarget, headers: Headers, use: Use, *, retried: bool
    ) -> AsyncIterator[httpx.Response]:
        """Yield an answer and close it afterwards. Learn from its silences, and limit them if it is retried."""
        name = hash((method, target.endpoint, target.request_target))
        transport, wait, began_s = await self._opened(use), self._patience.wait(name), time.monotonic()
        moved = False
        try:
            response = await transport.send(method, target, headers, wait_s=wait.limit_s if retried else None)
            moved = True
            self._patience.answered(name, time.monotonic() - began_s)
            try:
                yield response
            finally:
                await response.aclose()
        except OriginUnavailable as error:
            if error.silent:
                self._patience.silent(name, wait, moved=moved)
            raise

    def chunks(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Yield the body as received, without decoding. Raises OriginUnavailable if it breaks off."""
        assert self._transports, "whose response is it?"
        return next(iter(self._transports.values())).chunks(response)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    async def _opened(self, use: Use) -> Transport:
        found = self._transports.get(use)
        if found is None:
            opened = await asyncio.to_thread(self._open, use)
            # Another exchange may have been faster; the surplus transport has no connections.
            found = self._transports.setdefault(use, opened)
        return found


def _open_transport(context: ssl.SSLContext, proxy: str | None, limits: HttpLimits, use: Use) -> Transport:
    from proxy.origin.transport import Transport

    return Transport(context, proxy, limits, use)


def range_client(context: ssl.SSLContext, limits: HttpLimits, patience: Patience) -> WireClient:
    """Return the client that reads block bytes, with the same trust and time-outs as the exchanges."""
    return WireClient(
        max_idle_per_endpoint=limits.idle_connections_max,
        idle_timeout_s=limits.idle_timeout_s,
        connect_timeout_s=limits.connect_timeout_s,
        tls_timeout_s=limits.connect_timeout_s,
        head_timeout_s=limits.read_timeout_s,
        read_timeout_s=limits.read_timeout_s,
        ssl_context=context,
        patience=patience,
    )


def header_pairs(response: httpx.Response) -> Headers:
    """Return the headers in order, with names in lower case and values as latin-1."""
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw)


def environment_proxy(endpoint: Endpoint) -> str | None:
    """Return the proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY select for an endpoint."""
    if proxy_bypass(f"{endpoint.host}:{endpoint.port}"):
        return None
    proxies = getproxies()
    return proxies.get("https" if endpoint.tls else "http") or proxies.get("all")


def tls_context(ca_file: Path | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """Return a context that trusts `ca_file` (PEM) alone, else the system's authorities, else certifi's list.

    Raises ConfigInvalid.
    """
    try:
        context = make_tls_context(ca_file=ca_file, verify=verify)
    except (OSError, ssl.SSLError) as error:
        raise ConfigInvalid(f"ca_file {str(ca_file)!r} can't be read as PEM certificates: {error}") from None
    if ca_file is None and verify and not context.cert_store_stats()["x509_ca"]:
        import httpx

        return httpx.create_ssl_context()
    return context
