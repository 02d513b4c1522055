"""Body framing: by length, by chunks, or until the peer closes (RFC 9112 section 6.3).

A framing takes received bytes and returns those that belong to the body. It is `complete` when the body is. `excess`
says that more bytes came than belong to the body, so that the connection must not be used again.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from proxy.wire.errors import MalformedResponse
from proxy.wire.head import ResponseHead

MAX_CHUNK_OVERHEAD_BYTES = 64 << 10  # of chunk extensions or trailers in a row; they are ignored


class Framing(Protocol):
    complete: bool
    excess: bool

    def take(self, data: memoryview) -> memoryview:
        """Return the body's part of `data`, in order. Raises MalformedResponse if the framing is broken."""
        ...

    def end(self) -> None:
        """Note that the peer has closed: nothing more comes."""
        ...


class LengthFraming:
    """Framing by Content-Length, which only counts bytes: one comparison and one subtraction per receive."""

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.complete = length == 0
        self.excess = False

    def take(self, data: memoryview) -> memoryview:
        if len(data) > self.remaining:
            self.excess = True
            data = data[: self.remaining]
        self.remaining -= len(data)
        self.complete = self.remaining == 0
        return data

    def end(self) -> None:
        pass


class ChunkedFraming:
    """Framing by chunks, parsed by httptools. The chunks of one receive are joined, so the sink gets one write.

    The parser belongs to this object and is first fed a made-up head that announces chunks. It has no callback for
    trailers, so they are checked and dropped.
    """

    _HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"

    def __init__(self) -> None:
        self.complete = False
        self.excess = False
        self._pieces: list[bytes] = []
        self._overhead_bytes = 0
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(self._HEAD)

    def take(self, data: memoryview) -> memoryview:
        if self.complete:
            self.excess = self.excess or len(data) > 0
            return data[:0]
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise MalformedResponse(f"broken chunks: {error}") from error
            self.excess = True  # the body is whole; what follows it is not a response
        pieces, self._pieces = self._pieces, []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._limit_overhead(len(data), len(body))
        return memoryview(body)

    def _limit_overhead(self, data_bytes: int, body_bytes: int) -> None:
        self._overhead_bytes = 0 if body_bytes else self._overhead_bytes + data_bytes
        if self._overhead_bytes > MAX_CHUNK_OVERHEAD_BYTES:
            raise MalformedResponse("endless chunk extensions or trailers")

    def end(self) -> None:
        pass

    def on_message_begin(self) -> None:
        self.excess = self.excess or self.complete

    def on_body(self, data: bytes) -> None:
        if not self.complete:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        self.complete = True


class UntilCloseFraming:
    """Framing by close: all bytes are body. Only a reset distinguishes a peer that broke off from one that is done."""

    def __init__(self) -> None:
        self.complete = False
        self.excess = False

    def take(self, data: memoryview) -> memoryview:
        return data

    def end(self) -> None:
        self.complete = True


def frame_body(head: ResponseHead) -> Framing:
    """Return the framing that the head announces."""
    if head.content_length is not None:
        return LengthFraming(head.content_length)
    return ChunkedFraming() if head.chunked else UntilCloseFraming()
