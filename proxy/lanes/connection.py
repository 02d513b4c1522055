"""Connection: uvicorn's HTTP/1.1 protocol with stricter manners: heads, refusals, taking turns, idleness.

How it works. uvicorn parses, and runs one task per request, in order. Here a head is gathered first, at the least cost
per header, and offered to `_answer_hot`; a request that it leaves alone gets its scope, and goes uvicorn's way. Every
scope's extensions hold `warmstart.target`: {"raw": the target's bytes exactly as received, "authority": the host of an
absolute-form target or None}.

What it refuses on its own, closing the connection after what is in flight has been answered: requests that the
parser can't read (400, also Content-Length with Transfer-Encoding), HTTP/1.1 without exactly one Host (400), other
versions (505), transfer codings but chunked, and bodies on requests to upgrade, which the parser would lose (501),
heads and trailers that are too large (431) or take too long (408). Trailers are dropped: uvicorn takes them for
headers. A request to upgrade is a plain one: nobody here speaks another protocol.

Bytes that are neither a body's nor the end of a message (a head, trailers, the lines of chunks) count until one of
these comes, whatever they are, and a timer runs meanwhile: the parser may hold all of them. How much is parsed at
once, and when nothing more is read, decides `intake`.

A client may end its side of the connection and still wait for its answer (a half-close). A full close looks the same.
Who half-closes does so right behind the request; who ends later than `half_close_s` has given up.

One timer per connection watches for idleness; answers only note the time.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NoReturn

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from proxy.admission import Connections, Room
from proxy.lanes.heads import BAD_TARGET, MALFORMED, OVERDUE, TOO_LARGE, Refusal, find_fault, parse_target
from proxy.lanes.incoming import FULL
from proxy.lanes.intake import HEADS_BYTES, Intake
from proxy.lanes.readahead import WINDOW_BYTES
from proxy.notices import Notice

TARGET = "warmstart.target"
RESERVED_HEAD_S = 5.0  # for the request of a connection in reserve, which others want
LINGER_S = 2.0  # for a client that is still sending to read the refusal
_logger = logging.getLogger(__name__)
_malformed = Notice(_logger)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask for. Heads: S3 allows 8 KiB of headers and 1024-byte keys; proxies add theirs."""

    head_bytes: int = 64 << 10
    head_timeout_s: float = 60.0
    send_timeout_s: float = 60.0  # while the client's receive window stays shut or nothing is acknowledged
    read_ahead_bytes: int = WINDOW_BYTES  # asked of a disk ahead of one reader; 0: nothing
    pipelined_requests: int = 16  # waiting behind the one that is being answered; no more is read meanwhile
    half_close_s: float = 1.0  # the shortest time-out of a client in use: RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS


class _Phase(Enum):
    """What of a message comes next."""

    BEGIN = "begin"
    HEAD = "head"
    BODY = "body"


class _Refused(Exception):
    """Ends the parser's run; the answer stands in `_refusal`."""


