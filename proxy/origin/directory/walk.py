"""Listings of a tree in S3's order, a page at a time. Blocking: callers run it in a thread.

How it works. S3 lists keys by their UTF-8 bytes. A directory `a` stands for keys that begin with `a/`, so among its
neighbours it sorts as `a/`: after `a-b`, before `a0`. With each directory's entries sorted like that, a depth-first
walk yields keys in order. `Walk.keys(lower)` seeks by bisection in each directory on the way, so a page reads only the
directories that it shows. A common prefix that has been reported is skipped by seeking to the first string beyond it.

Directories that change rarely are read once for many pages: their sorted entries are cached while the directory's own
time of change stays the same. Directories that have just changed, or that contain symbolic links (whose targets may
change unnoticed), are read each time.
"""

from __future__ import annotations

import os
import stat
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache

from proxy.origin import ListedObject, ListPage
from proxy.origin.directory.tree import File, Tree, decode_name, is_below, split_key

ENTRIES_KEPT_MAX = 200_000  # names of about 100 bytes each
SETTLED_AFTER_S = 2.0  # the coarsest time stamps of common file systems
DEPTH_MAX = 128  # nested directories: a key has at most 1024 bytes, and most names have several


@dataclass(frozen=True, slots=True)
class _Folder:
    """A directory's entries as key segments, sorted; that of a directory ends with `/`. `stamp` is its state."""

    stamp: tuple[int, int, int]
    segments: list[bytes]


def _weight(folder: _Folder) -> int:
    return 1 + len(folder.segments)  # an empty one takes memory, too


class FolderCache:
    """Sorted entries of directories, shared by the pages of listings; safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.time, *, entries_max: int = ENTRIES_KEPT_MAX) -> None:
        self._clock = clock
        self._folders: LRUCache[bytes, _Folder] = LRUCache(entries_max, _weight)
        self._lock = Lock()

    def segments(self, path: bytes, bucket_path: bytes) -> tuple[tuple[int, int], list[bytes]]:
        """Return the directory's identity (device, inode) and its sorted entries; none if it can't be read.

        Links that lead to something in the bucket are entries; a directory with links is not cached.
        """
        try:
            info = os.stat(path)
            stamp = (info.st_dev, info.st_ino, info.st_mtime_ns)
            with self._lock:
                kept = self._folders.get(path)
            if kept is not None and kept.stamp == stamp:
                return stamp[:2], kept.segments
            segments, has_links = _scan(path, bucket_path)
        except OSError:  # vanished, or not readable: no key in it can be read either
            return (0, 0), []
        if not has_links and self._clock() - info.st_mtime > SETTLED_AFTER_S:
            self._keep(path, _Folder(stamp, segments))
        return stamp[:2], segments

    def _keep(self, path: bytes, folder: _Folder) -> None:
        if _weight(folder) <= self._folders.maxsize:
            with self._lock:
                self._folders[path] = folder


def _scan(path: bytes, bucket_path: bytes) -> tuple[list[bytes], bool]:
    segments, has_links = [], False
    with os.scandir(path) as entries:
        for entry in entries:
            has_links = has_links or entry.is_symlink()
            segment = _segment(entry, bucket_path)
            if segment is not None:
                segments.append(segment)
    segments.sort()
    return segments, has_links


def _segment(entry: os.DirEntry[bytes], bucket_path: bytes) -> bytes | None:
    """Return an entry as part of a key; None if it is neither file nor directory, or leads out of the bucket."""
    try:
        if decode_name(entry.name) is None or (
            entry.is_symlink() and not is_below(os.path.realpath(entry.path), bucket_path)
        ):
            return None
        if entry.is_dir():
            return entry.name + b"/"
        return entry.name if entry.is_file() else None
    except OSError:  # a link that leads to itself
        return None


class Walk:
    """The keys below one bucket's directory that begin with `prefix`, in order."""

    def __init__(self, folders: FolderCache, bucket_path: bytes, prefix: bytes) -> None:
        self._folders = folders
        self._bucket_path = bucket_path
        self._prefix = prefix

    def keys(self, lower: bytes) -> Iterator[bytes]:
        """Yield the keys that are not less than `lower`."""
        start, slash, _ = self._prefix.rpartition(b"/")
        if slash and split_key(start.decode("utf-8")) is None:
            return iter(())  # no file can have such a key
        if slash and not is_below(os.path.realpath(os.path.join(self._bucket_path, start)), self._bucket_path):
            return iter(())  # a link that leads out of the bucket
        return self._below(start + slash, max(lower, self._prefix), ())

    def _below(self, folder_key: bytes, lower: bytes, ancestors: tuple[tuple[int, int], ...]) -> Iterator[bytes]:
        """Yield keys below a directory, whose key ends with `/` or is empty. A loop of links is not entered twice."""
        identity, segments = self._folders.segments(os.path.join(self._bucket_path, folder_key), self._bucket_path)
        if identity in ancestors or len(ancestors) > DEPTH_MAX:
            return
        for index in range(self._seek(folder_key, segments, lower), len(segments)):
            key = folder_key + segments[index]
            if not key.startswith(self._prefix) and not self._prefix.startswith(key):
                if key > self._prefix:
                    return
                continue
            if key.endswith(b"/"):
                yield from self._below(key, lower, (*ancestors, identity))
            elif key >= lower:
                yield key

    def _seek(self, folder_key: bytes, segments: list[bytes], lower: bytes) -> int:
        """Return the index of the first entry that is not less than `lower`, or of the directory that contains it."""
        if lower <= folder_key:
            return 0
        if not lower.startswith(folder_key):  # lower > folder_key: everything here is less, or was already listed
            return len(segments)
        rest = lower[len(folder_key) :]
        first, slash, _ = rest.partition(b"/")
        return bisect_left(segments, first + slash)


