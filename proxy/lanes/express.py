"""ExpressProtocol: bodies that leave by sendfile, and hot answers in the parser's callback.

Use it as `uvicorn.Config(app, http=ExpressProtocol)`, or `http=ExpressProtocol.limited(Limits(...), lane)`.

How it works. The application is wrapped, once per connection. The wrapper gives each request a `send` that understands
two more messages and passes all others on:

    {"type": "http.response.zerocopysend", "file": int or object with fileno(), "offset": int, "count": int,
     "more_body": bool}
    {"type": "warmstart.interim"}     sends a 102 head (RFC 2518, section 10.1) before the answer's own: a sign of life

The first may be mixed with `http.response.body`. Its bytes count against Content-Length as a body's do: never more than
declared, and a response that ends with less closes the connection. The socket is used only while the transport's buffer
is empty. When the client goes away, `send` raises ClientGone. When anything else fails in mid-body the connection is
closed, since it is not known what has left. Under TLS the same pieces go through the transport (`chunksend`).
A scope's `raw_path`, `path` and `query_string` are cut from the raw target without any normalisation ("//", ".", "#"
stay); only `path` is percent-decoded.

Hot answers. With a HotLane, a plain request is answered in the parser's callback, once its head has been parsed and if
nothing is in flight before it: no task, no scope, no future.
1. If the lane's `answer` returns None, the application answers, as if nothing had been tried. The scope is built only
   then.
2. A small body leaves with its head in one write. What the socket does not take goes to the transport, which buffers.
3. A larger body leaves by sendfile, after its head. When the socket is full, it parks. To uvicorn it is a cycle under
   way (`_Parked`): further requests queue behind it, whichever lane they would take, and the drain waits for it.
4. If pages are not in memory, or the transport still has something to write, the application answers as well.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

from proxy.admission import Connections
from proxy.blocks import DataFile
from proxy.lanes.asgi import INTERIM, ZEROCOPY, Message, Receive, Scope, Send
from proxy.lanes.chunksend import ChunkSender
from proxy.lanes.connection import TARGET, ClientConnection, Limits, disconnect
from proxy.lanes.heads import parse_target
from proxy.lanes.hot import NOT_PLAIN, SMALL_BYTES, AnswerHot, HotAnswer, HotLane, HotLine, is_plain
from proxy.lanes.readahead import DiskReadAhead, HasFileno
from proxy.lanes.residency import is_resident
from proxy.lanes.sendfile import STEP_BYTES, ConnectionGone, FileSender, PieceSender
from proxy.rate_limited_log import RateLimitedLog

NAME_BYTES_MAX = 200
_logger = logging.getLogger(__name__)
_no_sendfile = RateLimitedLog(_logger)


class _Parked:
    """A hot answer that waits for its socket, with the attributes that uvicorn and this module use of a cycle."""

    response_started = True
    more_body = False

    def __init__(self) -> None:
        self.waits = False
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = True
        self.message_event = asyncio.Event()


class ExpressProtocol(ClientConnection):
    lane: HotLane | None = None
    reads: DiskReadAhead | None = None

    @classmethod
    def limited(
        cls, limits: Limits, lane: HotLane | None = None, connections: Connections | None = None
    ) -> type[ExpressProtocol]:
        """Return the protocol class with these limits and lane: uvicorn takes a class and creates the instances."""
        reads = DiskReadAhead(limits.read_ahead_bytes)
        fields = {"limits": limits, "lane": lane, "reads": reads, "counted_by": connections}
        return type(cls.__name__, (cls,), fields)

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

        self._lane: HotLane | None = None  # set if this connection can be answered hot,
        self._answer: AnswerHot  # by this function
        self._sender: PieceSender | None = None
        self._running: RequestResponseCycle | None = None  # the application's; later requests wait in `pipeline`
        self._defaults: Sequence[tuple[bytes, bytes]] = ()  # uvicorn's own headers, a new list each second,
        self._default_lines = b""  # and rendered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        sock: socket.socket = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            # The kernel drops a client that accepts nothing: parked, in the transport's buffer, closing or not.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.limits.send_timeout_s * 1000))
        if self._full is not None:  # it gets at most a small answer
            return
        try:
            plain = self.scheme == "http"
            self._sender = (
                FileSender(self.loop, sock.fileno(), self.reads)
                if plain
                else ChunkSender(self.loop, transport, self.reads)
            )
        except OSError as error:  # out of descriptors: this connection's bodies are read in threads
            _no_sendfile.say(f"no sendfile on a connection: {error}")
        else:
            self._lane = self.lane
            if self.lane is not None:
                self._answer = self.lane.at(self.server)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._sender is not None:
            self._sender.close()
        self._sender = None  # like `app`: a reference to this object would keep it until a garbage collection
        self.app = self._surface
        if self._running is not None:  # uvicorn notifies the last parsed request, which may not be the running one
            disconnect(self._running)
        self.pipeline.clear()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._sender is not None:
            self._sender.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sender is not None:
            self._sender.resume()

    def _extensions(self) -> dict[str, Any]:
        return {INTERIM: {}} if self._sender is None else {ZEROCOPY: {}, INTERIM: {}}

    # Hot answers

    def _answer_hot(self) -> bool:
        lane = self._lane
        if lane is None:
            return False
        cycle, transport = self.cycle, self.transport
        if (cycle is not None and not cycle.response_complete) or transport.get_write_buffer_size():
            return False
        headers, parser = self._lines, self.parser
        fields = dict(headers)
        if len(fields) != len(headers) or b"host" not in fields or not parser.should_keep_alive():
            return False
        if not NOT_PLAIN.isdisjoint(fields) and not is_plain(fields, parser.get_http_version):
            return False
        try:
            answer = self._answer(parser.get_method(), self.url, fields)
        except Exception:
            _logger.exception("a hot answer failed; the application answers")
            return False
        return answer is not None and not transport.is_closing() and self._send_hot(lane, answer)

    def _send_hot(self, lane: HotLane, answer: HotAnswer) -> bool:
        sender = self._sender
        assert sender is not None
        if self.server_state.default_headers is not self._defaults:
            self._defaults = self.server_state.default_headers
            self._default_lines = b"".join([b"%b: %b\r\n" % pair for pair in self._defaults])
        head = b"".join((STATUS_LINE[answer.status], self._default_lines, answer.head))
        pieces, length = answer.pieces, answer.length
        if length > SMALL_BYTES or len(pieces) > 1:
            return self._send_large(lane, sender, answer, head)
        body = lane.read_small(pieces[0]) if pieces else memoryview(b"")
        if body is None:
            return False
        try:
            sent = sender.write(head, body)
        except ConnectionGone:
            self.transport.close()
            return True
        if sent < len(head) + length:
            self.transport.write(b"".join((head, body))[sent:])
        answer.tally.requests += 1
        answer.tally.sent_bytes += length
        if not lane.armed:
            lane.arm(self.loop)
        if lane.logs:
            self._note_line(lane, answer, (self.parser.get_method(), self.url), 0.0)
        self._note_idle()
        return True

    def _send_large(self, lane: HotLane, sender: PieceSender, answer: HotAnswer, head: bytes) -> bool:
        first = answer.pieces[0]
        began_s = self._asked_s = self.loop.time()
        try:
            if not is_resident(first.file.fd, first.offset, min(first.length, STEP_BYTES)):
                return False
        except OSError:  # the application meets the error again, and reports it
            return False
        answer.tally.requests += 1
        if not lane.armed:
            lane.arm(self.loop)
        parked = _Parked()
        asked = (self.parser.get_method(), self.url) if lane.logs else None
        done = partial(self._on_hot_end, parked, lane, answer, asked, began_s)
        try:
            finished = sender.start_answer(head, answer.pieces, done)
        except Exception as error:
            done(error)
            return True
        if finished:
            done(None)
        else:
            parked.waits = True
            self.cycle = cast(Any, parked)
        return True

    def _on_hot_end(
        self,
        parked: _Parked,
        lane: HotLane,
        answer: HotAnswer,
        asked: tuple[bytes, bytes] | None,
        began_s: float,
        error: BaseException | None,
    ) -> None:
        parked.response_complete = True
        if asked is not None:
            self._note_line(lane, answer, asked, self.loop.time() - began_s)
        if error is not None:
            self._on_hot_failure(lane, error)
            return
        answer.tally.sent_bytes += answer.length
        if not lane.armed:
            lane.arm(self.loop)
        if not parked.keep_alive:
            self.transport.close()
        elif parked.waits:
            self.on_response_complete()
        else:
            self._note_idle()

    def _on_hot_failure(self, lane: HotLane, error: BaseException) -> None:
        """Handle a failure after the head has left: only closing shows the client that bytes are missing."""
        file = self._sender.failed if self._sender is not None else None
        self.transport.close()
        if isinstance(error, ConnectionGone):
            return
        _logger.error("a body broke off: %s", error)
        if isinstance(error, OSError) and isinstance(file, DataFile) and lane.on_read_error is not None:
            lane.on_read_error(file, error)

    def _note_line(self, lane: HotLane, answer: HotAnswer, asked: tuple[bytes, bytes], took_s: float) -> None:
        method, raw = asked
        target = parse_target(raw)
        lane.note(
            HotLine(
                method=method.decode("ascii"),
                path=target.path.decode("latin-1") if target is not None else "",
                status=answer.status,
                cache=answer.tally.cache,
                sent_bytes=answer.length,
                took_s=took_s,
                client=self.client[0] if self.client else "-",
                ended_s=time.time(),
            )
        )

    # Answering

    async def _run_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application for uvicorn; `send` is a bound method of the request's cycle."""
        cycle: RequestResponseCycle = send.__self__  # type: ignore[attr-defined]
        self._running = cycle
        target = parse_target(scope["extensions"][TARGET]["raw"])
        assert target is not None
        scope["raw_path"] = self.root_path.encode("ascii") + target.path
        scope["path"] = self.root_path + unquote(target.path.decode("ascii"))
        scope["query_string"] = target.query
        if (task := asyncio.current_task()) is not None:  # for the watchdog, which sees nothing else of a request
            task.set_name(f"{scope['method']} {target.path[:NAME_BYTES_MAX].decode('latin-1')}")
        await self._surface(scope, receive, partial(self._send, cycle))
        if self.transport.is_closing():
            disconnect(cycle)  # it ended early because the client went away: not an error, as uvicorn would log it

    async def _send(self, cycle: RequestResponseCycle, message: Message) -> None:
        if message["type"] == ZEROCOPY:
            await self._send_file(cycle, message)
            return
        if message["type"] == INTERIM:
            if not cycle.disconnected and not cycle.response_started:
                self.transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            return
        if message["type"] == "http.response.start" and cycle.waiting_for_100_continue and cycle.more_body:
            # The client waits for permission to send its body and, after this answer, may never send it. Its next
            # request would be taken for that body.
            cycle.keep_alive = False
        await cycle.send(cast(Any, message))

    async def _send_file(self, cycle: RequestResponseCycle, message: Message) -> None:
        if cycle.disconnected:
            raise ConnectionGone("the client went away")
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
        self, cycle: RequestResponseCycle, sender: PieceSender, file: HasFileno, offset: int, count: int
    ) -> None:
        if not cycle.chunked_encoding and count > cycle.expected_content_length:
            raise RuntimeError("Response content longer than Content-Length")
        try:
            if cycle.chunked_encoding:
                self.transport.write(b"%x\r\n" % count)
            if isinstance(sender, FileSender):
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
        """Wait until the transport has nothing left to write, so that the socket may be used."""
        while self.transport.get_write_buffer_size() and not cycle.disconnected:
            self.transport.set_write_buffer_limits(high=0)  # pauses now, resumes when all has left
            await self.flow.drain()
            if not cycle.disconnected:
                self.transport.set_write_buffer_limits()
        if cycle.disconnected or self.transport.is_closing():
            raise ConnectionGone("the client went away")


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """A bare descriptor, as other applications may send it; its sender keeps it open."""

    fd: int

    def fileno(self) -> int:
        return self.fd


def _piece(message: Message) -> tuple[HasFileno, int, int]:
    """Return the message's piece, with the ASGI extension's defaults: from the file's position, to its end."""
    file = message["file"]
    if isinstance(file, int):
        file = _Descriptor(file)
    offset, count = message.get("offset"), message.get("count")
    if offset is None:
        offset = os.lseek(file.fileno(), 0, os.SEEK_CUR)
    if count is None:
        count = max(0, os.fstat(file.fileno()).st_size - offset)
    return file, offset, count
