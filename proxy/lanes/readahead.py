"""How far ahead of its readers a disk is asked to read. Pure: where readers are goes in, spans to ask for come out.

How it works. The kernel's own read-ahead goes by one file descriptor, which all connections share here, and guesses:
it gives a single sequential reader too little, and random ones what nobody asked for. So it is switched off
(`residency`), and the disk is asked for what is said here, and for nothing else:

1. A piece of which pages are missing begins a `Reach`. Its bytes will all be sent, so it asks for them a window ahead
   of where the reader is, half a window at a time: the disk's queue never runs empty while the client is served.
2. Pieces that begin where an earlier one ended are a `Stream`: one client that asks for range after range, or several
   connections that share them out. From its third piece on, the last piece of a stream asks beyond its own end as
   well, as far as the stream has come, a window at most: what is wanted next is on its way when it is asked for.
   Any other piece never asks for a byte beyond its end, so random readers cost the disk what they read.
3. A file is watched like that until its asks find everything in memory, twice in a row. Of files that are all in
   memory nothing is known here, and their pieces pay one look-up.

Many readers at once get smaller windows: theirs add up to a queue that a small read has to wait behind.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

WINDOW_BYTES = 8 << 20
WINDOW_BYTES_MIN = 1 << 20
FULL_WINDOWS = 4  # so many readers get a whole one; what more readers get adds up to the same
PIECES_MIN = 3  # of a stream, before it is believed: two may meet by chance
STREAMS_MAX = 16  # of one file; those least lately gone on are forgotten
FILES_MAX = 256
RESIDENT_ASKS = 2


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class _Stream:
    """`end` of its last piece; `asked_end`: how far the disk was asked for it."""

    __slots__ = ("asked_end", "end", "length", "pieces")

    def __init__(self, start: int) -> None:
        self.end = self.asked_end = start
        self.length = 0
        self.pieces = 0

    def beyond(self, window: int) -> int:
        """How many bytes behind its end it will want, as far as that can be believed."""
        return min(window, self.length) if self.pieces >= PIECES_MIN else 0


class _Course:
    """What is known of one file: its streams, the one that went on last at the end."""

    __slots__ = ("file", "number", "resident", "streams")

    def __init__(self, file: HasFileno) -> None:
        self.number = file.fileno()
        self.file = id(file)  # tells it from a file that got the descriptor's number later
        self.streams: list[_Stream] = []
        self.resident = 0  # asks in a row that found all in memory

    def stream_of(self, start: int, end: int) -> _Stream:
        """The stream that a piece continues, or a new one."""
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


class Reach:
    """One piece under way. `leave` it when it has ended."""

    __slots__ = ("_asked_end", "_course", "_end", "_reads", "_stream")

    def __init__(self, reads: ReadAhead, course: _Course, start: int, end: int) -> None:
        self._reads = reads
        self._course = course
        self._stream = course.stream_of(start, end)
        self._asked_end = min(self._stream.asked_end, end)
        self._end = end

    def next(self, offset: int) -> range | None:
        """What the disk is to be asked for now that the reader is at `offset`; None: nothing, or not yet."""
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
        """Whether what was asked for was in memory already, all of it."""
        self._course.resident = self._course.resident + 1 if resident else 0
        if self._course.resident >= RESIDENT_ASKS:
            self._reads.forget(self._course)

    def leave(self) -> None:
        self._reads.leave()


class ReadAhead:
    """Of one process, for all its readers. `window_bytes` 0: nothing is asked for ahead."""

    def __init__(self, window_bytes: int = WINDOW_BYTES) -> None:
        self._window_bytes = window_bytes
        self._courses: OrderedDict[int, _Course] = OrderedDict()
        self._readers = 0

    @property
    def window_bytes(self) -> int:
        """One reader's share of now."""
        if self._readers <= FULL_WINDOWS:
            return self._window_bytes
        share = FULL_WINDOWS * self._window_bytes // self._readers // WINDOW_BYTES_MIN * WINDOW_BYTES_MIN
        return min(self._window_bytes, max(WINDOW_BYTES_MIN, share))

    def begin(self, file: HasFileno, start: int, end: int) -> Reach:
        """A piece of which pages are missing."""
        course = self._known(file)
        if course is None:
            course = _Course(file)
            self._courses[course.number] = course
            if len(self._courses) > FILES_MAX:
                self._courses.popitem(last=False)
        course.resident = 0
        return self._join(course, start, end)

    def follow(self, file: HasFileno, start: int, end: int) -> Reach | None:
        """Any other piece; None: nothing is known to be missing from its file. One look-up, as a rule."""
        if not self._courses:
            return None
        course = self._known(file)
        return None if course is None else self._join(course, start, end)

    def forget(self, course: _Course) -> None:
        """The file is in memory."""
        if self._courses.get(course.number) is course:
            del self._courses[course.number]

    def leave(self) -> None:
        self._readers -= 1
        assert self._readers >= 0

    def _known(self, file: HasFileno) -> _Course | None:
        course = self._courses.get(file.fileno())
        return course if course is not None and course.file == id(file) else None

    def _join(self, course: _Course, start: int, end: int) -> Reach:
        self._courses.move_to_end(course.number)
        self._readers += 1
        return Reach(self, course, start, end)
