"""Are a piece's pages in memory? And reading those ahead that are not.

`sendfile` waits for the disk when a page is missing, and would stop every connection of its event loop. So each
step of a piece is probed first and, when pages are missing, read ahead in a thread.

How a probe decides (a few microseconds, against 50 for sending 512 KiB):
1. `cachestat` (Linux 6.5) counts the pages that the cache holds. Some but not all: missing. A piece of one or two
   pages skips this.
2. All: a page may be counted while the disk still fills it, so the first and the last byte are read with
   RWF_NOWAIT, which refuses to wait. Reads arrive in order, nearly always.
3. None: missing, unless the file system refuses RWF_NOWAIT altogether (EOPNOTSUPP). That is how tmpfs answers,
   which is memory, and overlayfs, whose own mapping is always empty: both count as resident.
Without `cachestat` (older kernels, seccomp profiles that forbid it) steps 2 and 3 decide alone.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading

_SYS_CACHESTAT = 451  # the same on x86_64 and aarch64
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SCRATCH_BYTES = 256 << 10


class _Local(threading.local):
    """One thread's memory for a call's arguments and results, and for bytes that nobody looks at."""

    def __init__(self) -> None:
        self.span = (ctypes.c_uint64 * 2)()  # struct cachestat_range: offset, length
        self.counts = (ctypes.c_uint64 * 5)()  # struct cachestat: cached, dirty, writeback, evicted, recently evicted
        self.span_address, self.counts_address = ctypes.byref(self.span), ctypes.byref(self.counts)
        self.byte = bytearray(1)
        self.scratch = memoryview(bytearray(_SCRATCH_BYTES))


_local = _Local()


class _Syscall:
    """`cachestat`, until the kernel says that there is none."""

    def __init__(self) -> None:
        # PyDLL keeps the interpreter's lock: giving it up and taking it back costs more than the call.
        self._function = ctypes.PyDLL(None, use_errno=True).syscall
        self.available = True

    def cached_pages(self, fd: int, offset: int, length: int) -> int | None:
        """None: it can't tell for this file."""
        if not self.available:
            return None
        local = _local
        local.span[0], local.span[1] = offset, length
        if self._function(_SYS_CACHESTAT, fd, local.span_address, local.counts_address, 0) == 0:
            return int(local.counts[0])
        if ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
            self.available = False
        return None


_syscall = _Syscall()


def is_resident(fd: int, offset: int, length: int) -> bool:
    """Whether `sendfile` of these bytes needs no disk. Inline: never waits. Raises OSError."""
    last = offset + length - 1
    pages = last // _PAGE_BYTES - offset // _PAGE_BYTES + 1
    if pages > 2:
        cached = _syscall.cached_pages(fd, offset, length)
        if cached is not None and cached < pages:
            return cached == 0 and _byte_at(fd, offset) is None
    first = _byte_at(fd, offset)
    if first is None or pages == 1:
        return first is not False
    return first and _byte_at(fd, last) is not False


def read_ahead(fd: int, offset: int, length: int, ahead_bytes: int) -> None:
    """Blocking: brings `length` bytes into memory, and starts reading `ahead_bytes` from the same offset on.

    Bytes beyond the file's end are no error here: whoever sends them will see. Raises OSError.
    """
    os.posix_fadvise(fd, offset, max(length, ahead_bytes), os.POSIX_FADV_WILLNEED)
    scratch = _local.scratch
    end = offset + length
    while offset < end:
        read_bytes = os.preadv(fd, [scratch[: end - offset]], offset)
        if read_bytes == 0:
            return
        offset += read_bytes


def _byte_at(fd: int, offset: int) -> bool | None:
    """Whether a byte can be read without waiting; None where the file system does not tell."""
    try:
        return os.preadv(fd, [_local.byte], offset, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise
