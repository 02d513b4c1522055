"""A segment's files: creating, listing, reading and retiring them by name. Maps nothing into memory.

How it works. Under `objects/ab/`, where `ab…` is the object version's digest in hex:

    cd….<segment>.map               the block map (blockmap.py); its nonce names the data file
    cd….<segment>.<nonce>.data      the blocks, each at its own offset; sparse, grows as blocks arrive
    cd….<segment>.<nonce>.tmp       a map being created

and the files of retired segments, under `leaving/` (leaving.py).

Creating (`create_files`): (1) Create the data file, O_EXCL, under a fresh nonce. (2) Write the whole map, every byte
of it allocated, under its temporary name. (3) link() it into place. If two processes race, one finds the name taken
and removes its own two files. Nothing ever creates a data file under an existing map. So an old map can't meet a new
data file, whose holes would be served as zeros.

Retiring (`retire`): (1) Open the map again, so that the lock has an open file description of its own. (2) Lock. An
eviction locks the whole range, which fails while any fill is under way. Damage locks only RETIRE_BYTE and waits for
no fill: a fill keeps its files open, and its bytes go where nobody will look. (3) Set the retired flag: a filler that
locked its block too late sees it. (4) Move the map away, if its name still leads to the locked file. It can't become
another file in between: only the holder of the old map's lock moves it, and no new map can be linked before that.
(5) Move the data file as well. A crash between the steps leaves a map with the flag set, which is retired again when
it is next opened; or a data file that no map names, which is removed after an hour. Both files are unlinked once
nobody has the data open any more.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import struct
import time
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from proxy.cache import leaving, locks
from proxy.cache.accounts import STAT_BLOCK_BYTES, file_charge
from proxy.cache.blockmap import (
    HEADER_BYTES_MAX,
    LAST_USE_WORD,
    NONCE_BYTES,
    PINNED_WORD,
    RETIRED_WORD,
    VISITED_WORD,
    WORD_BYTES,
    MapHeader,
    is_present,
    parse_header,
    render_map,
)
from proxy.cache.layout import make_private
from proxy.metrics import EVICTED_BYTES, EVICTED_SEGMENTS

_STRAY = re.compile(r"(?P<stem>[0-9a-f]{62}\.\d+)\.(?P<nonce>[0-9a-f]{32})\.(?:data|tmp)", re.ASCII)
UNREADABLE = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENXIO}  # not our file
_READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_NEW_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class MapFacts:
    """The content of a map file. `charged_bytes` is what map and data are charged with, `surplus_bytes` what the file
    system has allocated for the data beyond that, and `data_bytes` the data file's length, or None."""

    path: Path
    header: MapHeader
    retired: bool
    pinned: bool
    visited: bool
    last_use_s: int
    charged_bytes: int
    surplus_bytes: int
    data_bytes: int | None

    @property
    def data_path(self) -> Path:
        return data_path(self.path, self.header.nonce)


def map_path(objects: Path, digest: bytes, segment: int) -> Path:
    name = digest.hex()
    return objects / name[:2] / f"{name[2:]}.{segment}.map"


def data_path(map_path: Path, nonce: bytes) -> Path:
    return map_path.with_name(f"{map_path.stem}.{nonce.hex()}.data")


def create_files(objects: Path, header: MapHeader) -> int:
    """Create an empty segment's two files. Return what they are charged with; 0 if another process was faster.

    Sets the nonce and the creation time. Raises OSError, and ValueError for names too long to keep; then it leaves
    nothing behind.
    """
    header = replace(header, nonce=secrets.token_bytes(NONCE_BYTES), created_ns=time.time_ns())
    path = map_path(objects, header.version.digest, header.segment)
    data = data_path(path, header.nonce)
    image = render_map(header, int(time.time()))
    make_private(path.parent)
    os.close(os.open(data, _NEW_FLAGS, 0o600))
    charge = 0
    try:
        charge = _link_map(path, data.with_suffix(".tmp"), image)
    finally:
        if not charge:
            data.unlink(missing_ok=True)
    return charge


