"""ChunkSender: pieces of files through a transport that transforms them, which is TLS.

How it works. The steps are those of `sendfile`. Each step is read, from memory, chunk by chunk into one buffer of the
process and written to the transport, which encrypts it at once. Nothing is read while the transport's buffer is full.
A transport may keep bytes that it could not encrypt yet (OpenSSL may first need bytes from the client). It then keeps
the buffer, and a new one replaces it. Each write is followed by a test for that: a bytearray with an exported view
can't be resized.
"""

from __future__ import annotations

import asyncio
import os

from proxy.lanes.readahead import DiskReadAhead
from proxy.lanes.sendfile import ConnectionGone, PieceSender, PieceTooShort

CHUNK_BYTES = 256 << 10


class ReusedBuffer:
    """Reused memory for one chunk."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._memory = bytearray(size_bytes)

    def lend(self, length: int) -> memoryview:
        return memoryview(self._memory)[:length]

    def take_back(self, view: memoryview) -> None:
        view.release()
        try:
            self._memory.append(0)
            self._memory.pop()
        except BufferError:  # a part of it is still in use
            self._memory = bytearray(self._size_bytes)


_buffer = ReusedBuffer(CHUNK_BYTES)


class ChunkSender(PieceSender):
    """The sender for a TLS transport, which calls `pause` and `resume` as its buffer fills and empties."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, reads: DiskReadAhead | None = None
    ) -> None:
        super().__init__(loop, reads)
        self._transport = transport
        self._soon: asyncio.Handle | None = None

    def resume(self) -> None:
        super().resume()
        if self._parked:
            self._on_writable()

    def write(self, head: bytes, body: memoryview) -> int:
        self._check_open()
        both = b"".join((head, body))
        self._transport.write(both)
        return len(both)

    def _send_head(self) -> bool:
        self._check_open()
        self._transport.write(self._head)
        self._head = b""
        return True

    def _send_step(self, fd: int, length: int) -> int:
        sent = 0
        while sent < length and not self._paused:
            self._check_open()
            chunk = _buffer.lend(min(CHUNK_BYTES, length - sent))
            try:
                read_bytes = os.preadv(fd, (chunk,), self._offset)
                if read_bytes == 0:
                    raise PieceTooShort(f"the file ends {self._left} bytes before its piece")
                self._transport.write(chunk[:read_bytes])
            finally:
                _buffer.take_back(chunk)
            self._offset += read_bytes
            self._left -= read_bytes
            sent += read_bytes
        return sent

    def _check_open(self) -> None:
        if self._transport.is_closing():
            raise ConnectionGone("the client went away")

    def _park(self) -> None:
        self._parked = True
        if not self._paused and self._soon is None:
            self._soon = self._loop.call_soon(self._on_soon)

    def _on_soon(self) -> None:
        self._soon = None
        if self._parked:
            self._on_writable()

    def _unpark(self) -> None:
        self._parked = False
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
