"""The sockets beneath httpx: they take no more from an origin than somebody has asked for.

How it works. httpx's own way through anyio lets an event loop read on until a task has run: up to 8 MiB for each body
whose client takes nothing. Here reading stops in the very callback that brings bytes, and goes on when all of them
have been taken. So a body that waits for its client holds one receive (256 KiB at most), and the origin's own TCP
connection is pushed back. Connections are made as the range client makes them (`proxy.wire.connect`).
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
    """What a pool of httpcore's makes its connections with."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        """Raises httpcore's ConnectError and ConnectTimeout."""
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
    """One connection's bytes: `held` is what one receive brought, and nobody has taken yet."""

    def __init__(self) -> None:
        self.held = bytearray()
        self.ended = False  # by the origin, in good order
        self.lost = False
        self.error: Exception | None = None
        self.transport: asyncio.Transport
        self.changed = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's is no asyncio.Transport by name

    def data_received(self, data: bytes) -> None:
        self.held += data
        if not self.transport.is_closing():
            self.transport.pause_reading()
        self.changed.set()

    def eof_received(self) -> bool:
        """The origin may still take a body after it has answered; TLS knows no such half."""
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
        """Nothing at the end. Raises httpcore's ReadError and ReadTimeout."""
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
        """Raises httpcore's WriteError and WriteTimeout."""
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
        """What has not left by now never will: a request that is broken off must stay short."""
        self._pipe.transport.close()
        await asyncio.sleep(0)
        self._pipe.transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        """Raises httpcore's ConnectError and ConnectTimeout."""
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
        if info == "is_readable":  # of an idle connection: it is no good any more
            return bool(pipe.held) or pipe.ended or pipe.lost or pipe.transport.is_closing() or self._has_news()
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return pipe.transport.get_extra_info(names.get(info, info))

    def _has_news(self) -> bool:
        """Whether the socket, from which nobody reads now, has bytes or an end."""
        poll = select.poll()
        poll.register(self._pipe.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))
