"""The `aws-chunked` framing of uploads, taken off as the bytes stream by.

How it works. A body is so framed when its headers say it: `Content-Encoding: aws-chunked`, or an x-amz-content-sha256
of `STREAMING-…`; never because it looks like it.

    body     = *( chunk ) "0" [ext] CRLF *( trailer CRLF ) CRLF
    chunk    = size-in-hex [ext] CRLF data CRLF          ext = ";chunk-signature=" hex
    trailer  = "x-amz-checksum-crc32:" base64  |  "x-amz-trailer-signature:" hex  |  …

1. `x-amz-decoded-content-length` is required and is the length that the origin is told. Chunks that would exceed it
   are refused before their data is looked at.
2. The last piece of data is held back until the end has come, the length agrees and every checksum that
   `x-amz-trailer` announced has been compared. On any fault it is never released: the origin, which waits for
   the announced length, gets a broken-off request and commits nothing.
3. A trailing checksum ends here: it becomes known too late for a header of the request to the origin.
   So does `x-amz-sdk-checksum-algorithm`, which without a checksum is an error at AWS.
Signatures of chunks are part of callers' rights; with `auth: none` nobody holds a key to check them with.
Source: Amazon S3 API Reference, "Signature Calculations for the Authorization Header: Transferring Payload in
Multiple Chunks", and the same "Including Trailing Headers".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from proxy.errors import InvalidRequest, NotSupported
from s3api.sums import SUMS, compare

LINE_BYTES_MAX = 4096  # a size with its signature has about 90 bytes
TRAILER_BYTES_MAX = 16 << 10
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")


@dataclass(frozen=True, slots=True)
class ChunkedForm:
    """What the headers announce: the length without framing, and the checksums that trail."""

    decoded_bytes: int
    trailers: tuple[str, ...] = ()


def parse_chunked_form(fields: Mapping[str, str]) -> ChunkedForm | None:
    """None for a body without framing. Raises InvalidRequest; NotSupported for a checksum that is not known here."""
    streaming = fields.get("x-amz-content-sha256", "").upper().startswith("STREAMING-")
    if not streaming and "aws-chunked" not in _words(fields.get("content-encoding", "")):
        return None
    decoded = fields.get("x-amz-decoded-content-length")
    if decoded is None:
        raise InvalidRequest("MissingContentLength", "You must provide the x-amz-decoded-content-length header.")
    if re.fullmatch(r"[0-9]{1,18}", decoded) is None:
        raise InvalidRequest("InvalidArgument", "x-amz-decoded-content-length is not a number.")
    trailers = tuple(_words(fields.get("x-amz-trailer", "")))
    for name in trailers:
        if name not in SUMS:
            raise NotSupported(f"The trailer {name!r} can't be verified here; use one of {', '.join(sorted(SUMS))}.")
    return ChunkedForm(int(decoded), trailers)


def without_framing(headers: tuple[tuple[str, str], ...], form: ChunkedForm) -> tuple[tuple[str, str], ...]:
    """The headers as they are without the framing; other content codings stay."""
    dropped = {"x-amz-decoded-content-length", "x-amz-trailer"}
    if form.trailers:
        dropped.add("x-amz-sdk-checksum-algorithm")
    kept = []
    for name, value in headers:
        if name == "content-encoding":
            value = ", ".join(word.strip() for word in value.split(",") if word.strip().lower() != "aws-chunked")
            if not value:
                continue
        if name not in dropped:
            kept.append((name, value))
    return tuple(kept)


async def decode_chunked(form: ChunkedForm, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data without its framing; raises InvalidRequest before the last piece where anything is wrong."""
    decoder = ChunkedDecoder(form)
    async for data in body:
        pieces = b"".join(decoder.feed(data))  # tiny chunks must not become as many writes to the origin
        if pieces:
            yield pieces
    last = decoder.finish()
    if last:
        yield last


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkedDecoder:
    """Push bytes in, take pieces out; `finish` verifies and gives the last one."""

    def __init__(self, form: ChunkedForm) -> None:
        self._form = form
        self._state = _State.SIZE
        self._line = bytearray()
        self._left = 0  # of the chunk under way
        self._decoded = 0
        self._held = b""
        self._sums = {name: SUMS[name]() for name in form.trailers}
        self._trailers: dict[str, str] = {}
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        pieces: list[bytes] = []
        position = 0
        while position < len(data):
            if self._state is _State.DATA:
                piece = data[position : position + self._left]
                position += len(piece)
                self._take(piece, pieces)
                continue
            end = data.find(b"\n", position) + 1
            self._line += data[position : end or len(data)]
            if len(self._line) > LINE_BYTES_MAX:
                raise _malformed("a line is too long")
            if not end:
                break
            position = end
            line = bytes(self._line)
            self._line.clear()
            self._end_line(line)
        return pieces

    def finish(self) -> bytes:
        """The piece that was held back (b"" of an empty body). Raises InvalidRequest."""
        if self._state is not _State.TRAILER:
            raise InvalidRequest("IncompleteBody", "The request body ended before its last chunk.")
        self._add_trailer(bytes(self._line))
        if self._decoded != self._form.decoded_bytes:
            message = f"The chunks have {self._decoded} bytes, x-amz-decoded-content-length says "
            raise InvalidRequest("IncompleteBody", f"{message}{self._form.decoded_bytes}.")
        for name, checksum in self._sums.items():
            self._compare(name, checksum.digest())
        return self._held

    def _take(self, piece: bytes, pieces: list[bytes]) -> None:
        for checksum in self._sums.values():
            checksum.update(piece)
        if self._held:
            pieces.append(self._held)
        self._held = piece
        self._decoded += len(piece)
        self._left -= len(piece)
        if self._left == 0:
            self._state = _State.DATA_END

    def _end_line(self, line: bytes) -> None:
        match self._state:
            case _State.SIZE:
                self._begin_chunk(line)
            case _State.DATA_END:
                if line != b"\r\n":
                    raise _malformed("a chunk's data has another length than announced")
                self._state = _State.SIZE
            case _:
                self._add_trailer(line)

    def _begin_chunk(self, line: bytes) -> None:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise _malformed("a chunk does not begin with its size")
        self._left = int(match[1], 16)
        if self._decoded + self._left > self._form.decoded_bytes:
            raise _malformed("its chunks are longer than x-amz-decoded-content-length")
        self._state = _State.DATA if self._left else _State.TRAILER

    def _add_trailer(self, line: bytes) -> None:
        """Blank lines are skipped, not counted: clients differ in how many they send, the body's length ends it."""
        self._trailer_bytes += len(line)
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            raise _malformed("its trailers are too long")
        text = line.decode("latin-1").strip()
        if not text:
            return
        name, colon, value = text.partition(":")
        if not colon:
            raise InvalidRequest("MalformedTrailerError", "The request's trailing data is not well-formed.")
        self._trailers[name.strip().lower()] = value.strip()

    def _compare(self, name: str, digest: bytes) -> None:
        claimed = self._trailers.get(name)
        if claimed is None:
            raise InvalidRequest("MalformedTrailerError", f"The trailer {name} was announced and did not come.")
        compare(name, claimed, digest)


def _words(header: str) -> list[str]:
    return [word.strip().lower() for word in header.split(",") if word.strip()]


def _malformed(what: str) -> InvalidRequest:
    return InvalidRequest("InvalidRequest", f"The aws-chunked body is malformed: {what}.")
