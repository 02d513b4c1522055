"""The reader of one response, fed with received bytes; no socket, no clock, no await.

How it works. Bytes are gathered until the empty line that ends the head. Interim heads (1xx) are skipped. Then `accept`
is called, once. The sink that it returns gets the body as it comes. Without a sink the body is collected, because it is
small (an error's XML) or unwanted; if it exceeds the limit, the rest is dropped and the connection closed.
`receive` may return an awaitable of the sink: nothing more may be received before it is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.blocks import ByteSink
from proxy.wire.errors import ConnectionBroken, MalformedResponse
from proxy.wire.framing import Framing, frame_body
from proxy.wire.head import HEAD_END, MAX_HEAD_BYTES, ResponseHead, parse_head

MAX_COLLECTED_BYTES = 64 << 10  # an S3 or GCS error body has a few hundred bytes
MAX_INTERIM_HEADS = 16  # a server sends one, if any; a peer that is still waiting sends many

Accept = Callable[[ResponseHead], ByteSink | None]


@dataclass(frozen=True, slots=True)
class Response:
    """A finished exchange. `body` is what was collected if `accept` gave no sink, else empty.

    `truncated`: the collected body is incomplete, because it was too long or the connection broke.
    """

    head: ResponseHead
    body: bytes = b""
    truncated: bool = False

    @property
    def status(self) -> int:
        return self.head.status


class _Collector:
    """The sink for a body that was not wanted."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.overflowed = False

    def write(self, data: memoryview) -> None:
        room = MAX_COLLECTED_BYTES - len(self.body)
        self.overflowed = self.overflowed or len(data) > room
        self.body += data[:room]


class ResponseReader:
    """The reader of one response. Raises MalformedResponse, and whatever `accept` or the sink raises."""

    def __init__(self, accept: Accept, interim_heads_max: int | None = MAX_INTERIM_HEADS) -> None:
        self.started = False  # whether any byte has come
        self.head: ResponseHead | None = None
        self.received_bytes = 0  # body bytes that were given to the sink
        self._accept = accept
        self._raw_head = bytearray()
        self._interim_heads = 0
        self._interim_heads_max = interim_heads_max
        self._framing: Framing | None = None
        self._sink: ByteSink | None = None
        self._collector: _Collector | None = None
        self._ended = False

    @property
    def complete(self) -> bool:
        if self._framing is None:
            return False
        return self._framing.complete or (self._collector is not None and self._collector.overflowed)

    @property
    def reusable(self) -> bool:
        """Whether the connection is clean: the body ended where the framing said, and the peer keeps it open."""
        if self.head is None or self._framing is None or self._ended:
            return False
        return self._framing.complete and not self._framing.excess and self.head.keep_alive

    @property
    def collecting(self) -> bool:
        """Whether the head has come, and no sink takes its body."""
        return self._collector is not None

    def response(self) -> Response:
        """Return the response so far, complete or not; the head must have come."""
        assert self.head is not None
        if self._collector is None:
            return Response(self.head)
        truncated = self._framing is None or not self._framing.complete or self._collector.overflowed
        return Response(self.head, bytes(self._collector.body), truncated)

    def receive(self, data: memoryview) -> Awaitable[None] | None:
        """Process the next bytes; they may be overwritten once this, or what it returns, is done."""
        self.started = True
        if self._framing is None:
            data = self._receive_head(data)
            if self._framing is None:
                return None
        return self._receive_body(self._framing, data)

    def _receive_body(self, framing: Framing, data: memoryview) -> Awaitable[None] | None:
        body = framing.take(data)
        if not body:
            return None
        assert self._sink is not None
        waiting = self._sink.write(body)
        self.received_bytes += len(body)
        return waiting

    def _receive_head(self, data: memoryview) -> memoryview:
        """Gather and parse heads; return what follows them."""
        while len(data) > 0:
            searched = max(0, len(self._raw_head) - len(HEAD_END) + 1)
            before = len(self._raw_head)
            self._raw_head += data[: MAX_HEAD_BYTES - before]
            end = self._raw_head.find(HEAD_END, searched)
            if end < 0:
                if len(self._raw_head) >= MAX_HEAD_BYTES:
                    raise MalformedResponse(f"a head of more than {MAX_HEAD_BYTES} bytes")
                return data[len(data) :]
            end += len(HEAD_END)
            raw, data = bytes(self._raw_head[:end]), data[end - before :]
            self._raw_head.clear()
            if self._take_head(parse_head(raw)):
                break
        return data

    def _take_head(self, head: ResponseHead) -> bool:
        """Return whether the head is the final one; if so, set the body's framing and sink."""
        if head.interim:
            self._interim_heads += 1
            most = self._interim_heads_max
            if most is not None and self._interim_heads > most:
                raise MalformedResponse(f"more than {most} interim responses")
            return False
        self.head = head
        self._sink = self._accept(head)
        if self._sink is None:
            self._sink = self._collector = _Collector()
        self._framing = frame_body(head)
        return True

    def end(self) -> None:
        """Note that the peer has closed cleanly. Raises ConnectionBroken unless that completes the response."""
        self._ended = True
        if self._framing is not None:
            self._framing.end()
        if not self.complete:
            raise self.broken("the peer closed")

    def broken(self, reason: str) -> ConnectionBroken:
        """Return the error for a connection that breaks now."""
        if self.head is None:
            return ConnectionBroken(f"{reason} before the head of the response")
        return ConnectionBroken(
            f"{reason} after {self.received_bytes} bytes of the body", received_bytes=self.received_bytes
        )
