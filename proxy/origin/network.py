"""The sockets beneath httpx, with backpressure: they receive no more from an origin than was asked for.

How it works. With httpx's own backend, anyio, an event loop reads on until a task has run: up to 8 MiB for each body
whose client takes nothing. Here reading stops in the very callback that receives bytes, and continues when all of them
have been taken. So a body that waits for its client holds one receive (at most 256 KiB), and TCP slows the origin down.
Connections are opened as the range client opens them (`proxy.wire.connect`).
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore

from proxy.wire.connect import open_socket
from proxy.wire.endpoint import Endpoint
from proxy.wire.errors import ConnectFailed


class Network(httpcore.AsyncNetworkBackend):
    """The backend that opens the connections of an httpcore pool."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        """Open a connection. Raises httpcore's ConnectError and ConnectTimeout."""
        assert local_address is None
        pipe = Pipe()
        try:
            async with asyncio.timeout(timeout):
                sock = await open_socket(Endpoint(host, port, tls=False))
                try:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    await asyncio.get_running_loop().create_connection(lambda: pipe, sock=sock)
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host}:{port} did not answer within {timeout} s") from error
        except (ConnectFailed, OSError) as error:
            raise httpcore.ConnectError(str(error)) from error
        return Stream(pipe)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Pipe(asyncio.Protocol):
    """One connection's bytes: `held` is what was received and not yet taken."""

    def __init__(self) -> None:
        self.held = bytearray()
        self.ended = False  # by the origin, cleanly
        self.lost = False
        self.error: Exception | None = None
        self.transport: asyncio.Transport
        self.changed = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's does not derive from asyncio.Transport

    def data_received(self, data: bytes) -> None:
        self.held += data
        if not self.transport.is_closing():
            self.transport.pause_reading()
        self.changed.set()

    def eof_received(self) -> bool:
        """Keep the other direction open, as the origin may still take a body; TLS has no such half-close."""
        self.ended = True
        self.changed.set()
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost, self.error = True, exc
        self.changed.set()
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()


class Stream(httpcore.AsyncNetworkStream):
    """A connection as httpcore uses it."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return bytes, none at the end. Raises httpcore's ReadError and ReadTimeout."""
        pipe = self._pipe
        try:
            async with asyncio.timeout(timeout):
                while not (pipe.held or pipe.ended or pipe.lost):
                    pipe.changed.clear()
                    if not pipe.transport.is_closing():
                        pipe.transport.resume_reading()
                    await pipe.changed.wait()
        except TimeoutError as error:
            raise httpcore.ReadTimeout(f"nothing came for {timeout} s") from error
        if not pipe.held and pipe.error is not None:
            raise httpcore.ReadError(str(pipe.error)) from pipe.error
        data = bytes(pipe.held[:max_bytes])
        del pipe.held[:max_bytes]
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all bytes. Raises httpcore's WriteError and WriteTimeout."""
        pipe = self._pipe
        if not buffer:
            return
        if not pipe.lost:
            pipe.transport.write(buffer)
        try:
            async with asyncio.timeout(timeout):
                await pipe.writable.wait()
        except TimeoutError as error:
            raise httpcore.WriteTimeout(f"nothing was taken for {timeout} s") from error
        if pipe.lost:
            raise httpcore.WriteError(str(pipe.error or "the connection was closed")) from pipe.error

    async def aclose(self) -> None:
        """Close, and drop what has not left yet: an aborted request must stay incomplete."""
        self._pipe.transport.close()
        await asyncio.sleep(0)
        self._pipe.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        """Do the TLS handshake. Raises httpcore's ConnectError and ConnectTimeout."""
        pipe = self._pipe
        try:
            async with asyncio.timeout(timeout):
                transport = await asyncio.get_running_loop().start_tls(
                    pipe.transport, pipe, ssl_context, server_hostname=server_hostname
                )
            if transport is None:
                raise ConnectionResetError("the connection was closed during the handshake")
        except TimeoutError as error:
            await self.aclose()
            raise httpcore.ConnectTimeout(f"no TLS within {timeout} s") from error
        except OSError as error:  # ssl.SSLError is one
            await self.aclose()
            raise httpcore.ConnectError(str(error)) from error
        pipe.transport = transport
        return self

    def get_extra_info(self, info: str) -> Any:
        pipe = self._pipe
        if info == "is_readable":  # an idle connection that is readable must not be reused
            return bool(pipe.held) or pipe.ended or pipe.lost or pipe.transport.is_closing() or self._has_news()
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return pipe.transport.get_extra_info(names.get(info, info))

    def _has_news(self) -> bool:
        """Return whether the idle socket has bytes or was closed."""
        poll = select.poll()
        poll.register(self._pipe.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))