class Connection(HttpToolsProtocol):
    limits = Limits()
    counted_by: Connections | None = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._lines: list[tuple[bytes, bytes]] = []  # the header lines of this head, names in lower case
        self.on_header = _gatherer(self._lines)  # type: ignore[method-assign, assignment]  # before the parser looks for it
        super().__init__(config, server_state, app_state, _loop)

        # Per connection
        self._intake: Intake
        self._half_closed = False
        self._full: Room | None = None  # had none for this connection: it is in reserve
        self._refusal: Refusal | None = None  # set once; nothing is parsed afterwards
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since_s = 0.0  # of the loop's clock: when the latest answer ended

        # Per request
        self.url = b""
        self._phase = _Phase.BEGIN
        self._for_app = False  # whether the message under way is the application's
        self._asked_s = 0.0  # of the loop's clock
        self._segment_bytes = 0  # of the part that this head began in
        self._unfinished_bytes = 0  # since then, or since the last byte of body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most = self.limits.pipelined_requests
        self.flow = self._intake = Intake(transport, self.loop, self._parse, self.pipeline, most)
        if self.counted_by is not None:
            self._full = self.counted_by.enter(self, self._address())
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.counted_by is not None:
            self.counted_by.leave(self, self._address(), self._full)
        self._unwatch_head()
        self._intake.close()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)

    def give_way(self) -> None:
        """This connection is in reserve, and a newer one needs its place."""
        self.transport.abort()

    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _answer_hot(self) -> bool:
        """A head has been parsed. False: nothing has been done; the application answers."""
        return False

    def _extensions(self) -> dict[str, Any]:
        """Of the scope under way."""
        return {}

    # Parsing

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if len(data) > HEADS_BYTES or self._intake.held:
            self._intake.take(data, in_body=self._phase is _Phase.BODY)
        else:
            self._parse(data)
            self._intake.bound()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open for the answers that are due."""
        if self.scheme == "https" or self._phase is _Phase.BODY or not self._is_answering():
            return False
        self._half_closed = self.loop.time() - self._asked_s < self.limits.half_close_s
        return self._half_closed

    def _parse(self, data: bytes | memoryview) -> bool:
        """Whether a body is under way now."""
        if self._phase is not _Phase.HEAD:
            self._segment_bytes = len(data)
            self._lines.clear()  # of trailers, which nobody wants
        if self._phase is not _Phase.BEGIN:
            self._unfinished_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            _malformed.say("a client's request could not be parsed")
            self.send_400_response("")
            return False
        if self._phase is _Phase.BEGIN or self._refusal is not None:
            return False
        if self._unfinished_bytes > self.limits.head_bytes:
            self._refuse_late(TOO_LARGE)
        elif self._phase is _Phase.HEAD or self._unfinished_bytes:
            self._watch_head()
        return self._phase is _Phase.BODY

    def _feed(self, data: bytes | memoryview) -> None:
        """To the parser, which stops behind each request to upgrade: what follows is HTTP/1.1 here."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                if not data:
                    return

    def on_message_begin(self) -> None:
        self.url = b""
        self._lines.clear()
        self._phase = _Phase.HEAD
        self._unfinished_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_headers_complete(self) -> None:
        if self._head_timer is not None:
            self._unwatch_head()
        if self._segment_bytes + self._unfinished_bytes > self.limits.head_bytes:
            self._bound_head()
        self._for_app = not self._answer_hot()
        if self._for_app:
            self._hand_over()
        self._phase = _Phase.BODY
        self._unfinished_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._unfinished_bytes = 0
        if self._head_timer is not None:
            self._unwatch_head()
        if self._for_app:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._phase = _Phase.BEGIN
        if self._head_timer is not None:
            self._unwatch_head()
        if self._for_app:
            super().on_message_complete()

    def _bound_head(self) -> None:
        head_bytes = len(self.url) + sum(len(name) + len(value) for name, value in self._lines)
        if head_bytes > self.limits.head_bytes:
            self._refuse(TOO_LARGE)

    def _hand_over(self) -> None:
        """The request to uvicorn, with all that it gathers while a head is parsed."""
        raw, headers = self.url, self._lines
        target = parse_target(raw)
        if target is None:
            self._refuse(BAD_TARGET)
        fault = find_fault(self.parser.get_http_version(), headers, upgrades=self.parser.should_upgrade())
        if fault is not None:
            self._refuse(fault)
        super().on_message_begin()
        self.headers.extend(headers)  # its scope's
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        self.scope["extensions"] = self._extensions()
        if self._full is not None:
            self.scope["extensions"][FULL] = {"room": self._full}
        self.scope["extensions"][TARGET] = {"raw": raw, "authority": target.authority}
        self.url = b"/"  # uvicorn's own reading of it does not matter, see `_run_app`
        self._asked_s = self.loop.time()
        super().on_headers_complete()
        self.url = raw

    def _watch_head(self) -> None:
        if self._head_timer is None:
            timeout_s = self.limits.head_timeout_s
            if self._full is not None:
                timeout_s = min(timeout_s, RESERVED_HEAD_S)
            self._head_timer = self.loop.call_later(timeout_s, self._on_head_overdue)

    def _unwatch_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_head_overdue(self) -> None:
        self._head_timer = None
        if self.flow.read_paused or (self._is_answering() and self._phase is not _Phase.BODY):
            self._watch_head()
        elif self._phase is _Phase.BEGIN:
            self.transport.close()
        else:
            self._refuse_late(OVERDUE)

    # Refusing

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, refusal: Refusal) -> NoReturn:
        """In a parser's callback only: the parser stops, and uvicorn calls `send_400_response`."""
        self._refusal = refusal
        raise _Refused(refusal.text)

    def _refuse_late(self, refusal: Refusal) -> None:
        """Between two runs of the parser."""
        self._refusal = refusal
        self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what its parser can't read; here it waits for its turn."""
        if self._refusal is None:
            self._refusal = MALFORMED
        self._intake.discard()
        cycle = self.cycle
        if self._phase is _Phase.BODY and cycle.response_complete:
            self._end()  # it has its answer
        elif self._phase is _Phase.HEAD or not self._is_answering() or not cycle.more_body:
            if not self._is_answering():
                self._answer_refusal()
        elif self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()  # the latest request is the broken one; those before it are answered
        else:
            disconnect(cycle)
            if cycle.response_started:
                self.transport.close()
            else:
                self._answer_refusal()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            self._intake.read_on()
        elif self._refusal is not None:
            self._answer_refusal()
        elif self._half_closed:
            self.transport.close()
        else:
            self._intake.read_on()
            self._note_idle()

    # Idleness

    def _note_idle(self) -> None:
        self._idle_since_s = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._on_maybe_idle)

    def _on_maybe_idle(self) -> None:
        self._idle_timer = None
        if self._is_answering() or self._phase is _Phase.HEAD:
            return  # the end of the answer, or the head's own timer, sees to it
        ends_s = self._idle_since_s + self.timeout_keep_alive
        if self.loop.time() < ends_s:
            self._idle_timer = self.loop.call_at(ends_s, self._on_maybe_idle)
        else:
            self.transport.close()

    def _answer_refusal(self) -> None:
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
        self._end()

    def _end(self) -> None:
        """Closes in two steps: a socket closed with unread bytes resets, which may cost the client the answer."""
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def _gatherer(lines: list[tuple[bytes, bytes]]) -> Callable[[bytes, bytes], None]:
    """The parser's callback for a header line. A closure: it runs a dozen times per request."""
    append = lines.append

    def on_header(name: bytes, value: bytes) -> None:
        append((name.lower(), value))

    return on_header


def disconnect(cycle: RequestResponseCycle) -> None:
    """What uvicorn does to the cycle of a lost connection: sends become no-ops, receive returns."""
    if not cycle.response_complete:
        cycle.disconnected = True
    cycle.message_event.set()
