"""One open segment of this process: its map in memory, its data file, and a descriptor for locks while it fills.

How it works. Opening reads the map with `pread` and checks everything: its length, the header checksum, the names of
the object version, that the data file with the map's nonce exists, and that it is long enough for the highest present
block. A segment that fails a check is retired and counts as absent. Only then is the map mapped. It can't raise SIGBUS:
it was allocated in full before anybody could map it, and nothing of ours truncates it.

A data file only ever grows. If it is shorter than before, something else has truncated it. The segment is condemned
before a later write could turn the loss into a hole, which reads as zeros.

The kernel reports bytes that it could not write back per file, and only to file descriptions that were open before
(writeback.py). So each open segment keeps track of it for this process: `has_lost`.

A reference to the segment, or to a block of it, keeps it open; the data file closes with its last piece. An open
segment costs one descriptor: the one for locks is open only while this process fills a block.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path

from proxy.blocks import DataFile, Piece
from proxy.cache import locks, mapfile, writeback
from proxy.cache.accounts import folder_of_object
from proxy.cache.blockmap import (
    HEADER_BYTES_MAX,
    LAST_USE_WORD,
    RETIRED_WORD,
    SECOND_WORD,
    VISITED_WORD,
    MapHeader,
    is_present,
    parse_header,
    second_kind,
    verified_half,
    with_second_kind,
    word_crc32c,
)
from proxy.cache.disks import Disk
from proxy.cache.mapping import map_words
from proxy.cache.sums import RunningSums
from proxy.cache.writequeue import WriteQueue
from proxy.objects import ObjectVersion, SumKind

FIRST_LOAD_S = 60.0  # reading a segment again within one load is not a second use for the evictor
_DATA_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW  # never O_CREAT: an empty file would be served as zeros


class Segment:
    """An open segment; use `open_segment`. `words` is the map file as 64-bit words; blocks begin at `first_word`.

    `status` is that of the map file: while it is mapped, no other file has its inode number.
    """

    def __init__(
        self,
        disk: Disk,
        path: Path,
        header: MapHeader,
        tag: int,
        words: memoryview,
        data: DataFile,
        status: os.stat_result,
    ) -> None:
        self.disk = disk
        self.path = path
        self.header = header
        self.tag = tag
        self.data = data
        self.folder = folder_of_object(header.version.digest)
        self.writes = WriteQueue()
        self.closed = False
        self.touched = False  # looked at since the store last asked; see `Store._keep`
        self.unstored: set[int] = set()  # blocks written by this process that its syncer has not settled yet
        self.lost = False  # a write-back failure since the open that this process knows of
        self.words = words
        self.first_word = header.words_index
        self._status = status
        self._lock_fd = -1  # open while `_filling` has something
        self._block_bytes = header.block_bytes
        self._verified = verified_half(tag)
        self._created_s = header.created_ns / 1e9
        self._longest = self._data_end()
        self._guard = threading.RLock()  # a collected writer may release its lock while this thread takes one
        self._loss_guard = threading.Lock()  # the kernel reports a failure once: asking and acting on it is one step
        self._filling: set[int] = set()  # a lock does not exclude users of its own description: this does

    def __repr__(self) -> str:
        return f"<Segment {self.header.segment} of {self.header.version.key!r}{' retired' if self.retired else ''}>"

    def __del__(self) -> None:
        self.closed = True  # in a garbage cycle, a writer may be finalised after its segment
        if self._lock_fd >= 0:
            os.close(self._lock_fd)

    @property
    def retired(self) -> bool:
        """Whether some process has retired the segment: open it again. One load."""
        return self.words[RETIRED_WORD] != 0

    @property
    def busy(self) -> bool:
        """Whether this process is filling a block of it."""
        return bool(self._filling)

    def word(self, local_index: int) -> int:
        return self.words[self.first_word + local_index]

    def store_word(self, local_index: int, word: int) -> None:
        self.words[self.first_word + local_index] = word

    def second_sum(self, local_index: int) -> int:
        return self.words[self.header.sums_index + local_index]

    def store_second_sum(self, local_index: int, value: int) -> None:
        self.words[self.header.sums_index + local_index] = value

    @property
    def second_kind(self) -> SumKind | None:
        """The kind of the second sums."""
        return second_kind(self.words[SECOND_WORD])

    def keep_second(self, kind: SumKind) -> None:
        """Make fills keep sums of that kind from now on, unless they already keep another. One store."""
        if self.second_kind is None:
            self.words[SECOND_WORD] = with_second_kind(self.words[SECOND_WORD], kind)

    def has_sum(self, local_index: int, kind: SumKind) -> bool:
        """Return whether a present block's checksum of that kind is known without reading the block."""
        return kind is SumKind.CRC32C or (kind is self.second_kind and self.second_sum(local_index) != 0)

    def is_whole(self) -> bool:
        """Return whether every block is present."""
        words = self.words[self.first_word : self.first_word + self.header.block_count]
        return all(is_present(word) for word in words)

    def block_sum(self, local_index: int, kind: SumKind) -> int | None:
        """Return the checksum of a present block, computed from its bytes if none of that kind is kept. Blocking.

        None if the block is not present, or its bytes don't match its crc32c.
        """
        word = self.word(local_index)
        if not is_present(word):
            return None
        if kind is SumKind.CRC32C:
            return word_crc32c(word)
        if self.has_sum(local_index, kind):
            return self.second_sum(local_index)
        sums = RunningSums(kind)
        try:
            whole = sums.read(
                self.data.fd, local_index * self.header.block_bytes, self.header.block_length(local_index)
            )
        except OSError as error:
            self.disk.trouble(error)
            return None
        if not whole or sums.crc32c != word_crc32c(word):
            return None
        if kind is self.second_kind:
            self.store_second_sum(local_index, sums.second)
        return sums.second

    def is_sound(self) -> bool:
        """Return whether it is neither retired nor truncated; condemn a truncated one. Inline: one load, one lseek."""
        return not self.retired and self._sound_end() >= 0

    def is_cut(self) -> bool:
        """Return whether the data file was truncated, also of a retired segment. Inline: one lseek."""
        return self._sound_end() < 0

    def _sound_end(self) -> int:
        """Return where the data file ends, or -1 if it has been truncated."""
        longest = self._longest  # before looking: a writer thread may make both grow meanwhile
        end = self._data_end()
        if end < longest:
            self.condemn()
            return -1
        self.grown(end)
        return end

    def condemn(self) -> None:
        """Set the retired flag, inline. The next process that opens the segment unlinks its files."""
        self.words[RETIRED_WORD] = 1

    def has_lost(self) -> bool:
        """Return whether the kernel failed to write back some of the data file since it was opened here.

        If so, condemn the segment and report to its disk. Inline: one system call that never waits.
        """
        if self.disk.in_memory:
            return False
        with self._loss_guard:
            error = writeback.failure(self.data.fd)
            if error is not None:
                self._lose(error)
            return self.lost

    def lose(self, error: OSError) -> None:
        """Note that bytes of the data file could not be stored."""
        with self._loss_guard:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if not self.lost:
            self.lost = True
            self.condemn()
            self.disk.lost_bytes(error)

    def grown(self, end: int) -> None:
        """Note a length that the data file has reached. If two threads race, the smaller one may win; that is safe."""
        self._longest = max(self._longest, end)

    def verified_piece(self, start: int, end: int) -> Piece | None:
        """Return bytes [start, end) of this segment, if all their blocks are present and checked in this run. Inline.

        Costs one load per block and one lseek.
        """
        words, verified, block_bytes = self.words, self._verified, self._block_bytes
        word = self.first_word + start // block_bytes
        last = self.first_word + (end - 1) // block_bytes
        if words[word] >> 32 != verified or words[RETIRED_WORD]:
            return None
        while word < last:
            word += 1
            if words[word] >> 32 != verified:
                return None
        length = os.lseek(self.data.fd, 0, os.SEEK_END)
        if length != self._longest:
            if length < self._longest:
                self.condemn()
                return None
            self.grown(length)
        if length < end:
            self.condemn()
            return None
        return Piece(self.data, start, end - start)

    def peek_piece(self, start: int, end: int) -> Piece | None:
        """Return `verified_piece` and mark the segment as used, for callers that keep it outside of the store."""
        if self.disk.failed:
            return None
        self.touched = True
        if self.words[VISITED_WORD] == 0:
            self.mark_visited()
        return self.verified_piece(start, end)

    def mark_visited(self) -> None:
        """Set the evictor's mark; stores nothing if it is already set, so that a hot page stays clean.

        Loading an object once reads its new segments many times. That must not look like a second use, or one scan of
        a large model would evict what is used every day.
        """
        if self.words[VISITED_WORD] != 0:
            return
        now_s = time.time()
        if not 0 <= now_s - self._created_s < FIRST_LOAD_S:  # below 0: the clock was set back
            self.words[VISITED_WORD] = 1
            self.words[LAST_USE_WORD] = int(now_s)

    def claim(self, local_index: int) -> bool:
        """Take the block's lock. Return False if a fill of any process has it, or the segment is retired.

        Inline: a microsecond, and one open of the map if this process fills nothing else in it. Raises
        StoreUnavailable when the system has no more locks or descriptors.
        """
        with self._guard:
            if local_index in self._filling:
                return False
            self._filling.add(local_index)  # first: a writer collected meanwhile must not close what is opened here
            locked = False
            try:
                locked = self._open_locks() and locks.try_lock(self._lock_fd, local_index)
            except OSError as error:
                raise self.disk.trouble(error) from error
            finally:
                if not locked:
                    self._leave(local_index)
            return locked

    def release(self, local_index: int) -> None:
        """Release the block's lock, only after the last write has returned."""
        with self._guard:
            locks.unlock(self._lock_fd, local_index)
            self._leave(local_index)

    def _open_locks(self) -> bool:
        """Open the map for locking. If its name leads elsewhere, condemn this segment and return False."""
        if self._lock_fd >= 0:
            return True
        with suppress(FileNotFoundError):
            fd = locks.open_for_locking(self.path)
            if os.path.samestat(os.fstat(fd), self._status):
                self._lock_fd = fd
                return True
            os.close(fd)
        self.condemn()
        return False

    def _leave(self, local_index: int) -> None:
        self._filling.discard(local_index)
        if not self._filling and self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def retire(self, reason: str) -> None:
        """Retire the segment for damage, whatever fills are under way. Blocking. Never raises."""
        self.condemn()
        with suppress(FileNotFoundError):
            try:
                self._retire_files(reason)
            except OSError as error:
                self.disk.trouble(error)

    def _retire_files(self, reason: str) -> None:
        fd = locks.open_for_locking(self.path)
        try:
            # The name may lead to a successor by now, which must not be touched.
            if os.path.samestat(os.fstat(fd), self._status):
                charge = mapfile.retire_open(fd, self.path, self.header.nonce, reason, force=True)
                self.disk.retired(charge or 0, self.folder)
        finally:
            os.close(fd)

    def _data_end(self) -> int:
        return os.lseek(self.data.fd, 0, os.SEEK_END)  # cheaper than fstat; nobody uses the file position


