"""The block map's format: one 64-bit word per block, behind a header that identifies the segment. Pure.

How it works. A map is a small file beside each segment, mapped by every process of the gateway:

    0     magic            8   "wsmap 1" and a byte that never occurs in text
    8     retired          8   mutable words: nonzero once the segment is retired; pinned; visited since the evictor
    16    pinned           8   last looked; Unix seconds of the last use. Each is read and written as one native
    24    visited          8   64-bit word, and none is covered by the checksum
    32    last use         8
    40    checksum         4   crc32c of the magic and of everything from here to the header's end, except for the
                               second sum
    44    header bytes     4   a multiple of 64
    48    object bytes     8
    56    block bytes      8
    64    blocks per full segment  8
    72    segment          8   this segment's number within its object
    80    created          8   Unix nanoseconds: the order of eviction
    88    nonce           16   names the data file
    104   second sum       4   the kind of the sums below: 0 none, 1 crc32, 2 crc64nvme; 0 may be changed later
    108   four lengths    16   of origin, bucket, key and validator, which follow as UTF-8, zeros to the header's end
    ...   words           8 each   one for each block of this segment
    ...   second sums     8 each   likewise; valid if the block's word says present and there is a second sum. 0 means
                               unknown: the kind may have become known after that block's fill had begun

All integers have the machine's byte order: a word must be one native store, and a map never leaves its machine
(the magic is text, so a map of the other byte order fails its checksum). A word:

    63      allocated  1: the disk has room reserved for the whole block, although it is absent or filling
    62..60  state      0 absent, 1 filling, 2 present, 3 present but not known to be stored; any other is damage: absent
    59..32  run tag    28 bits of the run that wrote the word
    31..0   present:   the block's crc32c
            filling:   31..24 start in steps of 64 KiB, 23..0 progress in bytes

One store therefore publishes state, run and checksum together. A block in state 3 has all of its bytes in the page
cache, but the kernel has not confirmed yet that they reached the disk (syncer.py). The progress of a full 16 MiB block
is one byte too large for its field: it stays one short until the block is present.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from proxy.blocks import BLOCK_BYTES_MAX, START_STEP_BYTES, block_count, update_sum
from proxy.cache.accounts import on_disk
from proxy.objects import ObjectVersion, SumKind

RETIRED_WORD, PINNED_WORD, VISITED_WORD, LAST_USE_WORD = 1, 2, 3, 4  # indices of 64-bit words in the header
SECOND_WORD = 13  # one half is the second sum, the other one the first of the lengths
WORD_BYTES = 8
NONCE_BYTES = 16
HEADER_BYTES_MAX = 64 << 10  # a key has at most 1 KiB, an ETag at most what fits into a header line
RUN_TAG_MAX = (1 << 28) - 1

_ABSENT, _FILLING, _PRESENT, _WRITTEN = 0, 1, 2, 3
_NO_RUN = 0  # the tag of a present block that no run has checked
_ALLOCATED = 1 << 63
ABSENT_WORD, ABSENT_ALLOCATED_WORD = 0, _ALLOCATED
_PROGRESS_MAX = (1 << 24) - 1
assert BLOCK_BYTES_MAX - 1 == _PROGRESS_MAX
assert _PRESENT >> 1 == _WRITTEN >> 1  # `is_present` looks at both with one comparison

_MAGIC = b"wsmap 1\xff"
_MUTABLE = struct.Struct("=8s4Q")
_FIXED = struct.Struct("=IIQQQQQ16sIIIII")
_CHECKED_FROM = _MUTABLE.size + 4  # behind the checksum
_NAMES_FROM = _MUTABLE.size + _FIXED.size
_SECOND_FROM = SECOND_WORD * WORD_BYTES
_SECOND = struct.Struct("=II")
_SECOND_KINDS: dict[int, SumKind | None] = {0: None, 1: SumKind.CRC32, 2: SumKind.CRC64NVME}
_SECOND_CODES = {kind: code for code, kind in _SECOND_KINDS.items()}


class BlockKind(Enum):
    ABSENT = "absent"
    FILLING = "filling"
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class BlockState:
    """The meaning of a word. `start` and `progress` (bytes) are those of a fill.

    `verified`: present, and this run has checked that its bytes are right and stored. `written`: present, filled in
    this run, and not known to be stored yet.
    """

    kind: BlockKind
    start: int = 0
    progress: int = 0
    verified: bool = False
    written: bool = False


_STATE_ABSENT = BlockState(BlockKind.ABSENT)
_STATE_VERIFIED = BlockState(BlockKind.PRESENT, verified=True)
_STATE_WRITTEN = BlockState(BlockKind.PRESENT, written=True)
_STATE_UNVERIFIED = BlockState(BlockKind.PRESENT)


def run_tag(run_id: str) -> int:
    """Return 28 bits that identify a run in every word; never 0, so that a zeroed word belongs to no run."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:4], "big") % RUN_TAG_MAX + 1


