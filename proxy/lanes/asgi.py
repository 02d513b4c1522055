"""PiecesResponse: an answer whose body is pieces of files, for any ASGI server.

How it works. The body yields pieces (ranges of files) and bytes, in order. Before it yields, it may wait for a fill
that is still under way. Pieces leave by the ASGI extension `http.response.zerocopysend` if the server has it
(`lanes.express`); otherwise they are read in a thread and leave as body chunks (TLS, other servers). The declared
length is enforced in both directions: no byte too many is ever sent, and a body that fails or ends early raises out of
the application. Servers then close the connection before the declared length, so no client takes a broken body for
a complete one. Once `content_length` bytes were taken, the body is closed without being run to its end.

When a client goes away, the read behind its response must end. `send` reports that only while bytes leave. So while
the body (or a thread) makes the response wait, a listener waits for `http.disconnect` and interrupts:
1. Before each wait a callback is scheduled, and afterwards it is cancelled. So an answer that does not go through the
   event loop, as no hit does, costs one handle and no task.
2. If the callback runs, it starts the response's only listener task.
3. On a disconnect the listener cancels the response's task, as `asyncio.timeout` does, and the response takes that
   cancellation back (`uncancel`) and ends quietly. Both happen in one thread, and the listener is disarmed before the
   response leaves the guarded block, so a late disconnect never hits what runs afterwards.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from functools import cache
from types import TracebackType
from typing import Any

from prometheus_client import Counter

from proxy.blocks import DataFile, Piece
from proxy.metrics import SENT_BYTES

CHUNK_BYTES = 256 << 10  # one thread hop each; larger ones save little, and each response in flight holds one
ZEROCOPY = "http.response.zerocopysend"
INTERIM = "warmstart.interim"  # an extension, and its message, which has no fields
_BODILESS = frozenset({204, 304})

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Body = AsyncIterator[Piece | bytes]
OnReadError = Callable[[DataFile, OSError], None]


class BodyLengthWrong(Exception):
    """The body does not have the declared length, or a file ends inside its piece."""


class PiecesResponse:
    """One response; an ASGI application that answers once.

    `headers` are sent in their order, as latin-1. `Content-Length` comes from `content_length` unless `headers` has it.
    None means that the length is unknown: HTTP/1.1's chunked coding ends the body. `body` is None if none is sent
    (HEAD, 304); `content_length` is then only the header's value. A body given to a HEAD request is only closed.
    The request's own body must have been received before, as the listener drops what is left of it.
    `memory_source` is the metrics' label for `bytes` in the body ("memory", or "forward" for what passes through),
    `file_source` the one for pieces ("peer" for what goes to other nodes).
    `on_read_error` is called with a piece's file that could not be read, before the response breaks off.
    """

    def __init__(
        self,
        status: int,
        headers: Sequence[tuple[str, str]],
        body: Body | None = None,
        content_length: int | None = None,
        *,
        memory_source: str = "memory",
        file_source: str = "disk",
        on_read_error: OnReadError | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.content_length = content_length
        self.memory_source = memory_source
        self.file_source = file_source
        self.on_read_error = on_read_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises what the body raises, and BodyLengthWrong. Ends quietly if the client goes away."""
        body = self.body
        send = _telling(send)
        guard = DisconnectGuard(receive)
        try:
            with guard:
                await send(self._start())
                if body is None or scope["method"] == "HEAD" or self.content_length == 0:
                    await send({"type": "http.response.body", "body": b""})
                else:
                    await self._send_body(body, guard, _sender(scope, guard, send, self.file_source), send)
        finally:
            await guard.aclose()
            if (aclose := getattr(body, "aclose", None)) is not None:
                await aclose()

    def _start(self) -> Message:
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]
        if (
            self.content_length is not None
            and self.status not in _BODILESS
            and not any(name == b"content-length" for name, _ in raw)
        ):
            raw.append((b"content-length", b"%d" % self.content_length))
        return {"type": "http.response.start", "status": self.status, "headers": raw}

    async def _send_body(self, body: Body, guard: DisconnectGuard, send_piece: _SendPiece, send: Send) -> None:
        left = self.content_length
        while left is None or left > 0:
            try:
                with guard.waiting():
                    item = await anext(body)
            except StopAsyncIteration:
                break
            length = len(item) if isinstance(item, bytes) else item.length
            if length == 0:
                continue
            if left is not None:
                left -= length
                if left < 0:
                    raise BodyLengthWrong(f"the body is {-left} bytes longer than the {self.content_length} declared")
            more_body = left != 0
            if isinstance(item, bytes):
                await send({"type": "http.response.body", "body": item, "more_body": more_body})
                _sent(self.memory_source).inc(length)
            else:
                try:
                    await send_piece(item, more_body)
                except OSError as error:  # the disk's: a client that has gone raises _ClientGone
                    if self.on_read_error is not None:
                        self.on_read_error(item.file, error)
                    raise
        if left is None:
            await send({"type": "http.response.body", "body": b""})
        elif left > 0:
            raise BodyLengthWrong(f"the body is {left} bytes shorter than the {self.content_length} declared")


