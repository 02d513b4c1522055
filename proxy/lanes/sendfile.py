"""Senders of file pieces on a connection, which never block: their common steps, and FileSender, which copies nothing.

How it works. asyncio and uvloop own a transport's descriptor and refuse `add_writer` on it, but accept a `dup`. The
sender makes one per connection. It uses the socket only through it, and only while the transport has nothing left to
write (which its owner ensures). A piece advances in steps of at most 512 KiB:
1. If pages are not in memory, a thread reads them, and the sender continues when it is done. Meanwhile the disk is
   asked for what comes next, by the rules of `readahead`.
2. `os.sendfile` runs until the step is sent. If the socket is full, a writer callback on the dup continues later. The
   same happens when the burst is used up, so that one fast client does not hold the event loop.
3. If `sendfile` returns 0, the file is shorter than its piece. Nothing can repair that response.
A hot answer's head leaves first, in the same packet as the body's first bytes (MSG_MORE), and its pieces follow one
after the other. The core is made of callbacks, so that what leaves at once needs neither task nor future.

The dup must be closed before the transport or together with it, because no FIN leaves while it is open. Its writer
callback must be removed before that, because a closed descriptor's number may be reused by another connection.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial

from proxy.blocks import Piece
from proxy.lanes.readahead import DiskReadAhead, HasFileno, ReadAheadWindow
from proxy.lanes.residency import ask, is_resident, read_ahead

STEP_BYTES = 512 << 10  # each takes one probe and at most one thread hop
BURST_BYTES = 4 << 20  # sent in one go, about a millisecond
GONE = frozenset(
    {errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.ESHUTDOWN, errno.ETIMEDOUT}
    | {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
)

assert STEP_BYTES <= BURST_BYTES


class ConnectionGone(ConnectionError):
    """The connection was ended, by either side, before all bytes had left."""


class PieceTooShort(Exception):
    """The file ends inside the piece."""


class PieceSender(ABC):
    """The sender of one connection, for one piece or answer at a time. Not thread-safe: for its event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reads: DiskReadAhead | None = None) -> None:
        """`reads` is shared by the process; None: the sender has its own."""
        self._loop = loop
        self._reads = reads if reads is not None else DiskReadAhead()
        self._ahead: ReadAheadWindow | None = None  # set while pages of the file are known to be missing
        self.failed: HasFileno | None = None  # the file of the piece that failed last, until the connection closes
        self._closed = False
        self._paused = False  # by the transport
        self._parked = False
        self._head = b""  # what is left of an answer's head
        self._file: HasFileno | None = None  # set while a piece is under way; keeps the descriptor open
        self._begun_at = 0
        self._offset = 0
        self._left = 0
        self._at_one_go = 0  # bytes of whole pieces sent since the loop last had its turn
        self._later: list[Piece] = []  # in reverse order
        self._probed_end = 0  # pages before it are in memory, or a read was tried
        self._reading: asyncio.Future[None] | None = None
        self._done: Callable[[BaseException | None], None] | None = None

    @property
    def busy(self) -> bool:
        return self._file is not None

    async def send(self, file: HasFileno, offset: int, count: int) -> None:
        """Send a piece. Raises ConnectionGone, PieceTooShort, the disk's OSError. After a failure, close the
        connection."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        try:
            if not self.start(file, offset, count, partial(_settle, waiter)):
                self._at_one_go = 0
                await waiter
            elif self._at_one_go + count < BURST_BYTES:
                self._at_one_go += count
            else:  # to other connections, many small pieces are like one large one
                self._at_one_go = 0
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._stop()
            raise
        finally:
            del waiter  # otherwise an error, its traceback, this frame and the future keep each other, and the file

    def start(self, file: HasFileno, offset: int, count: int, done: Callable[[BaseException | None], None]) -> bool:
        """Start a piece. Return True if all has left; else `done` gets None or the error. Raises as `send` does."""
        assert not self.busy, "one piece at a time"
        if self._closed:
            raise ConnectionGone("the connection is closed")
        self._take(file, offset, count)
        self._done = done
        try:
            finished = self._advance()
        except BaseException:
            self._stop()
            raise
        if finished:
            self._stop()
        return finished

    def start_answer(self, head: bytes, pieces: Sequence[Piece], done: Callable[[BaseException | None], None]) -> bool:
        """Start an answer, a head and at least one piece, like `start`."""
        first, *later = pieces
        self._head, self._later = head, later[::-1]
        return self.start(first.file, first.offset, first.length, done)

    @abstractmethod
    def write(self, head: bytes, body: memoryview) -> int:
        """Write at once; return how many bytes of both left (0: no room). `body` is free again. Raises
        ConnectionGone."""

    def pause(self) -> None:
        """Pause, as the transport's buffer is full."""
        self._paused = True

    def resume(self) -> None:
        """Resume, as the transport's buffer has room again."""
        self._paused = False

    def close(self) -> None:
        """Fail the piece under way with ClientGone. Idempotent."""
        self._closed = True
        if self.busy:
            self._finish(ConnectionGone("the client went away"))
        self.failed = None

    def _advance(self) -> bool:
        """Send on. Return True if all has left; else it continues by itself when the socket or the disk is ready."""
        if self._head and not self._send_head():
            self._park()
            return False
        burst = BURST_BYTES
        while True:
            file = self._file
            assert file is not None
            fd = file.fileno()
            while self._left:
                step = min(self._left, STEP_BYTES)
                if self._offset >= self._probed_end:
                    self._probed_end = self._offset + step
                    if not is_resident(fd, self._offset, step):
                        self._read_ahead(file, step)
                        return False
                    if self._ahead is not None:
                        self._ask(self._ahead, file)
                step = min(step, self._probed_end - self._offset)
                sent = self._send_step(fd, step)
                burst -= sent
                if self._left and (sent < step or burst <= 0):
                    self._park()
                    return False
            if not self._later:
                return True
            self._take(*self._later.pop())

    def _take(self, file: HasFileno, offset: int, count: int) -> None:
        """Begin a piece."""
        self._file, self._offset, self._left, self._probed_end = file, offset, count, 0
        self._begun_at = offset
        if self._ahead is not None:
            self._ahead.leave()
        self._ahead = self._reads.follow(file, offset, offset + count)

    @abstractmethod
    def _send_head(self) -> bool:
        """Send the head; return whether all of it has left."""

    @abstractmethod
    def _send_step(self, fd: int, length: int) -> int:
        """Send a step; return how many bytes there was room for. Raises ConnectionGone, PieceTooShort, OSError."""

    @abstractmethod
    def _park(self) -> None:
        """Make sure that `_on_writable` is called when there is room."""

    @abstractmethod
    def _unpark(self) -> None:
        """Cancel that call. Idempotent."""

    def _read_ahead(self, file: HasFileno, step: int) -> None:
        self._unpark()
        if self._ahead is None:
            self._ahead = self._reads.begin(file, self._begun_at, self._offset + self._left)
        self._ahead.found(False)
        wanted = self._ahead.next(self._offset)
        ahead_bytes = wanted.stop - self._offset if wanted is not None else 0
        reading = self._loop.run_in_executor(None, _read_held, file, self._offset, step, ahead_bytes)
        self._reading = reading
        reading.add_done_callback(self._on_read)

    def _ask(self, ahead: ReadAheadWindow, file: HasFileno) -> None:
        """Ask the disk for what is due, without waiting."""
        wanted = ahead.next(self._offset)
        if wanted is not None:
            asking = self._loop.run_in_executor(None, _ask_held, file, wanted.start, len(wanted))
            asking.add_done_callback(partial(_note_asked, ahead))

    def _on_read(self, reading: asyncio.Future[None]) -> None:
        error = None if reading.cancelled() else reading.exception()
        if reading is not self._reading:
            return  # the piece has ended meanwhile
        self._reading = None
        if error is not None:
            self._finish(error)
        else:
            self._go_on()

    def _on_writable(self) -> None:
        self._probed_end = 0  # with a slow client, the pages may have left memory while parked
        self._go_on()

    def _go_on(self) -> None:
        assert self._file is not None
        try:
            finished = self._advance()
        except BaseException as error:
            self._finish(error)
        else:
            if finished:
                self._finish(None)

    def _finish(self, error: BaseException | None) -> None:
        done = self._done
        if error is not None:
            self.failed = self._file
        self._stop()
        assert done is not None
        done(error)

    def _stop(self) -> None:
        """Drop everything that is under way."""
        self._unpark()
        self._file = self._done = self._reading = None
        if self._ahead is not None:
            self._ahead.leave()
            self._ahead = None
        if self._later or self._head:
            self._later, self._head = [], b""


