"""Keys as files below one root, and never outside of it. Blocking: callers run it in a thread.

How it works. A key is a path of plain segments. A key that a tree can't express (`..`, `.`, `//`, a leading or trailing
`/`, NUL, not UTF-8) does not exist. A file is first opened only as a handle (O_PATH, which neither blocks on a FIFO nor
touches a device). Then the kernel is asked for the handle's real path: only a regular file whose real path is below the
bucket's real path is opened for reading, through the handle. So a symbolic link within a bucket works; one that leads
out of it (to another bucket, for which other rules may apply) does not exist; and swapping links in between changes
nothing. A bucket itself may be a link to another directory in the root.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from proxy.blocks import DataFile
from proxy.errors import AccessDenied, NotFound, OriginUnavailable, WarmstartError, blame

PART_BYTES = 8 << 20  # the size of a file's parts, see `File.etag`
WHOLE_ROOT = "."  # the bucket that is the root itself

_MISSING = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL))


@dataclass(frozen=True, slots=True)
class File:
    """The identity and size of a regular file at one moment."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int

    @classmethod
    def of(cls, info: os.stat_result) -> File:
        return cls(info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)

    @property
    def part_count(self) -> int:
        return max(1, -(-self.size_bytes // PART_BYTES))

    @property
    def etag(self) -> str:
        """The ETag, in the form of a multipart object's. 32 hex digits alone would be taken for the content's MD5, and
        the AWS runtime computes the part size from the number of parts."""
        identity = f"{self.size_bytes} {self.modified_ns} {self.changed_ns} {self.inode}".encode()
        return f'"{hashlib.sha256(identity).hexdigest()[:32]}-{self.part_count}"'


class Tree:
    """Files below `root`. Every call raises NotFound, AccessDenied, or OriginUnavailable for a broken disk or root."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(os.path.abspath(root))

    def open_file(self, bucket: str, key: str) -> tuple[DataFile, File]:
        """Open a key's file for reading; return it with its current identity."""
        folder = self.bucket_path(bucket)
        segments = split_key(key)
        if segments is None:
            raise NotFound("key", key)
        try:
            handle = DataFile(os.open(os.path.join(folder, *segments), os.O_PATH | os.O_CLOEXEC))
            info = os.fstat(handle.fd)
            if not stat.S_ISREG(info.st_mode) or not is_below(os.readlink(_own_path(handle)), folder):
                raise NotFound("key", key)
            file = DataFile(os.open(_own_path(handle), os.O_RDONLY | os.O_CLOEXEC))
            return file, File.of(os.fstat(file.fd))
        except OSError as error:
            raise translate(error, "key", key) from error

    def bucket_path(self, bucket: str) -> bytes:
        """Return the real path of a bucket's directory, after checking that the root exists."""
        root = self._real_root()
        if bucket == WHOLE_ROOT:
            return root
        segments = split_key(bucket)
        if segments is None or len(segments) != 1:
            raise NotFound("bucket", bucket)
        path = os.path.realpath(os.path.join(root, segments[0]))
        if not os.path.isdir(path) or not is_below(path, root):
            raise NotFound("bucket", bucket)
        return path

    def buckets(self) -> tuple[tuple[str, float], ...]:
        """Return the sub-directories except hidden ones, by name, with their times of last change."""
        root = self._real_root()
        found = []
        try:
            with os.scandir(root) as entries:
                for entry in entries:
                    name = decode_name(entry.name)
                    if name is not None and not name.startswith(".") and self._is_folder(entry, root):
                        found.append((name, entry.stat().st_mtime))
        except OSError as error:
            raise translate(error, "bucket", os.fsdecode(root)) from error
        return tuple(sorted(found, key=lambda item: item[0].encode()))

    def _is_folder(self, entry: os.DirEntry[bytes], root: bytes) -> bool:
        return entry.is_dir() and (not entry.is_symlink() or is_below(os.path.realpath(entry.path), root))

    def _real_root(self) -> bytes:
        root = os.path.realpath(self._root)
        if not os.path.isdir(root):
            missing = OriginUnavailable(f"the directory {os.fsdecode(self._root)} is not there", lasting=True)
            raise blame(missing, "missing")
        return root


def split_key(key: str) -> list[bytes] | None:
    """Return the path segments of a key, or None if no file can have that name."""
    try:
        segments = key.encode("utf-8").split(b"/")
    except UnicodeEncodeError:
        return None
    if b"\0" in key.encode("utf-8") or any(segment in (b"", b".", b"..") for segment in segments):
        return None
    return segments


def decode_name(name: bytes) -> str | None:
    """Return a file name as part of a key; None if it is not UTF-8, as keys are."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return None


def is_below(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root.rstrip(b"/") + b"/")


def translate(error: OSError, what: str, name: str) -> WarmstartError:
    """Translate an error of the file system into one of ours."""
    if error.errno in _MISSING:
        return NotFound(what, name)
    if error.errno in (errno.EACCES, errno.EPERM):
        return blame(AccessDenied(f"the file system refuses to read {what} {name!r}"), "refused")
    return blame(OriginUnavailable(f"reading {what} {name!r}: {os.strerror(error.errno or 0)}"), "disk")


def _own_path(handle: DataFile) -> bytes:
    return b"/proc/self/fd/%d" % handle.fd
