"""One HTTP exchange with an origin by httpx: heads, control, uploads, and bytes where a proxy must carry them.

How it works. httpx's transport is used without its client: no cookies, redirects, decompression or default headers.
The request target is given as an extension, so it leaves byte for byte as it was signed. A request without a body
whose kept connection turns out to have been closed by the peer is sent once more, on another one.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.request import getproxies, proxy_bypass

import httpx

from proxy.errors import ConfigInvalid, InvalidRequest
from proxy.origin.headers import Headers, read_length
from proxy.origin.trouble import from_httpx
from proxy.wire.endpoint import Endpoint
from proxy.wire.head import ResponseHead
from proxy.wire.response import MAX_COLLECTED_BYTES, Accept, Response
from proxy.wire.tls import make_tls_context


class Target(Protocol):
    """What is asked, and where: the request target goes out byte for byte."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def request_target(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """`read_timeout_s` and `write_timeout_s` bound the wait for the next byte, never a whole transfer."""

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    forward_timeout_s: float = 300.0  # CompleteMultipartUpload and CopyObject of large objects think for minutes
    connections_max: int = 256
    idle_connections_max: int = 64
    idle_timeout_s: float = 10.0  # AWS closes idle connections after some 20 s


class Exchange:
    """A pool of connections to one service. `proxy` is a proxy's URL, or None."""

    def __init__(self, origin: str, context: ssl.SSLContext, proxy: str | None, limits: ExchangeLimits) -> None:
        self._origin = origin
        self._limits = limits
        self._proxied = proxy is not None
        try:
            self._transport = httpx.AsyncHTTPTransport(
                verify=context,
                proxy=proxy,
                limits=httpx.Limits(
                    max_connections=limits.connections_max,
                    max_keepalive_connections=limits.idle_connections_max,
                    keepalive_expiry=limits.idle_timeout_s,
                ),
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise ConfigInvalid(f"the proxy {proxy!r} in the environment can't be used: {error}") from None

    async def send(
        self, method: str, target: Target, headers: Headers, body: AsyncIterator[bytes] | None = None, *, slow: bool
    ) -> httpx.Response:
        """The answer, its body not yet read; the caller must close it. `slow`: give the origin minutes to think.

        Raises OriginUnavailable; InvalidRequest for headers that can't be sent, or a body of another length than
        announced.
        """
        try:
            try:
                return await self._transport.handle_async_request(self._request(method, target, headers, body, slow))
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                if body is not None or method not in ("HEAD", "GET"):
                    raise
                return await self._transport.handle_async_request(self._request(method, target, headers, None, slow))
        except httpx.LocalProtocolError as error:
            raise InvalidRequest("InvalidArgument", f"the request can't be sent: {error}") from None
        except httpx.HTTPError as error:
            raise from_httpx(self._origin, error) from error

    async def head(self, target: Target, headers: Headers, *, slow: bool = False) -> tuple[int, Headers]:
        """Status and headers of a HEAD, its connection free again. Raises what `send` does."""
        response = await self.send("HEAD", target, headers, slow=slow)
        try:
            async for _ in self.chunks(response):
                pass  # there are none, but only a finished response leaves its connection usable
        finally:
            await response.aclose()
        return response.status_code, header_pairs(response)

    def _request(
        self, method: str, target: Target, headers: Headers, body: AsyncIterator[bytes] | None, slow: bool
    ) -> httpx.Request:
        limits = self._limits
        wait_s = limits.forward_timeout_s if slow else limits.read_timeout_s
        whole = target.request_target
        if self._proxied and not target.endpoint.tls:
            whole = f"http://{target.endpoint.authority}".encode("ascii") + whole  # RFC 9112 section 3.2.2
        return httpx.Request(
            method,
            str(target.endpoint),
            headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in headers],
            stream=_Body(body, read_length(headers)),
            extensions={
                "target": whole,
                "timeout": {"connect": limits.connect_timeout_s, "read": wait_s, "write": wait_s, "pool": wait_s},
            },
        )

    async def get(self, target: Target, headers: Headers, accept: Accept) -> Response:
        """What `WireClient.get` does, where a proxy stands in between. Raises OriginUnavailable."""
        response = await self.send("GET", target, headers, slow=False)
        try:
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
        finally:
            await response.aclose()

    async def chunks(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """The body as it comes off the wire, nothing decoded. Raises OriginUnavailable where it breaks off."""
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            raise from_httpx(self._origin, error) from error

    async def aclose(self) -> None:
        await self._transport.aclose()


class _Body(httpx.AsyncByteStream):
    """The request's body, or none. A body of another length than announced stops the request."""

    def __init__(self, chunks: AsyncIterator[bytes] | None, length: int | None) -> None:
        self._chunks = chunks
        self._length = length

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._chunks is None:
            return
        sent_bytes = 0
        async for chunk in self._chunks:
            sent_bytes += len(chunk)
            if self._length is not None and sent_bytes > self._length:
                break
            yield chunk
        if self._length is not None and sent_bytes != self._length:
            raise InvalidRequest("IncompleteBody", f"the body has not the {self._length} bytes that were announced")


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
        return httpx.create_ssl_context()
    return context
