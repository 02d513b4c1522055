"""One block of an open segment: its state, its bytes, the right to fill it, and its verification.

How reserving works, with the races written out. (1) Take the block's lock. If it is held, another fill is under way:
follow that one. (2) Only now look at the retired flag. It is set before the files are unlinked, and an evictor needs
all locks, so either it sees our lock and leaves, or we see its flag. (3) Only now look at the word: the last filler may
have published since the caller looked. (4) A word that still says "filling" under a free lock belongs to a dead process
of this run. Its start and progress are taken over, and its bytes are read back for the checksum. (5) Ask the disk for
the room that the block does not have yet; if it refuses, release the lock. (6) Charge the room, then store the word
"filling". If the process is killed in between, the account has one block too many until the next scan.
"""

from __future__ import annotations

from proxy.blocks import START_STEP_BYTES, Piece
from proxy.cache.accounts import on_disk
from proxy.cache.blockmap import (
    BlockKind,
    BlockState,
    charged_bytes,
    is_allocated,
    is_present,
    is_verified,
    is_written,
    pack_filling,
    pack_present,
    read_state,
    word_crc32c,
)
from proxy.cache.segment import Segment
from proxy.cache.sums import RunningSums
from proxy.cache.writer import SegmentWriter


class Block:
    """A block of an open segment; keeps the segment open. `index` counts from the object's start."""

    __slots__ = ("_local", "_segment", "index", "length")

    def __init__(self, segment: Segment, index: int) -> None:
        self._segment = segment
        self._local = index - segment.header.first_block
        self.index = index
        self.length = segment.header.block_length(self._local)

    def __repr__(self) -> str:
        return f"<Block {self.index} of {self._segment!r}: {self.state()}>"

    @property
    def retired(self) -> bool:
        """Whether the segment was retired: open the block again. Pieces already taken from it stay readable."""
        return self._segment.retired

    def state(self) -> BlockState:
        """Return the current state. Inline. "filling" is a hint: its process may be dead, which `reserve` finds out."""
        return read_state(self._segment.word(self._local), self._segment.tag, self.length)

    def crc32c(self) -> int:
        """Return the checksum of a present block. Inline."""
        return word_crc32c(self._segment.word(self._local))

    def piece(self, offset: int, length: int) -> Piece:
        """Return bytes of the block. The caller knows that they are there, from `state` or its writer."""
        assert 0 <= offset <= offset + length <= self.length
        return Piece(self._segment.data, self._local * self._segment.header.block_bytes + offset, length)

    def reserve(self, start: int = 0, first_bytes: int | None = None) -> SegmentWriter | None:
        """Reserve the right to fill the block from `start` (a multiple of 64 KiB) on; inline.

        `first_bytes`: the fill may stop after that many bytes, so no more room is allocated ahead. Return None if the
        block is being filled, is present by now, or its segment is retired. Raises StoreUnavailable when the disk has
        no room or is out of service.
        """
        assert start % START_STEP_BYTES == 0
        assert 0 <= start < self.length
        segment = self._segment
        if segment.retired or not segment.claim(self._local):
            return None
        reserved = False
        try:
            state = self.state()
            if not segment.is_sound() or state.kind is BlockKind.PRESENT:
                return None
            taken_over = state.kind is BlockKind.FILLING and state.progress > 0
            start, progress = (state.start, state.progress) if taken_over else (start, 0)
            word = segment.word(self._local)
            growth = on_disk(self.length) - charged_bytes(word, self.length)
            segment.disk.guard(growth)
            segment.disk.allocated(growth, segment.folder)
            segment.store_word(self._local, pack_filling(segment.tag, start, progress))
            reserved = True
        finally:
            if not reserved:
                segment.release(self._local)
        return SegmentWriter(
            segment, self._local, start, progress, allocated=is_allocated(word), first_bytes=first_bytes
        )

    @property
    def at_risk(self) -> bool:
        """Whether its bytes may be only in memory, so that a failed write-back could still lose them. Inline."""
        return not self._segment.disk.in_memory and not is_verified(self._segment.word(self._local), self._segment.tag)

    def is_lost(self) -> bool:
        """Return whether its file has lost bytes since this process opened it. If so, condemn the segment. Inline."""
        return self._segment.has_lost()

    def is_vouched(self) -> bool:
        """Return whether a living process has seen no write-back failure since before the block was written. Inline.

        A process that has had the file open since then learns of each failure and publishes it by the retired flag.
        A failure that no process has learned of yet is reported to this process's own file description.
        """
        segment = self._segment
        if not is_written(segment.word(self._local), segment.tag):
            return False
        return (self._local in segment.unstored or not segment.disk.orphans) and not segment.has_lost()

    def agrees(self) -> bool:
        """Return whether a present block's bytes match its checksum. Blocking."""
        word, sums = self._segment.word(self._local), RunningSums()
        try:
            whole = sums.read(self._segment.data.fd, self._local * self._segment.header.block_bytes, self.length)
        except OSError as error:
            self._segment.disk.trouble(error)
            return False
        return whole and is_present(word) and sums.crc32c == word_crc32c(word)

    def verify(self) -> bool:
        """Write a present block back to the disk, check it, and stamp it with this run. Blocking.

        The order matters: this process learns of failures since it opened the file. Bytes lost earlier, when no process
        had the file open, are gone from memory as well, so the checksum differs. Return False if the block is absent or
        damaged. The segment of a damaged block is retired: bytes that a complete response may have sent are never
        overwritten in the same file.
        """
        segment = self._segment
        word = segment.word(self._local)
        if not is_present(word):
            return False
        if is_verified(word, segment.tag):
            return True
        if not segment.disk.syncer.settle(segment, [self._local]):
            segment.retire("write_back")
            return False
        sums = RunningSums(segment.second_kind)
        try:
            whole = sums.read(segment.data.fd, self._local * segment.header.block_bytes, self.length)
        except OSError as error:
            segment.disk.trouble(error)
            whole = False
        if not whole or sums.crc32c != word_crc32c(word):
            segment.retire("damage")
            return False
        if sums.kind is not None:  # written separately from the word: a crash of the machine may have kept only one
            segment.store_second_sum(self._local, sums.second)
        if segment.word(self._local) == word:
            segment.store_word(self._local, pack_present(segment.tag, sums.crc32c))
        return True
