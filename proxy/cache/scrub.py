"""The scrubber: it slowly reads the disk again, to find bits that rot while the gateway runs.

How it works. In segment after segment, each present block is read and its crc32c compared with the map's word. The
read bypasses the page cache (O_DIRECT), so that it tests the disk, and evicts nothing hot from memory. On a file system
without O_DIRECT it goes through the cache. If the checksum differs, the word is read again: the bytes are wrong only if
the segment is the same and the word still has that checksum. Then the segment is retired (bytes that a complete
response may have sent are never overwritten in the same file), and the next reader fetches it again. A segment that
the disk can't read is retired too, and so is one whose bytes the disk has no room for: a direct read first writes back
what is only in memory. Both count against the disk, and the pass goes on.

A pass over 1 TB at the default rate takes 17 hours.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Generator, Iterator
from pathlib import Path

from proxy.blocks import update_sum
from proxy.cache import mapfile
from proxy.cache.accounts import folder_of_object
from proxy.cache.blockmap import is_present, word_crc32c
from proxy.cache.disks import BROKEN, FULL, Disk
from proxy.cache.scan import FOLDERS
from proxy.metrics import CHECKSUM_FAILURES
from proxy.objects import SumKind

CHUNK_BYTES = 1 << 20  # of one read, and so the granularity of the pace
COST_BYTES_MIN = 64 << 10  # what a read costs however short it is: a million tiny objects are a lot of work
DIRECT_BYTES = 4096  # O_DIRECT requires offsets and lengths that are multiples of it, open(2)

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class Scrubber:
    """The scrubber of one disk. Each `steps` is one pass."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._memory = mmap.mmap(-1, CHUNK_BYTES)  # begins on a page, as O_DIRECT requires
        self._buffer = memoryview(self._memory)

    def steps(self) -> Iterator[int]:
        """Yield the cost in bytes after each read, and 0 after each folder; end early if the disk has failed.

        Raises OSError (EIO ...) for folders and maps.
        """
        for name in FOLDERS:
            if self._disk.failed:
                return
            for path, _ in mapfile.list_files(self._disk.objects / name):
                facts = mapfile.read_map(path) if path.suffix == ".map" else None
                if facts is not None and not facts.retired:
                    yield from self._scrub_segment(facts)
            yield 0

    def _scrub_segment(self, facts: mapfile.MapFacts) -> Iterator[int]:
        try:
            yield from self._read_segment(facts)
        except OSError as error:
            if error.errno not in FULL | BROKEN:
                raise
            self._retire(facts)
            self._disk.lost_bytes(error)

    def _read_segment(self, facts: mapfile.MapFacts) -> Iterator[int]:
        fd = self._open_data(facts.data_path, direct=facts.header.block_bytes % DIRECT_BYTES == 0)
        if fd is None:
            return
        try:
            for local_index, word in enumerate(mapfile.read_map_words(facts)):
                if is_present(word) and not (yield from self._is_right(fd, facts, local_index, word)):
                    self._condemn(facts, local_index, word)
                    return
        finally:
            os.close(fd)

    def _open_data(self, path: Path, *, direct: bool) -> int | None:
        """Open a data file; None if it is missing or unreadable, which its next user finds out. Raises OSError."""
        try:
            fd = os.open(path, _FLAGS | (os.O_DIRECT if direct else 0))
            if direct:
                try:
                    os.preadv(fd, [self._buffer[:DIRECT_BYTES]], 0)
                except OSError:
                    os.close(fd)
                    raise
        except OSError as error:
            if direct and error.errno == errno.EINVAL:  # unsupported by this file system, or only in larger units
                return self._open_data(path, direct=False)
            if error.errno == errno.ENOENT or error.errno in mapfile.UNREADABLE:
                return None
            raise
        return fd

    def _is_right(self, fd: int, facts: mapfile.MapFacts, local_index: int, word: int) -> Generator[int, None, bool]:
        """Return whether the block's bytes have the word's checksum."""
        position = local_index * facts.header.block_bytes
        left, crc32c = facts.header.block_length(local_index), 0
        while left > 0:
            wanted = min(left, CHUNK_BYTES)
            whole_pages = -(-wanted // DIRECT_BYTES) * DIRECT_BYTES
            if os.preadv(fd, [self._buffer[:whole_pages]], position) < wanted:
                return False  # the file ends before its block
            crc32c = update_sum(SumKind.CRC32C, self._buffer[:wanted], crc32c)
            position, left = position + wanted, left - wanted
            yield max(wanted, COST_BYTES_MIN)
        return crc32c == word_crc32c(word)

    def _condemn(self, facts: mapfile.MapFacts, local_index: int, word: int) -> None:
        words = mapfile.read_map_words(facts)
        if local_index >= len(words):  # another segment has replaced it, or it is gone
            return
        now = words[local_index]
        if is_present(now) and word_crc32c(now) == word_crc32c(word):
            CHECKSUM_FAILURES.labels("scrub").inc()
            self._retire(facts)

    def _retire(self, facts: mapfile.MapFacts) -> None:
        charge = mapfile.retire(facts.path, facts.header.nonce, "scrub", force=True)
        self._disk.retired(charge or 0, folder_of_object(facts.header.version.digest))