def _link_map(path: Path, temporary: Path, image: bytes) -> int:
    """Put the map in place and return its charge; 0 if the name is taken."""
    fd = os.open(temporary, _NEW_FLAGS, 0o600)
    try:
        # Allocated in full before anybody can map it: a store to a page without room on the disk would be a SIGBUS.
        os.posix_fallocate(fd, 0, len(image))
        written = 0
        while written < len(image):
            written += os.pwrite(fd, memoryview(image)[written:], written)
        charge = file_charge(os.fstat(fd))
        os.link(temporary, path)
    except FileExistsError:
        return 0
    finally:
        os.close(fd)
        temporary.unlink(missing_ok=True)
    return charge


def list_files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Return a folder's files with their `stat`, without those that vanish meanwhile; none if there is no folder.

    Raises OSError (EIO ...).
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    found.append((folder / entry.name, entry.stat(follow_symlinks=False)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return found


def is_stray(path: Path, nonces: Mapping[str, str | None]) -> bool:
    """Return whether this is an unfinished map, or a data file that no map names.

    `nonces` maps the stems of the folder's maps to their nonces in hex, or to None if the map could not be read. Only
    for files last written long ago: those of a segment that is just being created look the same.
    """
    match = _STRAY.fullmatch(path.name)
    return match is not None and (
        path.suffix == ".tmp" or nonces.get(match["stem"], "no map") not in (match["nonce"], None)
    )


def read_map(path: Path) -> MapFacts | None:
    """Read a map with `pread` alone. Return None if it is missing, unreadable or damaged. Raises OSError (EIO ...)."""
    fd = _open(path, _READ_FLAGS)
    if fd is None:
        return None
    try:
        return _facts(fd, path)
    finally:
        os.close(fd)


def _open(path: Path, flags: int) -> int | None:
    """Open a regular file; None if there is none that we may open. Raises OSError (EIO, EMFILE ...)."""
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in UNREADABLE:
            return None
        raise
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


def _facts(fd: int, path: Path) -> MapFacts | None:
    raw, status = os.pread(fd, HEADER_BYTES_MAX, 0), os.fstat(fd)
    header = parse_header(raw)
    if header is None or status.st_size != header.map_bytes:
        return None
    words = struct.unpack_from("=5Q", raw)
    try:
        data = os.stat(data_path(path, header.nonce))
    except FileNotFoundError:
        data = None
    data_charge = header.charged_bytes(read_words(fd, header))
    data_bytes = data.st_blocks * STAT_BLOCK_BYTES if data is not None else 0
    return MapFacts(
        path,
        header,
        retired=words[RETIRED_WORD] != 0,
        pinned=words[PINNED_WORD] != 0,
        visited=words[VISITED_WORD] != 0,
        last_use_s=words[LAST_USE_WORD],
        charged_bytes=file_charge(status) + data_charge,
        surplus_bytes=max(0, data_bytes - data_charge),
        data_bytes=data.st_size if data is not None else None,
    )


def read_words(fd: int, header: MapHeader) -> array[int]:
    """Return the current words of an open map's blocks; fewer than `block_count` only if the file was truncated."""
    raw = os.pread(fd, header.block_count * WORD_BYTES, header.header_bytes)
    return array("Q", raw[: len(raw) // WORD_BYTES * WORD_BYTES])


def present_end(fd: int, header: MapHeader) -> int:
    """Return where the highest present block ends in the data file."""
    words = read_words(fd, header)
    for local_index in range(len(words) - 1, -1, -1):
        if is_present(words[local_index]):
            return header.block_end(local_index)
    return 0


def read_map_words(facts: MapFacts) -> array[int]:
    """Return the words of a map that `read_map` saw; none if another map has replaced it. Raises OSError."""
    fd = _open(facts.path, _READ_FLAGS)
    if fd is None:
        return array("Q")
    try:
        same = parse_header(os.pread(fd, HEADER_BYTES_MAX, 0)) == facts.header
        return read_words(fd, facts.header) if same else array("Q")
    finally:
        os.close(fd)


def clear_visited(facts: MapFacts) -> None:
    """Clear the mark when the evictor's hand passes. A mark set at the same moment may be lost: it costs one round."""
    _store_word(facts, VISITED_WORD, 0)


def set_pinned(facts: MapFacts, pinned: bool) -> None:
    _store_word(facts, PINNED_WORD, int(pinned))


def _store_word(facts: MapFacts, word: int, value: int) -> None:
    """Write one aligned word to the page that all processes map, unless another map has replaced this one."""
    fd = _open(facts.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    if fd is None:
        return
    try:
        if parse_header(os.pread(fd, HEADER_BYTES_MAX, 0)) == facts.header:
            os.pwrite(fd, struct.pack("=Q", value), word * WORD_BYTES)
    finally:
        os.close(fd)


def retire(path: Path, nonce: bytes | None, reason: str, *, force: bool = False) -> int | None:
    """Retire a segment: set the flag, then move map and data to `leaving/`. Blocking.

    `nonce` identifies the segment (another one at that path is left alone); None: whatever is there, damaged or not.
    With `force` (damage) fills under way don't matter; without it (eviction) any of them prevents the retirement.
    Return the bytes that its files are charged with, which the caller passes to `Disk.retired`; 0 if it was already
    gone; None if it is in use. Raises OSError (EIO, EROFS ...).
    """
    try:
        fd = locks.open_for_locking(path)
    except FileNotFoundError:
        return 0
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        return _retire_unreadable(path, reason)  # it can't be locked, but nobody can have opened it either
    try:
        header = parse_header(os.pread(fd, HEADER_BYTES_MAX, 0))
        if nonce is not None and header is not None and header.nonce != nonce:
            return 0
        return retire_open(fd, path, header.nonce if header is not None else nonce, reason, force=force)
    finally:
        os.close(fd)


def retire_open(fd: int, path: Path, nonce: bytes | None, reason: str, *, force: bool) -> int | None:
    """Retire the map open as `fd`, like `retire`. `fd` needs its own open file description, so that its locks count."""
    span = (locks.RETIRE_BYTE, 1) if force else (0, locks.TO_THE_END)
    if not locks.try_lock(fd, *span):
        return 0 if force else None  # force: another process is retiring it right now
    status = os.fstat(fd)
    if status.st_size >= (RETIRED_WORD + 1) * WORD_BYTES:
        os.pwrite(fd, struct.pack("=Q", 1), RETIRED_WORD * WORD_BYTES)
    if not _leads_to(path, status):
        return 0
    data = data_path(path, nonce) if nonce is not None else None
    charge = file_charge(status) + _data_charge(fd, data)
    leaving.move_out(path, data, charge)
    EVICTED_SEGMENTS.labels(reason).inc()
    EVICTED_BYTES.labels(reason).inc(charge)
    return charge


def _data_charge(fd: int, data: Path | None) -> int:
    """Return what the blocks are charged with; if the map can't be read, what the file system has allocated."""
    header = parse_header(os.pread(fd, HEADER_BYTES_MAX, 0))
    if header is not None:
        return header.charged_bytes(read_words(fd, header))
    try:
        return os.stat(data).st_blocks * STAT_BLOCK_BYTES if data is not None else 0
    except FileNotFoundError:
        return 0


def _leads_to(path: Path, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), status)
    except FileNotFoundError:
        return False


def _retire_unreadable(path: Path, reason: str) -> int:
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    charge = 0
    if stat.S_ISDIR(status.st_mode):  # a foreign folder under one of our names: its content is not ours to remove
        os.rename(path, path.with_name(f"{path.name}.{os.urandom(4).hex()}.foreign"))
    else:
        charge = file_charge(status)
        leaving.move_out(path, None, charge)
    EVICTED_SEGMENTS.labels(reason).inc()
    EVICTED_BYTES.labels(reason).inc(charge)
    return charge
