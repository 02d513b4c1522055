"""Read-ahead: how far ahead of its readers a disk is asked to read. Pure: positions in, spans to ask for out.

How it works. The kernel's own read-ahead works per file descriptor, which all connections share here, and guesses. It
reads too little for a single sequential reader, and needless bytes for random ones. So it is switched off
(`residency`), and the disk is asked for exactly what this module decides:

1. A piece with missing pages begins a `ReadAheadWindow`. All of its bytes will be sent, so it asks for them a window
   ahead of the reader, half a window at a time: the disk's queue never runs empty while the client is served.
2. Pieces that begin where an earlier one ended form a stream: one client that requests range after range, or several
   connections that share the ranges. From its third piece on, the last piece of a stream also asks beyond its own end:
   as many bytes as the stream has read, at most a window. So the next range is already on its way when it is requested.
   Any other piece never asks for a byte beyond its end, so random readers cost the disk only what they read.
3. A file is watched until two requests in a row find everything in memory. For a file that is all in memory no state is
   kept, and its pieces cost one look-up.

Many readers at once get smaller windows, which add up to a queue that a small read has to wait behind.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

WINDOW_BYTES = 8 << 20
WINDOW_BYTES_MIN = 1 << 20
FULL_WINDOWS = 4  # so many readers get a whole window each; more readers share the same total
PIECES_MIN = 3  # of a stream, before it is trusted: two may meet by chance
STREAMS_MAX = 16  # of one file; the least recently continued ones are dropped
FILES_MAX = 256
RESIDENT_ASKS = 2


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class _Stream:
    """Consecutive pieces of a file. `end` is that of the last one; the disk was asked for bytes up to `asked_end`."""

    __slots__ = ("asked_end", "end", "length", "pieces")

    def __init__(self, start: int) -> None:
        self.end = self.asked_end = start
        self.length = 0
        self.pieces = 0

    def beyond(self, window: int) -> int:
        """Return how many bytes beyond its end it will probably want."""
        return min(window, self.length) if self.pieces >= PIECES_MIN else 0


class _FileStreams:
    """The streams of one file, the most recently continued one last."""

    __slots__ = ("file", "number", "resident", "streams")

    def __init__(self, file: HasFileno) -> None:
        self.number = file.fileno()
        self.file = id(file)  # distinguishes it from a later file with the same descriptor number
        self.streams: list[_Stream] = []
        self.resident = 0  # requests in a row that found everything in memory

    def stream_of(self, start: int, end: int) -> _Stream:
        """Return the stream that a piece continues, or a new one."""
        for stream in reversed(self.streams):
            if start == stream.end or stream.end < start <= stream.asked_end:
                self.streams.remove(stream)
                break
        else:
            stream = _Stream(start)
        self.streams.append(stream)
        if len(self.streams) > STREAMS_MAX:
            del self.streams[0]
        stream.pieces += 1
        stream.length += end - start
        stream.end = end
        stream.asked_end = max(stream.asked_end, start)
        return stream


class ReadAheadWindow:
    """The read-ahead of one piece under way. Call `leave` when the piece has ended."""

    __slots__ = ("_asked_end", "_end", "_file_streams", "_reads", "_stream")

    def __init__(self, reads: DiskReadAhead, file_streams: _FileStreams, start: int, end: int) -> None:
        self._reads = reads
        self._file_streams = file_streams
        self._stream = file_streams.stream_of(start, end)
        self._asked_end = min(self._stream.asked_end, end)
        self._end = end

    def next(self, offset: int) -> range | None:
        """Return the span to ask for when the reader is at `offset`; None: nothing, or not yet."""
        window = self._reads.window_bytes
        stream, limit = self._stream, self._end
        start = max(self._asked_end, offset)
        if stream.end == self._end:  # its last piece so far
            limit += stream.beyond(window)
            if start >= self._end:
                start = max(start, stream.asked_end)
        end = min(offset + window, limit)
        if end <= start or (end < limit and end - start < window // 2):
            return None
        self._asked_end = end
        stream.asked_end = max(stream.asked_end, end)
        return range(start, end)

    def found(self, resident: bool) -> None:
        """Note whether everything that was asked for was already in memory."""
        self._file_streams.resident = self._file_streams.resident + 1 if resident else 0
        if self._file_streams.resident >= RESIDENT_ASKS:
            self._reads.forget(self._file_streams)

    def leave(self) -> None:
        self._reads.leave()


class DiskReadAhead:
    """The read-ahead of one process, for all its readers. `window_bytes` 0 disables it."""

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self._window_bytes = window_bytes
        self._files: OrderedDict[int, _FileStreams] = OrderedDict()
        self._readers = 0

    @property
    def window_bytes(self) -> int:
        """The current window of one reader."""
        if self._readers <= FULL_WINDOWS:
            return self._window_bytes
        share = FULL_WINDOWS * self._window_bytes // self._readers // WINDOW_BYTES_MIN * WINDOW_BYTES_MIN
        return min(self._window_bytes, max(WINDOW_BYTES_MIN, share))

    def begin(self, file: HasFileno, start: int, end: int) -> ReadAheadWindow:
        """Begin a piece with missing pages."""
        file_streams = self._known(file)
        if file_streams is None:
            file_streams = _FileStreams(file)
            self._files[file_streams.number] = file_streams
            if len(self._files) > FILES_MAX:
                self._files.popitem(last=False)
        file_streams.resident = 0
        return self._join(file_streams, start, end)

    def follow(self, file: HasFileno, start: int, end: int) -> ReadAheadWindow | None:
        """Begin any other piece; None if its file is not known to have missing pages. Usually costs one look-up."""
        if not self._files:
            return None
        file_streams = self._known(file)
        return None if file_streams is None else self._join(file_streams, start, end)

    def forget(self, file_streams: _FileStreams) -> None:
        """Stop watching a file, as it is in memory."""
        if self._files.get(file_streams.number) is file_streams:
            del self._files[file_streams.number]

    def leave(self) -> None:
        self._readers -= 1
        assert self._readers >= 0

    def _known(self, file: HasFileno) -> _FileStreams | None:
        file_streams = self._files.get(file.fileno())
        return file_streams if file_streams is not None and file_streams.file == id(file) else None

    def _join(self, file_streams: _FileStreams, start: int, end: int) -> ReadAheadWindow:
        self._files.move_to_end(file_streams.number)
        self._readers += 1
        return ReadAheadWindow(self, file_streams, start, end)
