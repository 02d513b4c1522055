"""Block arithmetic, pieces and block checksums.

How it works. An object version is cut into blocks of `block_bytes`; the last one is shorter. A fill may begin at
`start` inside its block (where its reader is), runs to the block's end and then wraps to the block's beginning;
`progress` counts the bytes it has written in that order. `available_bytes` answers what a reader at some offset
may take of it. A finished block carries its crc32c; those of an object combine into the object's, with no second
read.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import cache
from typing import Any, NamedTuple, Protocol

from proxy.objects import ObjectVersion, SumKind
from proxy.ranges import ByteRange

BLOCK_BYTES_MAX = 16 << 20  # progress in a block map's word has 24 bits
START_STEP_BYTES = 64 << 10  # start in a block map's word has 8 bits, in these steps
assert BLOCK_BYTES_MAX <= 256 * START_STEP_BYTES


def block_count(size_bytes: int, block_bytes: int) -> int:
    return -(-size_bytes // block_bytes)


def block_span(index: int, size_bytes: int, block_bytes: int) -> ByteRange:
    """The bytes of block `index` of an object of that size."""
    start = index * block_bytes
    if not 0 <= start < size_bytes:
        raise ValueError(f"an object of {size_bytes} bytes has no block {index}")
    return ByteRange(start, min(start + block_bytes, size_bytes))


def blocks_of(span: ByteRange, block_bytes: int) -> range:
    """The indices of the blocks that a range touches; empty for an empty range."""
    if span.length == 0:
        return range(0)
    return range(span.start // block_bytes, (span.end - 1) // block_bytes + 1)


def available_bytes(start: int, progress: int, length: int, offset: int) -> int:
    """How many bytes a reader at `offset` of a block may take in one piece of a fill that has come so far.

    >>> available_bytes(0, 10, 100, 4), available_bytes(50, 60, 100, 50), available_bytes(50, 60, 100, 4)
    (6, 50, 6)
    """
    assert 0 <= start < max(length, 1)
    assert 0 <= progress <= length
    assert 0 <= offset < length
    if progress == length:
        return length - offset
    if offset >= start:
        return max(0, min(start + progress, length) - offset)
    return max(0, start + progress - length - offset)


class DataFile:
    """A descriptor that closes with its last reference: pieces may outlive the handle that made them."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd

    def has_hole(self, offset: int, length: int) -> bool:
        """Whether some of these bytes are neither in memory nor on the disk, and would be read as zeros. Inline."""
        return os.lseek(self.fd, offset, os.SEEK_HOLE) < offset + length

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Piece(NamedTuple):
    """`length` bytes at `offset` of a file: what a response sends."""

    file: DataFile
    offset: int
    length: int


class ByteSink(Protocol):
    """Takes an object's bytes in order. `write` returns None when done, or what to await before the next call.

    The memory behind `data` is the caller's again as soon as the write (or its awaitable) is done.
    """

    def write(self, data: memoryview) -> Awaitable[None] | None: ...


class Later:
    """What a sink's `write` has left to do: `work(*arguments)` begins only when this is awaited, once.

    A plain coroutine that is dropped unawaited, because its reader was cancelled meanwhile, leaves the coroutines
    inside it behind; this leaves nothing.
    """

    __slots__ = ("_arguments", "_work")

    def __init__(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        self._work = work
        self._arguments = arguments

    def __await__(self) -> Generator[Any, None, None]:
        return self._work(*self._arguments).__await__()


class BlockWriter(Protocol):
    """The right to fill one block, held by a lock that dies with this process.

    `start` and `progress` may be a dead predecessor's: `read_back` (blocking: in a thread) must then sum its bytes
    before the first write. `write` appends at the fill's position, raises
    StoreUnavailable when the disk is full or broken. `commit` publishes the block, once `progress == length`;
    `crc32c` is that of what is written, in the fill's order, `block_crc32c` that of the complete block.
    `leave` gives the right up and what was written to whoever reserves the block next; `abandon` keeps nothing. None
    of them may be called while a write is under way.
    """

    start: int
    progress: int
    length: int

    @property
    def crc32c(self) -> int: ...

    @property
    def block_crc32c(self) -> int: ...

    def write(self, data: memoryview) -> Awaitable[None] | None: ...

    def read_back(self) -> None: ...

    def commit(self) -> None: ...

    def leave(self) -> None: ...

    def abandon(self) -> None: ...


class RangeSource(Protocol):
    """What a fill needs of an origin; `proxy.origin` states the whole contract."""

    @property
    def name(self) -> str: ...

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None: ...


@cache
def _checksums() -> Any:
    from awscrt import checksums  # loaded by who sums: the supervisor, which starts first and alone, does not

    return checksums


def update_sum(kind: SumKind, data: memoryview, previous: int = 0) -> int:
    """The checksum of `previous`'s bytes followed by `data`."""
    checksums = _checksums()
    match kind:
        case SumKind.CRC32C:
            return int(checksums.crc32c(data, previous))
        case SumKind.CRC32:
            return int(checksums.crc32(data, previous))
        case SumKind.CRC64NVME:
            return int(checksums.crc64nvme(data, previous))


def combine_sums(kind: SumKind, first: int, second: int, second_length: int) -> int:
    """The checksum of two runs of bytes from theirs; `second_length` is the second run's, in bytes."""
    checksums = _checksums()
    match kind:
        case SumKind.CRC32C:
            return int(checksums.combine_crc32c(first, second, second_length))
        case SumKind.CRC32:
            return int(checksums.combine_crc32(first, second, second_length))
        case SumKind.CRC64NVME:
            return int(checksums.combine_crc64nvme(first, second, second_length))
