"""The client: one GET at a time on each connection, and as many connections as there are callers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence

from proxy.blocks import ByteSink
from proxy.wire.buffers import ReceiveBuffers
from proxy.wire.connect import Resolve, open_connection, resolve_name
from proxy.wire.connection import Connection, ExchangeLimits
from proxy.wire.endpoint import Endpoint
from proxy.wire.errors import ConnectFailed, ConnectionBroken, TimedOut, WireError
from proxy.wire.head import ResponseHead
from proxy.wire.patience import Patience
from proxy.wire.pool import ConnectionPool
from proxy.wire.request import render_request
from proxy.wire.response import Response, ResponseReader
from proxy.wire.tls import make_tls_context


class WireClient:
    """A client of one event loop. It opens as many connections as it is asked for: callers set the limits.

    `max_idle_per_endpoint` and `idle_timeout_s`: connections kept for reuse (S3 closes idle ones after about 20 s).
    `connect_timeout_s`: for name and TCP together; `tls_timeout_s`: for the handshake; `head_timeout_s`: from the
    request to the whole head; `read_timeout_s`: for the next byte of a body, not counting the sink's own time.
    `tls_name`: the host name that the servers' certificates must have, instead of their own.
    `buffer_bytes`: the most that one receive takes and one `write` of the sink gets. `lively`: the server may send any
    number of interim heads (1xx) to show that it is working, and `head_timeout_s` counts from the last one.
    `patience`: one server's, which replaces `head_timeout_s` and `read_timeout_s`.
    """

    def __init__(
        self,
        *,
        max_idle_per_endpoint: int = 64,
        connect_timeout_s: float = 5.0,
        tls_timeout_s: float = 5.0,
        head_timeout_s: float = 30.0,
        read_timeout_s: float = 30.0,
        idle_timeout_s: float = 15.0,
        ssl_context: ssl.SSLContext | None = None,
        tls_name: str | None = None,
        buffer_bytes: int = 512 << 10,
        lively: bool = False,
        patience: Patience | None = None,
        resolve: Resolve = resolve_name,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._tls_timeout_s = tls_timeout_s
        self._limits = ExchangeLimits(head_timeout_s, read_timeout_s, lively)
        self._patience = patience
        self._tls_context = ssl_context
        self._tls_name = tls_name
        self._resolve = resolve
        self._buffers = ReceiveBuffers(buffer_bytes)
        self._pool = ConnectionPool(max_idle_per_endpoint=max_idle_per_endpoint, idle_timeout_s=idle_timeout_s)
        self._connections: set[Connection] = set()
        self._closed = False

    async def get(
        self,
        endpoint: Endpoint,
        target: bytes,
        headers: Sequence[tuple[str, str]],
        accept: Callable[[ResponseHead], ByteSink | None],
        *,
        retried: bool = True,
    ) -> Response:
        """Send one GET request. `target` is sent byte for byte; `Host` is added unless `headers` has one.

        `retried` False: nobody retries if this fails, so the fixed time-outs apply, not the learnt ones.

        When the head has come, `accept` decides at once where the body goes: to a sink, or with None (not wanted) up
        to 64 KiB of it into the response. Exceptions of `accept` and of the sink are passed on.
        After a time-out, connections kept since before the request are closed, so that none of them is used next.
        There is only one retry: a kept connection that the peer closed before any byte of the response came is
        replaced by a fresh one. Raises a WireError, or ValueError for a target or header that must not be sent.
        Once `get` has returned, raised or been cancelled, the sink is not called any more.
        """
        request = render_request(endpoint.authority, target, headers)
        if self._closed:
            raise ConnectFailed("this client is closed")
        patience, name = self._patience if retried else None, hash((endpoint, target))
        kept = self._pool.take(endpoint)
        if kept is not None:
            reader = self._reader(accept)
            try:
                return await self._exchange(kept, request, reader, patience, name)
            except ConnectionBroken:
                if reader.started or self._closed:
                    raise
        return await self._exchange(await self._connect(endpoint), request, self._reader(accept), patience, name)

    def _reader(self, accept: Callable[[ResponseHead], ByteSink | None]) -> ResponseReader:
        return ResponseReader(accept, None) if self._limits.lively else ResponseReader(accept)

    async def _exchange(
        self, connection: Connection, request: bytes, reader: ResponseReader, patience: Patience | None, name: int
    ) -> Response:
        wait = patience.wait(name) if patience is not None else None
        limits = ExchangeLimits(wait.limit_s, wait.limit_s) if wait is not None else None
        began_s = asyncio.get_running_loop().time()
        try:
            await connection.exchange(request, reader, limits)
        except WireError as error:
            if isinstance(error, TimedOut):
                self._pool.drop_older(connection.endpoint, began_s)
                if patience is not None and wait is not None:
                    patience.silent(name, wait, moved=reader.received_bytes > 0)
            if not reader.collecting:
                raise  # otherwise the status is known, and the body was not wanted
        else:
            if patience is not None:
                patience.answered(name, connection.silence_s)
        if connection.usable and not self._closed:
            self._pool.put(connection)
        return reader.response()

    async def _connect(self, endpoint: Endpoint) -> Connection:
        connection = await open_connection(
            endpoint,
            self._buffers,
            self._limits,
            tls_context=self._context() if endpoint.tls else None,
            tls_name=self._tls_name,
            connect_timeout_s=self._connect_timeout_s,
            tls_timeout_s=self._tls_timeout_s,
            resolve=self._resolve,
        )
        self._connections.add(connection)
        connection.lost.add_done_callback(lambda _: self._connections.discard(connection))
        if self._closed:
            connection.close()
            raise ConnectFailed("this client was closed while it connected")
        return connection

    def _context(self) -> ssl.SSLContext:
        if self._tls_context is None:
            self._tls_context = make_tls_context()
        return self._tls_context

    async def aclose(self) -> None:
        """Close every connection; a `get` that is under way raises ConnectionBroken."""
        self._closed = True
        self._pool.close()
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        await asyncio.gather(*(connection.lost for connection in connections))
