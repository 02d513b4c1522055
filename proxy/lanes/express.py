"""ExpressProtocol: uvicorn's HTTP/1.1 protocol, with bodies that leave by sendfile and stricter manners.

Use it as `uvicorn.Config(app, http=ExpressProtocol)`, or `http=ExpressProtocol.limited(Limits(...))`.

How it works. uvicorn parses, and runs one task per request, in order. The application is wrapped, once per
connection: the wrapper gives each request a `send` that knows one message more,

    {"type": "http.response.zerocopysend", "file": int or object with fileno(), "offset": int, "count": int,
     "more_body": bool}

and passes all others on. It may be mixed with `http.response.body`. Its bytes count against Content-Length as
a body's do (never more than declared; a response that ends with less closes the connection). The socket is touched
only when the transport's buffer is empty. When the client goes away, `send` raises ClientGone; when anything else
fails in mid-body the connection is closed, since what has left can't be told. TLS connections have no such message.

Every scope's extensions also hold `warmstart.target`: {"raw": the target's bytes exactly as received, "authority":
the host of an absolute-form target or None}. `raw_path`, `path` and `query_string` are cut from the raw target
without normalising anything ("//", ".", "#" stay); only `path` is percent-decoded.

What it refuses on its own, closing the connection after what is in flight has been answered: requests that the
parser can't read (400, also Content-Length with Transfer-Encoding), HTTP/1.1 without exactly one Host (400), other
versions (505), transfer codings but chunked, and bodies on requests to upgrade, which the parser would lose (501),
heads that are too large (431) or take too long (408). Trailers are dropped: uvicorn takes them for headers.

A hot answer, decided in the parser's callback with no task, belongs into `on_headers_complete`, when nothing is in
flight; `FileSender.start` is made for it. It will need `on_body`, `on_message_complete`, `shutdown` and the
keep-alive timer too, which for answers of the application are uvicorn's.
"""

from __future__ import annotations

import asyncio
import http
import logging
import os
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, cast
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from proxy.lanes.asgi import ZEROCOPY, Message, Receive, Scope, Send
from proxy.lanes.heads import BAD_TARGET, MALFORMED, OVERDUE, TOO_LARGE, Refusal, find_fault, parse_target
from proxy.lanes.sendfile import ClientGone, FileSender, HasFileno

TARGET = "warmstart.target"
LINGER_S = 2.0  # for a client that is still sending to read the refusal
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask for. Heads: S3 allows 8 KiB of headers and 1024-byte keys; proxies add theirs."""

    head_bytes: int = 64 << 10
    head_timeout_s: float = 60.0
    send_timeout_s: float = 60.0  # while the client's receive window stays shut or nothing is acknowledged


class _Refused(Exception):
    """Ends the parser's run; the answer stands in `_refusal`."""


