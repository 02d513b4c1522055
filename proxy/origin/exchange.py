"""One HTTP exchange with an origin by httpx: heads, control, uploads, and bytes where a proxy must carry them.

How it works. Each use of an origin has connections of its own (`Use`), so that none can take another's: a body that
streams to a client lasts as long as the client likes, and no HEAD must wait for it.
httpx takes a tenth of a second to load, and what is in the cache is served without it. So a transport
(`proxy.origin.transport`) is made by the first exchange of its use, in a thread; only with a proxy is one made at once,
because a proxy that can't be used must stop the start.
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
from proxy.hops import Headers
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

CONNECTIONS_MIN = 256  # for each use: the most that an origin may be asked to serve at once is never below


class Target(Protocol):
    """What is asked, and where: the request target goes out byte for byte."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def request_target(self) -> bytes: ...


class Use(Enum):
    """What an exchange is for; each has a pool of connections at each origin."""

    METADATA = "metadata"  # heads, listings, what the gateway itself wants to know
    PASSING = "passing"  # a client's requests that go on as they are, writes among them
    BULK = "bulk"  # objects' bytes, where a proxy must carry them


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """Each bounds the wait for the next byte, never a whole transfer.

    `read_timeout_s` holds for what is not asked for again, the `stall_timeout` ones for the rest: see
    `proxy.wire.patience`.
    """

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    stall_timeout_min_s: float = 2.0
    stall_timeout_s: float = 5.0
    stall_timeout_max_s: float = 15.0
    forward_timeout_s: float = 300.0  # CompleteMultipartUpload and CopyObject of large objects think for minutes
    pool_timeout_s: float = 5.0  # for a connection of the pool; what waits longer is better tried again
    connections_max: int = CONNECTIONS_MIN  # of each pool: above what the gates and `pass_through` let in
    idle_connections_max: int = 64
    idle_timeout_s: float = 10.0  # AWS closes idle connections after some 20 s

    def patience(self) -> Patience:
        """With one service, for all that is asked of it again."""
        limits_s = (self.stall_timeout_min_s, self.stall_timeout_s, self.stall_timeout_max_s)
        return Patience(*(min(limit_s, self.read_timeout_s) for limit_s in limits_s))


def exchange_limits(limits: LimitSettings) -> ExchangeLimits:
    """What the settings say of each origin's connections."""
    return ExchangeLimits(
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


class Exchange:
    """Exchanges with one service. `proxy` is a proxy's URL, or None. Raises ConfigInvalid.

    `patience`: with the service, shared with its range client.
    """

    def __init__(self, context: ssl.SSLContext, proxy: str | None, limits: ExchangeLimits, patience: Patience) -> None:
        self._patience = patience
        self._open: Callable[[Use], Transport] = partial(_open_transport, context, proxy, limits)
        self._transports: dict[Use, Transport] = {}
        if proxy is not None:
            self._transports[Use.METADATA] = self._open(Use.METADATA)

    async def send(
        self, method: str, target: Target, headers: Headers, body: AsyncIterator[bytes] | None = None, *, use: Use
    ) -> httpx.Response:
        """The answer, its body not yet read; the caller must close it.

        Raises OriginUnavailable; Overloaded where no connection for this use comes free; InvalidRequest for headers
        that can't be sent, or a body of another length than announced.
        """
        return await (await self._opened(use)).send(method, target, headers, body)

    async def head(self, target: Target, headers: Headers, *, retried: bool = False) -> tuple[int, Headers]:
        """Status and headers of a HEAD, its connection free again. Raises what `send` does.

        `retried`: it is asked for again where it does not come, so it is waited for no longer than is usual.
        """
        async with self._asked("HEAD", target, headers, Use.METADATA, retried=retried) as response:
            async for _ in self.chunks(response):
                pass  # there are none, but only a finished response leaves its connection usable
        return response.status_code, header_pairs(response)

    async def get(
        self, target: Target, headers: Headers, accept: Accept, use: Use = Use.METADATA, *, retried: bool = True
    ) -> Response:
        """What `WireClient.get` does, where a proxy stands in between. Raises OriginUnavailable."""
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
        self, method: str, target: Target, headers: Headers, use: Use, *, retried: bool
    ) -> AsyncIterator[httpx.Response]:
        """An answer, closed in the end; its silences are learnt from, and limited where it is asked for again."""
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
        """The body as it comes off the wire, nothing decoded. Raises OriginUnavailable where it breaks off."""
        assert self._transports, "whose response is it?"
        return next(iter(self._transports.values())).chunks(response)

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    async def _opened(self, use: Use) -> Transport:
        found = self._transports.get(use)
        if found is None:
            opened = await asyncio.to_thread(self._open, use)
            # Another exchange may have been faster; the surplus one holds nothing.
            found = self._transports.setdefault(use, opened)
        return found


def _open_transport(context: ssl.SSLContext, proxy: str | None, limits: ExchangeLimits, use: Use) -> Transport:
    from proxy.origin.transport import Transport

    return Transport(context, proxy, limits, use)


def range_client(context: ssl.SSLContext, limits: ExchangeLimits, patience: Patience) -> WireClient:
    """What brings the block bytes, with the same trust and patience as everything else."""
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
    """Names in lower case, values as latin-1, in order."""
    return tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw)


def environment_proxy(endpoint: Endpoint) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name for that endpoint."""
    if proxy_bypass(f"{endpoint.host}:{endpoint.port}"):
        return None
    proxies = getproxies()
    return proxies.get("https" if endpoint.tls else "http") or proxies.get("all")


def tls_context(ca_file: Path | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """Trusts `ca_file` (PEM) alone, else the system's authorities, else (a bare container) certifi's list.

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
