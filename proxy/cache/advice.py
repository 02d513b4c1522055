"""What the kernel is told of a data file ahead of time. Hints: none of them fails, and bytes are right without them."""

from __future__ import annotations

import ctypes

from proxy.blocks import DataFile

_KEEP_SIZE = 1  # a data file's end says what was written to it; fallocate(2)
_WRITE = 2  # start write-out of dirty pages, wait for nothing; sync_file_range(2)

_libc = ctypes.CDLL(None)
_fallocate = getattr(_libc, "fallocate", None)
_sync_file_range = getattr(_libc, "sync_file_range", None)


def allocate(data: DataFile, offset: int, length: int) -> None:
    """Give these bytes their place on the disk, in one piece and at once, instead of page by page as they are written.

    Halves what ext4 takes for a write to a new file (0.15 to 0.09 CPU s/GB). May wait for the file system's journal.
    """
    if _fallocate is not None:
        _fallocate(data.fd, _KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length))


def start_write_back(data: DataFile, offset: int, length: int) -> None:
    """Begin writing these bytes to the disk. May wait for the disk's queue."""
    if _sync_file_range is not None:
        _sync_file_range(data.fd, ctypes.c_int64(offset), ctypes.c_int64(length), _WRITE)