_SendPiece = Callable[[Piece, bool], Awaitable[None]]


class _ClientGone(Exception):
    """`send` failed because the client has gone; distinct from a ConnectionError of the body."""


def _telling(send: Send) -> Send:
    async def send_or_gone(message: Message) -> None:
        try:
            await send(message)
        except ConnectionError as error:
            raise _ClientGone from error

    return send_or_gone


def _sender(scope: Scope, guard: DisconnectGuard, send: Send, source: str) -> _SendPiece:
    """Return the function that sends a piece on this server."""

    async def send_zerocopy(piece: Piece, more_body: bool) -> None:
        await send(
            {
                "type": ZEROCOPY,
                "file": piece.file,
                "offset": piece.offset,
                "count": piece.length,
                "more_body": more_body,
            }
        )
        _sent(source).inc(piece.length)

    async def send_chunks(piece: Piece, more_body: bool) -> None:
        loop = asyncio.get_running_loop()
        offset, end = piece.offset, piece.offset + piece.length
        while offset < end:
            with guard.waiting():
                chunk = await loop.run_in_executor(None, _read_exactly, piece, offset, min(CHUNK_BYTES, end - offset))
            offset += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": more_body or offset < end})
            _sent(source).inc(len(chunk))

    return send_zerocopy if ZEROCOPY in (scope.get("extensions") or {}) else send_chunks


def _read_exactly(piece: Piece, offset: int, length: int) -> bytes:
    """Read bytes, blocking. Keeps the piece, and so the descriptor, even if nobody waits for the result any more."""
    data = os.pread(piece.file.fd, length, offset)
    if len(data) < length:
        data += os.pread(piece.file.fd, length - len(data), offset + len(data))
    if len(data) < length:
        raise BodyLengthWrong(f"the file ends {length - len(data)} bytes before its piece")
    return data


@cache
def _sent(source: str) -> Counter:
    return SENT_BYTES.labels(source)


class DisconnectGuard:
    """A guard that quietly ends its block when the client has gone; see the module's docstring."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._gone = False

    def __enter__(self) -> DisconnectGuard:
        self._task = asyncio.current_task()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if self._listener is not None:
            self._listener.cancel()
        if self._gone:
            assert task is not None
            if task.uncancel() == 0 and kind is asyncio.CancelledError:
                return True
        return kind is _ClientGone

    async def aclose(self) -> None:
        """Wait for the end of the listener, whatever its outcome."""
        if self._listener is not None:
            await asyncio.wait([self._listener])

    def waiting(self) -> _Waiting:
        """Return a context manager that guards one await of the block."""
        return _Waiting(self)

    def listen(self) -> None:
        if self._listener is None:
            self._listener = self._loop.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._gone = True
            self._task.cancel()


class _Waiting:
    __slots__ = ("_guard", "_handle")

    def __init__(self, guard: DisconnectGuard) -> None:
        self._guard = guard

    def __enter__(self) -> None:
        self._handle = self._guard._loop.call_soon(self._guard.listen)

    def __exit__(self, *_: object) -> None:
        self._handle.cancel()
