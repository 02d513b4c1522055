"""One segment as this process has it open: its map in memory, its data file, and a descriptor for locks while it fills.

How it works. Opening reads the map with `pread` and believes nothing: length, header checksum, the names of the
object version, the data file that the nonce names, and that it is long enough for the highest block called present.
Whatever fails is retired and taken as absent. Only then is the map mapped: made in full before anybody could map it
and never truncated by anything of ours, it can't raise SIGBUS.

A data file only ever grows. One that is shorter than it was has been cut by something else: the segment is
condemned before a later write could turn the loss into a hole, which reads as zeros.

The kernel tells of bytes that it could not write back by file, and only to descriptions that were open before
(writeback.py). So this process's word on that is the segment's: `has_lost`.

Whoever holds the segment, or a block of it, keeps it open; the data file closes with its last piece. An open segment
costs one descriptor, so that very many small ones can be open: the locks' is there while this process fills a block.
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

FIRST_LOAD_S = 60.0  # what is read again within a load is not used again: it gives no second chance at eviction
_DATA_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW  # never O_CREAT: an empty file would be served as zeros


class Segment:
    """Use `open_segment`. `words` is the whole map file as 64-bit words; `first_word` is that of the first block.

    `status` is the map file's: while it is mapped, no other file has its number.
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
        self.unstored: set[int] = set()  # blocks that this process has written and its syncer has not settled yet
        self.lost = False  # write-back has failed since it was opened here, as far as this process has asked
        self.words = words
        self.first_word = header.words_index
        self._status = status
        self._lock_fd = -1  # open while `_filling` has something
        self._block_bytes = header.block_bytes
        self._verified = verified_half(tag)
        self._created_s = header.created_ns / 1e9
        self._longest = self._data_end()
        self._guard = threading.RLock()  # a collected writer may give its lock back while this thread takes one
        self._loss_guard = threading.Lock()  # the kernel tells once: who is told, and what follows, is one step
        self._filling: set[int] = set()  # a lock does not exclude its own description: this does

    def __repr__(self) -> str:
        return f"<Segment {self.header.segment} of {self.header.version.key!r}{' retired' if self.retired else ''}>"

    def __del__(self) -> None:
        self.closed = True  # of a cycle of garbage, a writer may be finalised after its segment
        if self._lock_fd >= 0:
            os.close(self._lock_fd)

    @property
    def retired(self) -> bool:
        """Given up by some process: look no further, open it anew. One load."""
        return self.words[RETIRED_WORD] != 0

    @property
    def busy(self) -> bool:
        """Whether this process fills a block of it."""
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
        """What the second sums are."""
        return second_kind(self.words[SECOND_WORD])

    def keep_second(self, kind: SumKind) -> None:
        """From now on fills keep sums of that kind, unless they keep another. One store."""
        if self.second_kind is None:
            self.words[SECOND_WORD] = with_second_kind(self.words[SECOND_WORD], kind)

    def has_sum(self, local_index: int, kind: SumKind) -> bool:
        """Whether a present block's checksum of that kind need not be read from its bytes."""
        return kind is SumKind.CRC32C or (kind is self.second_kind and self.second_sum(local_index) != 0)

    def is_whole(self) -> bool:
        """Whether every block is present."""
        words = self.words[self.first_word : self.first_word + self.header.block_count]
        return all(is_present(word) for word in words)

    def block_sum(self, local_index: int, kind: SumKind) -> int | None:
        """The checksum of a present block, read from its bytes where none of that kind is kept. Blocking.

        None: the block is not present, or its bytes are not what its crc32c says.
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
        """Neither retired nor cut short; a segment found cut is condemned. Inline: one load, one lseek."""
        return not self.retired and self._sound_end() >= 0

    def is_cut(self) -> bool:
        """Whether the data file has been cut short; also of a segment retired before. Inline: one lseek."""
        return self._sound_end() < 0

    def _sound_end(self) -> int:
        """Where the data file ends, or -1 where it has been cut."""
        longest = self._longest  # before looking: a writer thread may make both grow meanwhile
        end = self._data_end()
        if end < longest:
            self.condemn()
            return -1
        self.grown(end)
        return end

    def condemn(self) -> None:
        """Set the retired flag, inline; whoever opens the segment next unlinks its files."""
        self.words[RETIRED_WORD] = 1

    def has_lost(self) -> bool:
        """Whether the kernel failed to write some of the data file back since it was opened here.

        The segment is condemned then, and its disk told. Inline: one system call that waits for nothing.
        """
        if self.disk.in_memory:
            return False
        with self._loss_guard:
            error = writeback.failure(self.data.fd)
            if error is not None:
                self._lose(error)
            return self.lost

    def lose(self, error: OSError) -> None:
        """Bytes of the data file could not be stored."""
        with self._loss_guard:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if not self.lost:
            self.lost = True
            self.condemn()
            self.disk.lost_bytes(error)

    def grown(self, end: int) -> None:
        """The data file has been seen as long as this. Of two threads' values the smaller may win: no harm."""
        self._longest = max(self._longest, end)

    def verified_piece(self, start: int, end: int) -> Piece | None:
        """Bytes [start, end) of this segment, if every block of them is present and checked in this run. Inline.

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
        """`verified_piece` for who has kept the segment itself, past the store: marks it as used."""
        if self.disk.failed:
            return None
        self.touched = True
        if self.words[VISITED_WORD] == 0:
            self.mark_visited()
        return self.verified_piece(start, end)

    def mark_visited(self) -> None:
        """For the evictor; stores only where the mark is gone, so that a hot page stays clean.

        Whoever loads an object once, reads its new segments many times. That must not look like a second use, or a
        scan of a large model would push out what is used each day.
        """
        if self.words[VISITED_WORD] != 0:
            return
        now_s = time.time()
        if not 0 <= now_s - self._created_s < FIRST_LOAD_S:  # below 0: the clock was set back
            self.words[VISITED_WORD] = 1
            self.words[LAST_USE_WORD] = int(now_s)

    def claim(self, local_index: int) -> bool:
        """Take the block's lock; False: a fill of this or another process has it, or the segment is retired.

        Inline: a microsecond, and an open of the map by its name where this process fills nothing else in it. Raises
        StoreUnavailable where the system has no more locks or descriptors.
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
        """Give the block's lock back: only after the last write has returned."""
        with self._guard:
            locks.unlock(self._lock_fd, local_index)
            self._leave(local_index)

    def _open_locks(self) -> bool:
        """False: the name leads to nothing, or to a successor. Who removed the map should have set its flag."""
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
        """Give the segment up for damage, whatever is filling in it. Blocking. Raises nothing."""
        self.condemn()
        with suppress(FileNotFoundError):
            try:
                self._retire_files(reason)
            except OSError as error:
                self.disk.trouble(error)

    def _retire_files(self, reason: str) -> None:
        fd = locks.open_for_locking(self.path)
        try:
            # The name may lead to a successor by now, which is not ours to touch.
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
    """The segment as it is on this disk, or None: absent, or damaged and retired. Blocking.

    Raises OSError where the disk fails (EIO ...) or descriptors run out.
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
    """Steps 2 and on of opening; None: not sound."""
    status = os.fstat(fd)
    if status.st_size != header.map_bytes or os.pread(fd, 8, RETIRED_WORD * 8) != bytes(8):
        return None
    data = _open_data(mapfile.data_path(path, header.nonce))
    if data is None:
        return None
    # The words first: a fill in another process lengthens the file, then stores its word. The other order would take
    # a block that is published in between for one that is lost, and give up a sound segment.
    present_end = mapfile.present_end(fd, header)
    if os.fstat(data.fd).st_size < present_end:
        return None
    try:
        words = map_words(fd, header.map_bytes)
    except ValueError:  # shorter than a moment ago
        return None
    return Segment(disk, path, header, tag, words, data, status)


def _open_data(path: Path) -> DataFile | None:
    """The shared lock keeps the file's room in the account for as long as it is open: see leaving.py."""
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
