"""An HTTP/1.1 server that does to its client what a test tells it, byte by byte.

A handler is one coroutine for each request; it plays the server's part on an `Exchange`:

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=10)
        await exchange.send(b"12345")
        exchange.reset()

    async with ScriptedServer(handler) as server:
        ... server.endpoint, server.url, server.requests ...

`answer` and `object_of` make whole handlers, `in_turn` one of several. When a handler returns, the connection is
kept for the next request, unless it was closed or reset. The server runs in the test's own event loop. An exception
in a handler, other than that the client went away, comes out when the server's block is left.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType

from proxy.wire.endpoint import Endpoint

Headers = Sequence[tuple[str, str]]
Handler = Callable[["Exchange"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Request:
    """What the server got: `target` and `raw_head` byte for byte, header names in lower case."""

    method: str
    target: bytes
    headers: tuple[tuple[str, str], ...]
    body: bytes
    raw_head: bytes
    connection: int  # the how-many-eth connection of the server it came on, from 0

    def get(self, name: str) -> str | None:
        """The first value of that header; `name` in lower case."""
        return next((value for own, value in self.headers if own == name), None)


class Exchange:
    """One request, and the server's side of the connection to answer it on."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.ended = False
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes | memoryview) -> None:
        """These bytes, and wait while the client does not take them."""
        self._writer.write(data)
        await self._writer.drain()

    async def send_head(self, status: int = 200, headers: Headers = (), *, content_length: int | None = None) -> None:
        await self.send(render_head(status, headers, content_length))

    async def respond(self, status: int = 200, body: bytes = b"", headers: Headers = ()) -> None:
        """A whole response in one write."""
        await self.send(render_head(status, headers, len(body)) + body)

    async def send_chunk(self, data: bytes) -> None:
        """One chunk of a `Transfer-Encoding: chunked` body; b"" is the last one."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def drip(self, data: bytes, piece_bytes: int = 1) -> None:
        """In small pieces, the event loop turning between them."""
        for start in range(0, len(data), piece_bytes):
            await self.send(data[start : start + piece_bytes])
            await asyncio.sleep(0)

    def close(self) -> None:
        """Send what is written, then FIN (on TLS after close_notify)."""
        self.ended = True
        self._writer.close()

    def reset(self) -> None:
        """RST, at once: the client gets ECONNRESET, and may lose what it had not read."""
        self.ended = True
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def cut(self) -> None:
        """FIN without TLS's close_notify, as an attacker or a crash would; on plain TCP as `close`."""
        self.ended = True
        self._writer.transport.abort()

    def fileno(self) -> int:
        """The socket's descriptor, to write past TLS."""
        return int(self._writer.get_extra_info("socket").fileno())

    async def stall(self) -> None:
        """Say nothing more until the client is gone."""
        await self.gone()
        self.ended = True

    async def gone(self) -> None:
        """Wait until the client has closed the connection."""
        try:
            while await self._reader.read(1 << 16):
                pass
        except ConnectionError:
            pass


class ScriptedServer:
    """Listens on 127.0.0.1, plain or with `tls`; see the module's text.

    `accepted` counts connections; `open_connections` are those whose two sides are still there.
    """

    def __init__(
        self, handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.handler = handler
        self.requests: list[Request] = []
        self.accepted = 0
        self._tls = tls
        self._host = host
        self._port = port  # 0: a free one
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._failures: list[Exception] = []

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self._host, self.port, self._tls is not None)

    @property
    def url(self) -> str:
        return str(self.endpoint)

    @property
    def open_connections(self) -> int:
        return len(self._conversations)

    async def __aenter__(self) -> ScriptedServer:
        self._server = await asyncio.start_server(self._accept, self._host, self._port, ssl=self._tls, limit=1 << 20)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)
        if self._failures and error is None:
            raise self._failures[0]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.ensure_future(self._converse(self.accepted, reader, writer))
        self.accepted += 1
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _read_request(reader, number)) is not None:
                self.requests.append(request)
                exchange = Exchange(request, reader, writer)
                await self.handler(exchange)
                if exchange.ended:
                    break
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass  # the client is gone
        except Exception as error:
            self._failures.append(error)
        finally:
            writer.close()


async def _read_request(reader: asyncio.StreamReader, number: int) -> Request | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *fields = raw[:-4].split(b"\r\n")
    method, target, _ = line.split(b" ")
    pairs = [field.decode("latin-1").split(":", 1) for field in fields]
    headers = tuple((name.lower(), value.strip()) for name, value in pairs)
    length = next((int(value) for name, value in headers if name == "content-length"), 0)
    return Request(method.decode(), target, headers, await reader.readexactly(length), raw, number)


def render_head(status: int, headers: Headers = (), content_length: int | None = None) -> bytes:
    """A response's head; `content_length` None leaves the header out."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if content_length is not None:
        lines.append(f"content-length: {content_length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def answer(status: int = 200, body: bytes = b"", headers: Headers = ()) -> Handler:
    """A handler that always gives this response."""

    async def handler(exchange: Exchange) -> None:
        await exchange.respond(status, body, headers)

    return handler


def in_turn(*handlers: Handler) -> Handler:
    """The first handler for the first request, and so on; the last one for all that follow."""
    left = list(handlers)

    async def handler(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return handler


def object_of(data: bytes, *, etag: str = '"v1"', headers: Headers = ()) -> Handler:
    """A handler that serves `data` as a well-behaved store does: HEAD, GET, one range, ETag, If-Match."""

    async def handler(exchange: Exchange) -> None:
        request = exchange.request
        common = [("etag", etag), ("accept-ranges", "bytes"), *headers]
        if request.get("if-match") not in (None, "*", etag):
            await exchange.respond(412, b"", common)
        elif request.method == "HEAD":
            await exchange.send_head(200, common, content_length=len(data))
        elif (span := _parse_span(request.get("range"), len(data))) is None:
            await exchange.respond(200, data, common)
        else:
            named = ("content-range", f"bytes {span.start}-{span.stop - 1}/{len(data)}")
            await exchange.respond(206, data[span.start : span.stop], [*common, named])

    return handler


def _parse_span(header: str | None, size: int) -> range | None:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if match is None:
        return None
    return range(int(match[1]), min(int(match[2]) + 1, size) if match[2] else size)