def open_segment(
    disk: Disk, version: ObjectVersion, segment: int, block_bytes: int, segment_blocks: int, tag: int
) -> Segment | None:
    """Open the segment on this disk. Return None if it is absent, or damaged and so retired. Blocking.

    Raises OSError if the disk fails (EIO ...) or descriptors run out.
    """
    path = mapfile.map_path(disk.objects, version.digest, segment)
    try:
        lock_fd = locks.open_for_locking(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in mapfile.UNREADABLE:
            raise
        disk.retired(mapfile.retire(path, None, "damage", force=True) or 0, folder_of_object(version.digest))
        return None
    try:
        header = parse_header(os.pread(lock_fd, HEADER_BYTES_MAX, 0))
        if header is not None and header.holds(version, segment, block_bytes, segment_blocks):
            opened = _map(disk, path, header, tag, lock_fd)
            if opened is not None:
                return opened
        nonce = header.nonce if header is not None else None
        charge = mapfile.retire_open(lock_fd, path, nonce, "damage", force=True)
        disk.retired(charge or 0, folder_of_object(version.digest))
        return None
    finally:
        os.close(lock_fd)


def _map(disk: Disk, path: Path, header: MapHeader, tag: int, fd: int) -> Segment | None:
    """Check and map the segment whose header was read; None if it is damaged."""
    status = os.fstat(fd)
    if status.st_size != header.map_bytes or os.pread(fd, 8, RETIRED_WORD * 8) != bytes(8):
        return None
    data = _open_data(mapfile.data_path(path, header.nonce))
    if data is None:
        return None
    # The words first: a fill in another process lengthens the file, then stores its word. In the other order, a block
    # published in between would look lost, and a sound segment would be retired.
    present_end = mapfile.present_end(fd, header)
    if os.fstat(data.fd).st_size < present_end:
        return None
    try:
        words = map_words(fd, header.map_bytes)
    except ValueError:  # shorter than a moment ago
        return None
    return Segment(disk, path, header, tag, words, data, status)


def _open_data(path: Path) -> DataFile | None:
    """Open the data file, and share its lock: it stays charged while it is open (leaving.py)."""
    try:
        data = DataFile(os.open(path, _DATA_FLAGS))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in mapfile.UNREADABLE:
            return None
        raise
    if not stat.S_ISREG(os.fstat(data.fd).st_mode):
        return None
    try:
        locks.share(data.fd)
    except (BlockingIOError, PermissionError):  # being unlinked this moment
        return None
    return data if os.fstat(data.fd).st_nlink else None