class ExpressProtocol(HttpToolsProtocol):
    limits = Limits()

    @classmethod
    def limited(cls, limits: Limits) -> type[ExpressProtocol]:
        """The same protocol with other limits: uvicorn takes a class, and makes the instances itself."""
        return type(cls.__name__, (cls,), {"limits": limits})

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._surface = self.app
        self.app = self._run_app

        # Per connection
        self._sender: FileSender | None = None
        self._running: RequestResponseCycle | None = None  # the application's; later requests wait in `pipeline`
        self._refusal: Refusal | None = None  # set once; nothing is parsed afterwards
        self._head_timer: asyncio.TimerHandle | None = None

        # Per request
        self._in_head = False
        self._head_bytes = 0  # of this head, passed on by the parser
        self._unfinished_bytes = 0  # of this head's segments after the first: the parser may hold all of them

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            # The kernel gives up a client that takes nothing: parked, in the transport's buffer, closing or not.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.limits.send_timeout_s * 1000))
        if self.scheme == "http":
            try:
                self._sender = FileSender(self.loop, sock.fileno())
            except OSError as error:  # out of descriptors: this connection's bodies go as chunks
                _logger.warning("no sendfile on a connection: %s", error)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sender is not None:
            self._sender.close()
        self._sender = None  # as `app`: what refers to this object would keep it until a collection
        self.app = self._surface
        self._unwatch_head()
        if self._running is not None:  # uvicorn tells the last request parsed, which need not be the one that runs
            _disconnect(self._running)
        self.pipeline.clear()
        super().connection_lost(exc)

    # Parsing

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if self._in_head:
            self._unfinished_bytes += len(data)
        super().data_received(data)
        if not self._in_head or self._refusal is not None:
            return
        if self._unfinished_bytes > self.limits.head_bytes:
            self._refusal = TOO_LARGE
            self.send_400_response("")
        else:
            self._watch_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._unfinished_bytes = 0
        self.scope["extensions"] = {} if self._sender is None else {ZEROCOPY: {}}

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._count_head(len(name) + len(value))
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unwatch_head()
        raw = self.url
        target = parse_target(raw)
        if target is None:
            self._refuse(BAD_TARGET)
        fault = find_fault(self.parser.get_http_version(), self.headers, upgrades=self.parser.should_upgrade())
        if fault is not None:
            self._refuse(fault)
        self._in_head = False
        self.scope["extensions"][TARGET] = {"raw": raw, "authority": target.authority}
        self.url = b"/"  # uvicorn's own reading of it does not matter, see `_run_app`
        super().on_headers_complete()
        self.url = raw

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > self.limits.head_bytes:
            self._refuse(TOO_LARGE)

    def _watch_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.head_timeout_s, self._on_head_overdue)

    def _unwatch_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_overdue(self) -> None:
        self._head_timer = None
        if self._is_answering():
            self._watch_head()
        elif self._in_head:
            self._refusal = OVERDUE
            self._answer_refusal()
        else:
            self.transport.close()

    # Refusing

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, refusal: Refusal) -> NoReturn:
        """In a parser's callback only: the parser stops, and uvicorn calls `send_400_response`."""
        self._refusal = refusal
        raise _Refused(refusal.text)

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what its parser can't read; here it waits for its turn."""
        if self._refusal is None:
            self._refusal = MALFORMED
        cycle = self.cycle
        if self._in_head or not self._is_answering() or not cycle.more_body:
            if not self._is_answering():
                self._answer_refusal()
        elif self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()  # the latest request is the broken one; those before it are answered
        else:
            _disconnect(cycle)
            if cycle.response_started:
                self.transport.close()
            else:
                self._answer_refusal()

    def on_response_complete(self) -> None:
        if self._refusal is None or self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._answer_refusal()

    def _answer_refusal(self) -> None:
        """Closes in two steps: a socket closed with unread bytes resets, which may cost the client the answer."""
        assert self._refusal is not None
        status, text = self._refusal
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        lines = [b"HTTP/1.1 %d %s" % (status, http.HTTPStatus(status).phrase.encode())]
        lines += [name + b": " + value for name, value in headers]
        self.transport.write(b"\r\n".join([*lines, b"", text.encode("ascii")]))
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER_S, self.transport.close)

    # Answering

    async def _run_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application that uvicorn runs: `send` is a bound method of the request's cycle."""
        cycle: RequestResponseCycle = send.__self__  # type: ignore[attr-defined]
        self._running = cycle
        target = parse_target(scope["extensions"][TARGET]["raw"])
        assert target is not None
        scope["raw_path"] = self.root_path.encode("ascii") + target.path
        scope["path"] = self.root_path + unquote(target.path.decode("ascii"))
        scope["query_string"] = target.query
        await self._surface(scope, receive, partial(self._send, cycle))

    async def _send(self, cycle: RequestResponseCycle, message: Message) -> None:
        if message["type"] == ZEROCOPY:
            await self._send_file(cycle, message)
            return
        if message["type"] == "http.response.start" and cycle.waiting_for_100_continue and cycle.more_body:
            # The client waits for leave to send its body and, with this answer, may never send it: its next request
            # would be taken for that body.
            cycle.keep_alive = False
        await cycle.send(cast(Any, message))

    async def _send_file(self, cycle: RequestResponseCycle, message: Message) -> None:
        if cycle.disconnected:
            raise ClientGone("the client went away")
        if self._sender is None or not cycle.response_started or cycle.response_complete:
            await cycle.send(cast(Any, message))  # raises: not now
            return
        more_body = bool(message.get("more_body", False))
        if cycle.scope["method"] != "HEAD":
            file, offset, count = _piece(message)
            if count:
                await self._send_piece(cycle, self._sender, file, offset, count)
        if not more_body:
            await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_piece(
        self, cycle: RequestResponseCycle, sender: FileSender, file: HasFileno, offset: int, count: int
    ) -> None:
        if not cycle.chunked_encoding and count > cycle.expected_content_length:
            raise RuntimeError("Response content longer than Content-Length")
        try:
            if cycle.chunked_encoding:
                self.transport.write(b"%x\r\n" % count)
            await self._flush(cycle)
            await sender.send(file, offset, count)
        except BaseException:
            self.transport.close()
            raise
        if cycle.chunked_encoding:
            self.transport.write(b"\r\n")
        else:
            cycle.expected_content_length -= count

    async def _flush(self, cycle: RequestResponseCycle) -> None:
        """Waits until the transport has nothing left to write, and the socket is ours."""
        while self.transport.get_write_buffer_size() and not cycle.disconnected:
            self.transport.set_write_buffer_limits(high=0)  # pauses now, resumes when all has left
            await self.flow.drain()
            if not cycle.disconnected:
                self.transport.set_write_buffer_limits()
        if cycle.disconnected or self.transport.is_closing():
            raise ClientGone("the client went away")


def _disconnect(cycle: RequestResponseCycle) -> None:
    """What uvicorn does to the cycle of a lost connection: sends become no-ops, receive returns."""
    if not cycle.response_complete:
        cycle.disconnected = True
    cycle.message_event.set()


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """A bare number, as other applications may send it; whoever sent it keeps it open."""

    fd: int

    def fileno(self) -> int:
        return self.fd


def _piece(message: Message) -> tuple[HasFileno, int, int]:
    """The ASGI extension's defaults: from the file's position, to its end."""
    file = message["file"]
    if isinstance(file, int):
        file = _Descriptor(file)
    offset, count = message.get("offset"), message.get("count")
    if offset is None:
        offset = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    if count is None:
        count = max(0, os.fstat(file.fileno()).st_size - offset)
    return file, offset, count
