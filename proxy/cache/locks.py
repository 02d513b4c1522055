"""Byte-range locks that die with their owner: Linux open file description (OFD) locks.

How it works. Byte i of a map's lock range stands for block i; its holder fills that block. One more byte, far behind,
is held while the segment is being retired. An evictor takes the whole range, so any fill under way prevents it.

- A lock belongs to the open file description, not to the process. It goes when the last descriptor of that
  description is closed, even after kill -9, and two descriptions of one process exclude each other. A description
  does not exclude itself: its users keep a set of the locks that they hold.
- Python's mmap duplicates its descriptor, and a fork copies all of them: either would let a lock outlive its owner.
  So a lock's descriptor is opened for locking alone, close-on-exec, and never mapped.
- Plain POSIX locks (`lockf`) won't do: closing any descriptor of the file would drop them all.

Source: fcntl(2), "Open file description locks". A call costs about a microsecond; none of them waits.
"""

from __future__ import annotations

import fcntl
import os
import struct

RETIRE_BYTE = 1 << 62  # no segment has that many blocks
TO_THE_END = 0  # as a length: all bytes from the start on, RETIRE_BYTE included

_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid, padded


def open_for_locking(path: str | os.PathLike[str]) -> int:
    """Open a file with a file description of its own, writable, as write locks require. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)


def try_lock(fd: int, start: int, length: int = 1) -> bool:
    """Lock bytes [start, start + length) exclusively. Return False if another description holds some of them."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: both mean "held", fcntl(2)
        return False
    return True


def share(fd: int) -> None:
    """Share the whole file's lock, so that nobody takes it exclusively meanwhile. Raises OSError (ENOLCK ...)."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, TO_THE_END, 0))


def unlock(fd: int, start: int, length: int = 1) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_UNLCK, os.SEEK_SET, start, length, 0))


def is_held(fd: int, start: int, length: int = 1) -> bool:
    """Return whether another description holds some of these bytes now. The answer may be outdated at once."""
    query = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query)
    return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
