"""The hot lane: answers that a surface gives at once, how they are counted and logged, and small bodies in memory.

How it works. A surface provides `answer_hot(method, target, fields)`. It returns a HotAnswer, or None, and then the
application answers. It never waits, and its answer is the one that the application would have given. The protocol sends
the answer and counts it in plain integers (`Tally`). A timer updates the counters and the access log: at once after a
pause, every FLUSH_PAUSE_S under load. So a single request is visible immediately, and thousands cost next to nothing.

A body of up to SMALL_BYTES is read into one buffer per process, by a call that refuses to wait for the disk, and leaves
with its head in one write. That costs a copy, and saves a system call and a wake-up. The buffer is free again as soon
as the write has returned.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.blocks import DataFile, Piece
from proxy.metrics import Tally, flush_tallies

SMALL_BYTES = 64 << 10  # above this, sendfile without the copy is cheaper (measured)
FLUSH_PAUSE_S = 0.1
LINES_MAX = 1000  # of the access log, kept in memory
NOT_PLAIN = frozenset({b"connection", b"content-length", b"expect", b"transfer-encoding", b"upgrade"})
_BAD_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\\[\]={} \t"]')
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

Fields = Mapping[bytes, bytes]
AnswerHot = Callable[[bytes, bytes, Fields], "HotAnswer | None"]
LocalAddress = tuple[str, int | None] | None
AnswersAt = Callable[[LocalAddress], AnswerHot]
OnReadError = Callable[[DataFile, OSError], None]


class HotAnswer:
    """An answer. `head`: all header lines but the server's own, and the empty line; `length`: bytes of all `pieces`."""

    __slots__ = ("head", "length", "pieces", "status", "tally")

    def __init__(self, status: int, head: bytes, pieces: Sequence[Piece], length: int, tally: Tally) -> None:
        self.status = status
        self.head = head
        self.pieces = pieces
        self.length = length
        self.tally = tally


@dataclass(frozen=True, slots=True)
class HotLine:
    """One line of the access log. `ended_s` is Unix time."""

    method: str
    path: str
    status: int
    cache: str
    sent_bytes: int
    took_s: float
    client: str
    ended_s: float


def render_lines(headers: Sequence[tuple[str, str]]) -> bytes | None:
    """Return the header lines as sent; None if a name or value is invalid: the application's server rejects it."""
    lines = []
    for name, value in headers:
        try:
            raw_name, raw_value = name.lower().encode("latin-1"), value.encode("latin-1")
        except UnicodeEncodeError:
            return None
        if _BAD_NAME.search(raw_name) is not None or _BAD_VALUE.search(raw_value) is not None:
            return None
        lines.append(b"%b: %b\r\n" % (raw_name, raw_value))
    return b"".join(lines)


def is_plain(fields: Fields, version: Callable[[], str]) -> bool:
    """Return whether a request with a header of NOT_PLAIN is plain after all, as the header only states the default."""
    if fields.get(b"content-length", b"0") != b"0":
        return False
    if not fields.keys().isdisjoint((b"expect", b"transfer-encoding", b"upgrade")):
        return False
    return fields.get(b"connection", b"keep-alive").lower() == b"keep-alive" and version() == "1.1"


class HotLane:
    """The hot lane that all connections of a process share. `log` takes the access log's lines; None: there is no log.

    `at` selects the answering function for connections to a local address; without it, `answer` serves all of them.
    """

    def __init__(
        self,
        answer: AnswerHot,
        *,
        at: AnswersAt | None = None,
        on_read_error: OnReadError | None = None,
        log: Callable[[HotLine], None] | None = None,
    ) -> None:
        self.answer = answer
        self._at = at
        self.on_read_error = on_read_error
        self.logs = log is not None
        self.armed = False
        self._log = log
        self._lines: list[HotLine] = []
        self._buffer = memoryview(bytearray(SMALL_BYTES))
        self._flushed_s = float("-inf")

    def at(self, server: LocalAddress) -> AnswerHot:
        """Return the answering function for connections to that address."""
        return self.answer if self._at is None else self._at(server)

    def read_small(self, piece: Piece) -> memoryview | None:
        """Read a piece of up to SMALL_BYTES, valid until the next call; None if it would block or can't be read."""
        view = self._buffer[: piece.length]
        try:
            if os.preadv(piece.file.fd, (view,), piece.offset, os.RWF_NOWAIT) == piece.length:
                return view
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # tmpfs and overlayfs: memory, see `residency`
                return view if _read(piece, view) else None
        return None

    def arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule a flush, after the first answer since the last one."""
        self.armed = True
        wait_s = self._flushed_s + FLUSH_PAUSE_S - loop.time()
        if wait_s > 0:
            loop.call_later(wait_s, self._flush_timed, loop)
        else:
            loop.call_soon(self._flush_timed, loop)

    def note(self, line: HotLine) -> None:
        self._lines.append(line)
        if len(self._lines) >= LINES_MAX:
            self.flush()

    def flush(self) -> None:
        """Bring the counters and the log up to date."""
        flush_tallies()
        if self._log is not None:
            lines, self._lines = self._lines, []
            for line in lines:
                self._log(line)

    def _flush_timed(self, loop: asyncio.AbstractEventLoop) -> None:
        self.armed = False
        self._flushed_s = loop.time()
        self.flush()


def _read(piece: Piece, view: memoryview) -> bool:
    try:
        return os.preadv(piece.file.fd, (view,), piece.offset) == piece.length
    except OSError:
        return False
