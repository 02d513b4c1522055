"""Connection: uvicorn's HTTP/1.1 protocol, stricter about heads, rejections, pipelining and idleness.

How it works. uvicorn parses, and runs one task per request, in order. Here a head is gathered first, at the least cost
per header, and offered to `_answer_hot`. If that declines, the request gets its scope and is handled by uvicorn. Every
scope's extensions hold `warmstart.target`: {"raw": the target's bytes exactly as received, "authority": the host of an
absolute-form target or None}.

The connection itself rejects these requests, and closes after everything in flight has been answered: requests that
the parser can't read (400, also Content-Length with Transfer-Encoding), HTTP/1.1 without exactly one Host (400), other
versions (505), transfer codings other than chunked, bodies on upgrade requests, which the parser would lose (501), and
heads and trailers that are too large (431) or take too long (408). Trailers are dropped: uvicorn takes them for
headers. An upgrade request is handled as a plain one, as no other protocol is spoken here.

Bytes that are neither part of a body nor the end of a message (a head, trailers, the lines of chunks) are counted until
one of these comes, and a timer runs meanwhile, because the parser may hold all of them. `intake` decides how much is
parsed at once, and when reading stops.

A client may end its side of the connection and still wait for its answer (a half-close). A full close looks the same.
A half-close comes right after the request. A client whose end comes later than `half_close_s` has given up.

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
from proxy.lanes.heads import BAD_TARGET, MALFORMED, OVERDUE, TOO_LARGE, HeadRefusal, find_fault, parse_target
from proxy.lanes.incoming import FULL
from proxy.lanes.intake import HEADS_BYTES, Intake
from proxy.lanes.readahead import WINDOW_BYTES
from proxy.rate_limited_log import RateLimitedLog

TARGET = "warmstart.target"
RESERVED_HEAD_S = 5.0  # for the request of a connection in reserve, whose place others want
LINGER_S = 2.0  # in which a client that is still sending can read the rejection
_logger = logging.getLogger(__name__)
_malformed = RateLimitedLog(_logger)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one connection. Heads: S3 allows 8 KiB of headers and 1024-byte keys, and proxies add theirs."""

    head_bytes: int = 64 << 10
    head_timeout_s: float = 60.0
    send_timeout_s: float = 60.0  # while the client's receive window is closed, or nothing is acknowledged
    read_ahead_bytes: int = WINDOW_BYTES  # read from a disk ahead of one reader; 0: no read-ahead
    pipelined_requests: int = 16  # waiting behind the one being answered; no more is read meanwhile
    half_close_s: float = 1.0  # the shortest time-out of a client in use: RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS


class _Phase(Enum):
    """The part of a message that comes next."""

    BEGIN = "begin"
    HEAD = "head"
    BODY = "body"


class _Refused(Exception):
    """Ends the parser's run; the answer is in `_refusal`."""


class ClientConnection(HttpToolsProtocol):
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
        self._full: Room | None = None  # the room that had no place for this connection: it is in reserve
        self._refusal: HeadRefusal | None = None  # set once; nothing is parsed afterwards
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
        """Close: this connection is in reserve, and a newer one needs its place."""
        self.transport.abort()

    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def _answer_hot(self) -> bool:
        """Answer a parsed head at once. Return False if nothing was done, so that the application answers."""
        return False

    def _extensions(self) -> dict[str, Any]:
        """Return the extensions of the scope under way."""
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
        """Return whether the connection stays open for the answers that are due."""
        if self.scheme == "https" or self._phase is _Phase.BODY or not self._is_answering():
            return False
        self._half_closed = self.loop.time() - self._asked_s < self.limits.half_close_s
        return self._half_closed

    def _parse(self, data: bytes | memoryview) -> bool:
        """Parse the data, and return whether a body is under way now."""
        if self._phase is not _Phase.HEAD:
            self._segment_bytes = len(data)
            self._lines.clear()  # trailers are dropped
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
        """Feed the parser, which stops after each upgrade request: what follows is HTTP/1.1 here."""
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
        """Hand the request to uvicorn, with everything that it gathers while parsing a head."""
        raw, headers = self.url, self._lines
        target = parse_target(raw)
        if target is None:
            self._refuse(BAD_TARGET)
        fault = find_fault(self.parser.get_http_version(), headers, upgrades=self.parser.should_upgrade())
        if fault is not None:
            self._refuse(fault)
        super().on_message_begin()
        self.headers.extend(headers)  # the scope's
        self.expect_100_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in headers
        )
        self.scope["extensions"] = self._extensions()
        if self._full is not None:
            self.scope["extensions"][FULL] = {"room": self._full}
        self.scope["extensions"][TARGET] = {"raw": raw, "authority": target.authority}
        self.url = b"/"  # what uvicorn makes of it does not matter, see `_run_app`
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

    def _refuse(self, refusal: HeadRefusal) -> NoReturn:
        """Reject, in a parser's callback only: the parser stops, and uvicorn calls `send_400_response`."""
        self._refusal = refusal
        raise _Refused(refusal.text)

    def _refuse_late(self, refusal: HeadRefusal) -> None:
        """Reject between two runs of the parser."""
        self._refusal = refusal
        self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser can't read, as uvicorn does, but only when it is this answer's turn."""
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
            self.pipeline.popleft()  # the last request is the broken one; those before it are answered
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
            return  # the end of the answer, or the head's own timer, handles it
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
        """Close in two steps: closing a socket with unread bytes resets it, and the client may lose the answer."""
        if not self.transport.can_write_eof():
            self.transport.close()
            return
        self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


def _gatherer(lines: list[tuple[bytes, bytes]]) -> Callable[[bytes, bytes], None]:
    """Return the parser's callback for a header line. It is a closure because it runs a dozen times per request."""
    append = lines.append

    def on_header(name: bytes, value: bytes) -> None:
        append((name.lower(), value))

    return on_header


def disconnect(cycle: RequestResponseCycle) -> None:
    """Mark the cycle of a lost connection, as uvicorn does: sends become no-ops, receive returns."""
    if not cycle.response_complete:
        cycle.disconnected = True
    cycle.message_event.set()
