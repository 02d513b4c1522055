"""A real uvicorn server with our protocol, in a thread, and a client that sees every byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn
import uvloop

from proxy.blocks import DataFile, Piece
from proxy.lanes.asgi import PiecesResponse, Receive, Scope, Send
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from tests.waiting import wait_until

App = Callable[[Scope, Receive, Send], Any]
LOOPS = ("asyncio", "asyncio-debug", "uvloop")
SNDBUF_BYTES = 64 << 10  # so that bodies of a few hundred KiB park
DEADLINE_S = 20.0
SIZE = 3_000_001
CONTENT = random.Random(3).randbytes(SIZE)
HOST = b"Host: here\r\n"
OK = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"


class Serving:
    """Serves `app` on a free port until it is left; `loop` is one of LOOPS."""

    def __init__(
        self,
        app: App,
        loop: str,
        *,
        limits: Limits | None = None,
        tls: tuple[Path, Path] | None = None,
        http: type[asyncio.Protocol] | None = None,
    ) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SNDBUF_BYTES)
        self.port: int = self._listener.getsockname()[1]
        config = uvicorn.Config(
            app,
            http=http or ExpressProtocol.limited(limits or Limits()),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            ssl_certfile=tls and str(tls[0]),
            ssl_keyfile=tls and str(tls[1]),
        )
        self.server = uvicorn.Server(config)
        self._loop = loop
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        factory = uvloop.new_event_loop if self._loop == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(debug=self._loop == "asyncio-debug", loop_factory=factory) as runner:
            runner.run(self.server.serve([self._listener]))

    def __enter__(self) -> Serving:
        self._thread.start()
        wait_until(lambda: self.server.started)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()
        if kind is not None:
            self.server.force_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the server did not drain"

    def terminate(self) -> None:
        """What SIGTERM does in the main thread."""
        self.server.handle_exit(signal.SIGTERM, None)

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def connect(self, *, tls: bool = False, rcvbuf_bytes: int | None = None) -> Client:
        raw = socket.socket()
        raw.settimeout(DEADLINE_S)
        if rcvbuf_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf_bytes)
        raw.connect(("127.0.0.1", self.port))
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            sock = context.wrap_socket(raw)
            _await_ticket(sock)
            return Client(sock)
        return Client(raw)


class Client:
    """HTTP/1.1 by hand."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def get(self, target: str = "/", *headers: str, method: str = "GET") -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: here", *headers, "", ""]
        self.send("\r\n".join(lines).encode())

    def _receive(self) -> bool:
        try:
            data = self.sock.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self._buffer += data
        return data != b""

    def read_head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            assert self._receive(), f"closed after {bytes(self._buffer)!r}"
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        return int(first.split()[1]), dict(line.split(": ", 1) for line in lines)

    def read_bytes(self, count: int) -> bytes:
        """That many, or fewer when the connection is closed."""
        while len(self._buffer) < count and self._receive():
            pass
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return data

    def read_response(self, *, head_only: bool = False) -> tuple[int, dict[str, str], bytes]:
        status, headers = self.read_head()
        body = b"" if head_only else self.read_bytes(int(headers.get("content-length", "0")))
        return status, headers, body

    def read_to_end(self) -> bytes:
        while self._receive():
            pass
        data, self._buffer = bytes(self._buffer), bytearray()
        return data

    def reset(self) -> None:
        """Goes away without a word."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


def _await_ticket(sock: ssl.SSLSocket) -> None:
    """Waits until the server has ended the handshake too, which it shows by a ticket.

    A request that arrives with the handshake's last message finds the ticket still in the server's buffer, and is the
    application's: nothing is answered hot while something waits to be written.
    """
    sock.setblocking(False)
    while sock.session is None or not sock.session.has_ticket:
        assert select.select([sock], [], [], DEADLINE_S)[0], "no ticket came"
        with contextlib.suppress(ssl.SSLWantReadError):
            sock.recv(1)
    sock.settimeout(DEADLINE_S)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def open_file(path: Path) -> DataFile:
    return DataFile(os.open(path, os.O_RDONLY))


class Echo:
    """Answers with the request's body; keeps the scopes. `/unread` reads none, `/held` waits for `release`."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self.disconnects = 0
        self.release = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body = b""
        more = scope["path"] != "/unread"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnects += 1
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        if scope["path"] == "/held":
            await asyncio.to_thread(self.release.wait, DEADLINE_S)
        length = b"%d" % len(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})


class Bodies:
    """An application whose answers are PiecesResponses; counts what became of their bodies."""

    def __init__(self, make: Callable[[Scope], tuple[AsyncIterator[Piece | bytes] | None, int]]) -> None:
        self._make = make
        self.started = 0
        self.closed = 0
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        body, length = self._make(scope)
        counted = None if body is None else self._counted(body)
        await PiecesResponse(200, [], counted, length)(scope, receive, send)

    async def _counted(self, body: AsyncIterator[Piece | bytes]) -> AsyncIterator[Piece | bytes]:
        self.started += 1
        try:
            async for item in body:
                yield item
        finally:
            self.closed += 1


async def pieces(*items: Piece | bytes | BaseException) -> AsyncIterator[Piece | bytes]:
    for item in items:
        if isinstance(item, BaseException):
            raise item
        yield item


def whole(data: Path) -> Bodies:
    return Bodies(lambda scope: (pieces(Piece(open_file(data), 0, SIZE)), SIZE))


def spans(data: Path, *bounds: tuple[int, int], declared: int | None = None) -> Bodies:
    """Pieces [start, end) of the file, in a row."""
    total = sum(end - start for start, end in bounds)

    def make(scope: Scope) -> Any:
        file = open_file(data)
        return pieces(*(Piece(file, start, end - start) for start, end in bounds)), declared or total

    return Bodies(make)
