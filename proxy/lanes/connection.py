"""Connection: uvicorn's HTTP/1.1 protocol with stricter manners: heads, refusals, taking turns, idleness.

How it works. uvicorn parses, and runs one task per request, in order. Here a head is gathered first, at the least cost
per header, and offered to `_answer_hot`; a request that it leaves alone gets its scope, and goes uvicorn's way. Every
scope's extensions hold `warmstart.target`: {"raw": the target's bytes exactly as received, "authority": the host of an
absolute-form target or None}.

What it refuses on its own, closing the connection after what is in flight has been answered: requests that the
parser can't read (400, also Content-Length with Transfer-Encoding), HTTP/1.1 without exactly one Host (400), other
versions (505), transfer codings but chunked, and bodies on requests to upgrade, which the parser would lose (501),
heads that are too large (431) or take too long (408). Trailers are dropped: uvicorn takes them for headers.

One timer per connection watches for idleness; answers only note the time.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from proxy.lanes.heads import BAD_TARGET, MALFORMED, OVERDUE, TOO_LARGE, Refusal, find_fault, parse_target
from proxy.lanes.readahead import WINDOW_BYTES

TARGET = "warmstart.target"
LINGER_S = 2.0  # for a client that is still sending to read the refusal
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may ask for. Heads: S3 allows 8 KiB of headers and 1024-byte keys; proxies add theirs."""

    head_bytes: int = 64 << 10
    head_timeout_s: float = 60.0
    send_timeout_s: float = 60.0  # while the client's receive window stays shut or nothing is acknowledged
    read_ahead_bytes: int = WINDOW_BYTES  # asked of a disk ahead of one reader; 0: nothing


class _Refused(Exception):
    """Ends the parser's run; the answer stands in `_refusal`."""


class Connection(HttpToolsProtocol):
    limits = Limits()

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
        self._refusal: Refusal | None = None  # set once; nothing is parsed afterwards
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since_s = 0.0  # of the loop's clock: when the latest answer ended

        # Per request
        self.url = b""
        self._in_head = False
        self._for_app = False  # whether the message under way is the application's
        self._segment_bytes = 0  # of the segment that this head began in
        self._unfinished_bytes = 0  # of this head's segments after the first: the parser may hold all of them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch_head()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        super().connection_lost(exc)

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
        if self._in_head:
            self._unfinished_bytes += len(data)
        else:
            self._segment_bytes = len(data)
            self._lines.clear()  # of trailers, which nobody wants
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            _logger.warning("Invalid HTTP request received.")
            self.send_400_response("")
            return
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        if not self._in_head or self._refusal is not None:
            return
        if self._unfinished_bytes > self.limits.head_bytes:
            self._refusal = TOO_LARGE
            self.send_400_response("")
        else:
            self._watch_head()

    def on_message_begin(self) -> None:
        self.url = b""
        self._lines.clear()
        self._in_head = True
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
        self._in_head = False

    def on_body(self, body: bytes) -> None:
        if self._for_app:
            super().on_body(body)

    def on_message_complete(self) -> None:
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
        self.scope["extensions"][TARGET] = {"raw": raw, "authority": target.authority}
        self.url = b"/"  # uvicorn's own reading of it does not matter, see `_run_app`
        super().on_headers_complete()
        self.url = raw

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
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal is not None:
            self._answer_refusal()
        else:
            self.flow.resume_reading()
            self._note_idle()

    # Idleness

    def _note_idle(self) -> None:
        self._idle_since_s = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._on_maybe_idle)

    def _on_maybe_idle(self) -> None:
        self._idle_timer = None
        if self._is_answering() or self._in_head:
            return  # the end of the answer, or the head's own timer, sees to it
        ends_s = self._idle_since_s + self.timeout_keep_alive
        if self.loop.time() < ends_s:
            self._idle_timer = self.loop.call_at(ends_s, self._on_maybe_idle)
        else:
            self.transport.close()

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
