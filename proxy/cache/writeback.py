"""System calls for write-back: start it, wait for it, and ask whether it has failed.

How it works. A write ends in the page cache; the kernel writes the pages back later. If that fails it marks them clean
all the same, and drops them once their memory is needed. The next read then finds what the disk has: zeros if the file
system had only reserved the space. The kernel reports the failure by a counter of the file, which each open file
description compares with the value that it saw last. `failure` only compares and never waits: it asks for the result
of a range behind every file's end, where there is nothing to write.

Which call reliably waits until bytes are stored depends on the file system (`SyncBy`):

- RANGE: sync_file_range. On ext4 and XFS a page's write-back ends after its extent is known to be written. No journal
  has to be committed for it, and the disk need not flush its cache.
- FILE: fdatasync, on all others. btrfs finishes extents after the pages' write-back has ended, NFS commits them later,
  and the files of an overlay have their pages elsewhere.
- NOTHING: in memory there is no write-back.

Sources: sync_file_range(2), fsync(2), statfs(2); the kernel's Documentation/core-api/errseq.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from enum import Enum
from pathlib import Path

_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4
_BEHIND_EVERYTHING = 1 << 62
# Errors of a kernel or sandbox without this call, or without it for this file. They say nothing about any bytes.
_ABSENT_CALL = {errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.ESPIPE, errno.EOPNOTSUPP}
_STATFS_BYTES = 256  # more than any machine's struct statfs

_EXT4, _XFS, _TMPFS, _RAMFS = 0xEF53, 0x58465342, 0x01021994, 0x858458F6

_waiting = ctypes.CDLL(None, use_errno=True)  # lets other threads run during a call
_inline = ctypes.PyDLL(None, use_errno=True)  # does not: cheaper for one that never waits


class SyncBy(Enum):
    """The way to find out, on a file system, that written bytes are stored."""

    NOTHING = "nothing"
    RANGE = "range"
    FILE = "file"


def sync_by(folder: Path) -> SyncBy:
    """Return what the folder's file system needs; FILE if it is unknown."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if getattr(_waiting, "statfs", None) is None or _waiting.statfs(os.fsencode(folder), buffer) != 0:
        return SyncBy.FILE
    (kind,) = struct.unpack_from("@l", buffer)
    if kind in (_EXT4, _XFS):
        return SyncBy.RANGE
    return SyncBy.NOTHING if kind & 0xFFFFFFFF in (_TMPFS, _RAMFS) else SyncBy.FILE


def start(fd: int, offset: int, length: int) -> None:
    """Begin writing these bytes to the disk: a hint. May wait for the disk's queue."""
    _sync_file_range(_waiting, fd, offset, length, _WRITE)


def wait_range(fd: int, offset: int, length: int) -> None:
    """Write these bytes to the disk and wait until that is done. Raises OSError if it fails."""
    code = _sync_file_range(_waiting, fd, offset, length, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)
    if code in _ABSENT_CALL:
        os.fdatasync(fd)
    elif code:
        raise OSError(code, os.strerror(code))


def failure(fd: int) -> OSError | None:
    """Return the file's write-back failure that this file description has not seen yet, or None.

    Inline: one system call that never waits, less than a microsecond.
    """
    code = _sync_file_range(_inline, fd, _BEHIND_EVERYTHING, 1, _WAIT_BEFORE)
    return OSError(code, os.strerror(code)) if code and code not in _ABSENT_CALL else None


def _sync_file_range(library: ctypes.CDLL, fd: int, offset: int, length: int, flags: int) -> int:
    """Return the error's number, 0 for none."""
    call = getattr(library, "sync_file_range", None)
    if call is None:
        return errno.ENOSYS
    if call(fd, ctypes.c_int64(offset), ctypes.c_int64(length), flags) == 0:
        return 0
    return ctypes.get_errno()
