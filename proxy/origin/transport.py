"""httpx's transport, with its requests, bodies and errors. Loaded by the first exchange that needs it.

How it works. The transport is used without httpx's client: no cookies, redirects, decompression or default headers.
The request target is passed as an extension, so it is sent byte for byte as it was signed. If the peer has closed
a kept connection, a request without a body is sent once more, on another one.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx

from proxy.errors import ConfigInvalid, InvalidRequest, Overloaded
from proxy.http.headers import Headers
from proxy.http.masking import mask_url
from proxy.metrics import SHED_REQUESTS
from proxy.origin.exchange import Use
from proxy.origin.headers import read_length
from proxy.origin.network import Network
from proxy.origin.trouble import unreachable

if TYPE_CHECKING:
    from proxy.errors import OriginUnavailable
    from proxy.origin.exchange import HttpLimits, RequestTarget
    from proxy.wire.endpoint import Endpoint


class Transport:
    """A pool of connections to one service, for one use. `proxy` is a proxy's URL, or None. Raises ConfigInvalid."""

    def __init__(self, context: ssl.SSLContext, proxy: str | None, limits: HttpLimits, use: Use) -> None:
        self._use = use
        self._proxied = proxy is not None
        wait_s = limits.forward_timeout_s if use is Use.PASSING else limits.read_timeout_s
        self._timeouts = {
            "connect": limits.connect_timeout_s,
            "read": wait_s,
            "write": wait_s,
            "pool": min(wait_s, limits.pool_timeout_s),
        }
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
        except (ValueError, ImportError, httpx.InvalidURL):  # their text quotes the URL, and so its password
            shown = mask_url(proxy or "")
            raise ConfigInvalid(
                f"the proxy {shown!r} in the environment can't be used; write http://host:port"
            ) from None
        # httpx has no parameter for its pool's network backend.
        self._transport._pool._network_backend = Network()

    async def send(
        self,
        method: str,
        target: RequestTarget,
        headers: Headers,
        body: AsyncIterator[bytes] | None = None,
        wait_s: float | None = None,
    ) -> httpx.Response:
        """Send a request; see `Exchange.send`. `wait_s` replaces the use's limit for each of the answer's bytes."""
        try:
            try:
                return await self._transport.handle_async_request(self._request(method, target, headers, body, wait_s))
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                if body is not None or method not in ("HEAD", "GET"):
                    raise
                return await self._transport.handle_async_request(self._request(method, target, headers, None, wait_s))
        except httpx.LocalProtocolError as error:
            fault = re.split(r"\W+b['\"]", str(error), maxsplit=1)[0]  # without the value, which may be a secret
            raise InvalidRequest("InvalidArgument", f"the request can't be sent: {fault}") from None
        except httpx.PoolTimeout as error:
            if self._use is Use.PASSING:
                SHED_REQUESTS.labels("pass_through").inc()
                raise Overloaded("every connection to the origin for requests passed through is taken") from error
            raise _trouble(error, target.endpoint) from error
        except httpx.HTTPError as error:
            raise _trouble(error, target.endpoint) from error

    async def chunks(self, response: httpx.Response) -> AsyncIterator[bytes]:
        """Yield the body as received, without decoding. Raises OriginUnavailable if it breaks off."""
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            raise _trouble(error) from error

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _request(
        self,
        method: str,
        target: RequestTarget,
        headers: Headers,
        body: AsyncIterator[bytes] | None,
        wait_s: float | None,
    ) -> httpx.Request:
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
                "timeout": self._timeouts if wait_s is None else self._timeouts | {"read": wait_s},
            },
        )


class _Body(httpx.AsyncByteStream):
    """The request's body, or none. If its length is not the announced one, the request is aborted."""

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


def _trouble(error: httpx.HTTPError, endpoint: Endpoint | None = None) -> OriginUnavailable:
    """Translate an error of httpx into one of ours."""
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError() | httpx.UnsupportedProtocol():
            reason = "connect"
        case httpx.TimeoutException():
            reason = "timeout"
        case _:
            reason = "reset"
    where = f"{endpoint}: " if endpoint is not None else ""
    return unreachable(reason, where + _words(error), silent=isinstance(error, httpx.ReadTimeout))


def _words(error: httpx.HTTPError) -> str:
    """Return the operating system's error text if there is one: "All connection attempts failed" explains nothing."""
    behind: BaseException | None = error
    while behind is not None:
        if isinstance(behind, OSError) and behind.strerror:
            return behind.strerror
        behind = behind.__cause__ or behind.__context__
    return str(error) or type(error).__name__