def list_page(
    tree: Tree, folders: FolderCache, bucket: str, *, prefix: str, delimiter: str, after: str, limit: int
) -> ListPage:
    """Return a page; see `Origin.list_objects`. `limit` counts keys and common prefixes; 0: an empty, final page."""
    bucket_path = tree.bucket_path(bucket)
    try:
        raw_prefix, raw_delimiter, raw_after = (text.encode("utf-8") for text in (prefix, delimiter, after))
    except UnicodeEncodeError:
        return ListPage((), (), None)
    walk = Walk(folders, bucket_path, raw_prefix)
    objects: list[ListedObject] = []
    prefixes: list[str] = []
    last: bytes = b""
    for item in _items(walk, raw_prefix, raw_delimiter, raw_after):
        listed = _stat_key(bucket_path, item.key) if not item.is_prefix else None
        if listed is None and not item.is_prefix:
            continue  # it has vanished since its directory was read
        if len(objects) + len(prefixes) >= limit:
            return ListPage(tuple(objects), tuple(prefixes), last.decode("utf-8") if limit > 0 else None)
        last = item.key
        if listed is not None:
            objects.append(listed)
        else:
            prefixes.append(item.key.decode("utf-8"))
    return ListPage(tuple(objects), tuple(prefixes), None)


@dataclass(frozen=True, slots=True)
class _Item:
    key: bytes
    is_prefix: bool


def _items(walk: Walk, prefix: bytes, delimiter: bytes, after: bytes) -> Iterator[_Item]:
    """Yield keys and common prefixes beyond `after`, in order."""
    common = _common_prefix(after, prefix, delimiter)
    lower = _beyond(after) if after and common == after else after + b"\0" if after else b""
    while True:
        for key in walk.keys(lower):
            common = _common_prefix(key, prefix, delimiter)
            if common is not None:
                break
            yield _Item(key, False)
        else:
            return
        yield _Item(common, True)
        lower = _beyond(common)


def _common_prefix(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    """Return the key up to and including the first delimiter after the prefix, if there is one."""
    if not delimiter or not key.startswith(prefix):
        return None
    found = key.find(delimiter, len(prefix))
    return key[: found + len(delimiter)] if found >= 0 else None


def _beyond(prefix: bytes) -> bytes:
    """Return the least string greater than every string with this prefix; UTF-8 has no byte 0xff."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))


def _stat_key(bucket_path: bytes, key: bytes) -> ListedObject | None:
    try:
        info = os.stat(os.path.join(bucket_path, key))
    except OSError:
        return None
    if not stat.S_ISREG(info.st_mode):
        return None
    return ListedObject(key.decode("utf-8"), info.st_size, File.of(info).etag, info.st_mtime)