class FileSender(PieceSender):
    """The sender for a plain socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket_fd: int, reads: DiskReadAhead | None = None) -> None:
        """Raises OSError if there is no descriptor left for the dup."""
        super().__init__(loop, reads)
        self._owner = socket.socket(fileno=os.dup(socket_fd))
        self._socket = self._owner.fileno()

    def write(self, head: bytes, body: memoryview) -> int:
        try:
            return os.writev(self._socket, (head, body))
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionGone(f"the client went away: {error.strerror}") from error

    def close(self) -> None:
        super().close()
        self._owner.close()
        self._socket = -1

    def _send_head(self) -> bool:
        try:  # the kernel holds it for the body that follows at once, for at most 200 ms
            sent = self._owner.send(self._head, socket.MSG_MORE)
        except BlockingIOError:
            return False
        except OSError as error:
            raise ConnectionGone(f"the client went away: {error.strerror}") from error
        self._head = self._head[sent:]
        return not self._head

    def _send_step(self, fd: int, length: int) -> int:
        try:
            sent = os.sendfile(self._socket, fd, self._offset, length)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in GONE:
                raise ConnectionGone(f"the client went away: {error.strerror}") from error
            raise
        if sent == 0:
            raise PieceTooShort(f"the file ends {self._left} bytes before its piece")
        self._offset += sent
        self._left -= sent
        return sent

    def _park(self) -> None:
        if not self._parked:
            self._parked = True
            self._loop.add_writer(self._socket, self._on_writable)

    def _unpark(self) -> None:
        if self._parked:
            self._parked = False
            self._loop.remove_writer(self._socket)


def _settle(waiter: asyncio.Future[None], error: BaseException | None) -> None:
    if waiter.cancelled():
        return
    if error is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(error)


def _read_held(file: HasFileno, offset: int, step: int, ahead_bytes: int) -> None:
    """Read in a thread; holding `file` keeps its descriptor open even if the piece ends meanwhile."""
    read_ahead(file.fileno(), offset, step, ahead_bytes)


def _ask_held(file: HasFileno, offset: int, length: int) -> bool:
    return ask(file.fileno(), offset, length)


def _note_asked(ahead: ReadAheadWindow, asking: asyncio.Future[bool]) -> None:
    """Note the result. Errors are ignored: a failing disk is found out when the bytes are needed."""
    if not asking.cancelled() and asking.exception() is None:
        ahead.found(asking.result())