def pack_filling(tag: int, start: int, progress: int, *, allocated: bool = True) -> int:
    """Return the word of a fill. `allocated`: the whole block is charged, not only the progress."""
    assert 0 < tag <= RUN_TAG_MAX
    assert start % START_STEP_BYTES == 0
    assert 0 <= start < BLOCK_BYTES_MAX
    assert 0 <= progress <= BLOCK_BYTES_MAX
    word = _FILLING << 60 | tag << 32 | (start // START_STEP_BYTES) << 24 | min(progress, _PROGRESS_MAX)
    return word | _ALLOCATED if allocated else word


def pack_present(tag: int, crc32c: int) -> int:
    """Return the word of a block whose bytes are right and stored."""
    assert 0 < tag <= RUN_TAG_MAX
    assert 0 <= crc32c < 1 << 32
    return _PRESENT << 60 | tag << 32 | crc32c


def pack_written(tag: int, crc32c: int) -> int:
    """Return the word of a block that this run has filled, and that may still fail to reach the disk."""
    assert 0 < tag <= RUN_TAG_MAX
    assert 0 <= crc32c < 1 << 32
    return _WRITTEN << 60 | tag << 32 | crc32c


def pack_unchecked(crc32c: int) -> int:
    """Return the word of a present block that every run must check before its next use."""
    assert 0 <= crc32c < 1 << 32
    return _PRESENT << 60 | _NO_RUN << 32 | crc32c


def is_present(word: int) -> bool:
    """Return whether all bytes were written, known to be stored or not."""
    return word >> 61 == _PRESENT >> 1


def is_verified(word: int, tag: int) -> bool:
    """Return whether the block is present and stamped by that run: one comparison, for paths that scan many words."""
    return word >> 32 == verified_half(tag)


def is_written(word: int, tag: int) -> bool:
    """Return whether the block is present, filled in that run, and not known to be stored yet."""
    return word >> 32 == _WRITTEN << 28 | tag


def verified_half(tag: int) -> int:
    """Return the upper half of every word that `is_verified` for that run's tag."""
    return _PRESENT << 28 | tag


def word_crc32c(word: int) -> int:
    assert is_present(word)
    return word & 0xFFFFFFFF


def read_state(word: int, tag: int, length: int) -> BlockState:
    """Decode the word of a block of `length` bytes, as run `tag` sees it.

    A fill of another run counts as absent: its process is gone, and after a crash of the machine the bytes that it
    reports as written may never have reached the disk. So does a word that no fill could have written.
    """
    if is_present(word):
        if is_verified(word, tag):
            return _STATE_VERIFIED
        return _STATE_WRITTEN if is_written(word, tag) else _STATE_UNVERIFIED
    if (word & ~_ALLOCATED) >> 32 != _FILLING << 28 | tag:
        return _STATE_ABSENT
    start, progress = _fill_of(word)
    if start >= length or progress > length:
        return _STATE_ABSENT
    return BlockState(BlockKind.FILLING, start, progress)


def is_allocated(word: int) -> bool:
    """Return whether the whole block is charged: not if it was never begun, or if a small read's fill is under way."""
    return word != ABSENT_WORD and word >> 60 != _FILLING


def charged_bytes(word: int, length: int) -> int:
    """Return what a block of `length` bytes with that word is charged with, whatever its run."""
    if word == ABSENT_WORD:
        return 0
    if is_allocated(word):
        return on_disk(length)
    start, progress = _fill_of(word)
    behind = min(progress, max(0, length - start))
    return min(on_disk(behind) + on_disk(progress - behind), on_disk(length))


def _fill_of(word: int) -> tuple[int, int]:
    """Return the start and progress of a word in state filling."""
    return (word >> 24 & 0xFF) * START_STEP_BYTES, word & _PROGRESS_MAX


@dataclass(frozen=True, slots=True)
class MapHeader:
    """The header of a segment's map. `segment_blocks` counts a full segment's blocks; the object's last may have fewer.

    `second_sum` is the kind at the moment when the header was read.
    """

    version: ObjectVersion
    segment: int
    block_bytes: int
    segment_blocks: int
    nonce: bytes
    second_sum: SumKind | None = field(default=None, compare=False)
    created_ns: int = 0

    @property
    def first_block(self) -> int:
        return self.segment * self.segment_blocks

    @property
    def block_count(self) -> int:
        """The number of blocks of this segment."""
        return min(self.segment_blocks, block_count(self.version.size_bytes, self.block_bytes) - self.first_block)

    @property
    def data_bytes(self) -> int:
        """The bytes of the object that this segment holds when it is full."""
        start = self.first_block * self.block_bytes
        return min(self.segment_blocks * self.block_bytes, self.version.size_bytes - start)

    @property
    def header_bytes(self) -> int:
        return -(-(_NAMES_FROM + sum(map(len, _names(self.version)))) // 64) * 64

    @property
    def map_bytes(self) -> int:
        return self.header_bytes + 2 * WORD_BYTES * self.block_count

    @property
    def words_index(self) -> int:
        """Where the blocks' words begin, counted in words from the file's start."""
        return self.header_bytes // WORD_BYTES

    @property
    def sums_index(self) -> int:
        return self.words_index + self.block_count

    def block_length(self, local_index: int) -> int:
        """Return the bytes of this segment's block `local_index` (0 is its first)."""
        assert 0 <= local_index < self.block_count
        return min(self.block_bytes, self.data_bytes - local_index * self.block_bytes)

    def block_end(self, local_index: int) -> int:
        """Return where block `local_index` ends in the data file."""
        return local_index * self.block_bytes + self.block_length(local_index)

    def charged_bytes(self, words: Iterable[int]) -> int:
        """Return what the data file is charged with if these are the blocks' words."""
        return sum(charged_bytes(word, self.block_length(index)) for index, word in enumerate(words) if word)

    def holds(self, version: ObjectVersion, segment: int, block_bytes: int, segment_blocks: int) -> bool:
        return (version, segment, block_bytes, segment_blocks) == (
            self.version,
            self.segment,
            self.block_bytes,
            self.segment_blocks,
        )


def render_map(header: MapHeader, last_use_s: int) -> bytes:
    """Return a new map file's bytes, with every block absent. Raises ValueError if the names are too long."""
    names = _names(header.version)
    if header.header_bytes > HEADER_BYTES_MAX:
        raise ValueError("the object's names are too long for a map's header")
    fixed = _FIXED.pack(
        0,
        header.header_bytes,
        header.version.size_bytes,
        header.block_bytes,
        header.segment_blocks,
        header.segment,
        header.created_ns,
        header.nonce,
        _SECOND_CODES[header.second_sum],
        *map(len, names),
    )
    image = bytearray(header.map_bytes)
    _MUTABLE.pack_into(image, 0, _MAGIC, 0, 0, 0, last_use_s)
    image[_MUTABLE.size : _NAMES_FROM] = fixed
    joined = b"".join(names)
    image[_NAMES_FROM : _NAMES_FROM + len(joined)] = joined
    struct.pack_into("=I", image, _MUTABLE.size, _checksum(bytes(image[: header.header_bytes])))
    return bytes(image)


def parse_header(raw: bytes) -> MapHeader | None:
    """Return the header of a map file's first HEADER_BYTES_MAX bytes; None if the map is damaged."""
    if len(raw) < _NAMES_FROM or raw[:8] != _MAGIC:
        return None
    fields = _FIXED.unpack_from(raw, _MUTABLE.size)
    checksum, header_bytes, size, block_bytes, segment_blocks, segment, created_ns, nonce, second, *lengths = fields
    if not _NAMES_FROM <= header_bytes <= len(raw) or checksum != _checksum(raw[:header_bytes]):
        return None
    # The checksum matches, so this can only fail for a map of some later format.
    try:
        origin, bucket, key, validator = _split(raw[_NAMES_FROM:header_bytes], lengths)
        version = ObjectVersion(origin, bucket, key, validator, size)
        kind = _SECOND_KINDS.get(second)
        header = MapHeader(version, segment, block_bytes, segment_blocks, nonce, kind, created_ns)
    except ValueError:
        return None
    sound = 0 < block_bytes <= BLOCK_BYTES_MAX and segment_blocks > 0 and header.header_bytes == header_bytes
    return header if sound and header.block_count > 0 else None


def second_kind(word: int) -> SumKind | None:
    """Return the kind that SECOND_WORD names; None also for a code that this format does not define."""
    code, _ = _SECOND.unpack(word.to_bytes(WORD_BYTES, sys.byteorder))
    return _SECOND_KINDS.get(code)


def with_second_kind(word: int, kind: SumKind) -> int:
    """Return SECOND_WORD with that kind."""
    _, length = _SECOND.unpack(word.to_bytes(WORD_BYTES, sys.byteorder))
    return int.from_bytes(_SECOND.pack(_SECOND_CODES[kind], length), sys.byteorder)


def _names(version: ObjectVersion) -> list[bytes]:
    texts = (version.origin, version.bucket, version.key, version.validator)
    return [text.encode("utf-8", "surrogatepass") for text in texts]


def _split(raw: bytes, lengths: list[int]) -> list[str]:
    texts, start = [], 0
    for length in lengths:
        texts.append(raw[start : start + length].decode("utf-8", "surrogatepass"))
        start += length
    if start > len(raw):
        raise ValueError("names reach past the header")
    return texts


def _checksum(header: bytes) -> int:
    view = memoryview(header)
    checksum = 0
    for part in (view[:8], view[_CHECKED_FROM:_SECOND_FROM], view[_SECOND_FROM + 4 :]):
        checksum = update_sum(SumKind.CRC32C, part, checksum)
    return checksum
