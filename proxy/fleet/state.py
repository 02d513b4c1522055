"""What the processes of one node share about the fleet: a piece of memory that the supervisor makes for each run.

How it works. The control process writes the roster and the times until which records may be trusted; workers read
them. Which fill a block of this node belongs to (`join`) and which fills this node's block directory has begun (`own`)
stand in two tables, one slot for the hash of a block: the fill's id, and the same mixed with the block's hash. So a
slot that another block has taken, or that two processes write at the same time, says "nobody knows". The keyed digests
of blocks (`proxy.relay.digests`) stand in a third table of the kind: 1.5 MiB, for 512 GiB of blocks of 8 MiB. The rows
of workers are their own affair, read by the control process.

The roster is guarded by its sequence number, odd while it is being written: a reader that finds it odd, or changed,
or a checksum that does not fit (a writer killed in the middle), keeps what it read before.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import zlib

_MAGIC = 0x77735F626F617264  # "ws_board"
_VERSION = 3
ROSTER_BYTES_MAX = 2 << 20
SLOT_COUNT = 65_536
DISCARDED_COUNT = 4096
DIGEST_BYTES = 16
ROW_COUNT = 256  # workers
ROW_WORDS = 16

_SEQUENCE, _LENGTH, _SUM, _FRESH_UNTIL, _DUE_BEFORE, _COORDINATED, _HEARD, _RUN_NONCE = range(2, 10)
_ROWS = 512
_JOINED = _ROWS + ROW_COUNT * ROW_WORDS
_OWNED = _JOINED + 2 * SLOT_COUNT
_DISCARDED = _OWNED + 2 * SLOT_COUNT
_DIGESTS = _DISCARDED + DISCARDED_COUNT
_ROSTER = _DIGESTS + 3 * SLOT_COUNT
_WORD = 2**64 - 1
_BYTES = 8 * _ROSTER + ROSTER_BYTES_MAX

# columns of a worker's row
UPLOADS, FILLS, SENT_BYTES, RECEIVED_BYTES, ORIGIN_BYTES, HITS, MISSES = range(7)


class FleetState:
    """The run's fleet memory as one process sees it. `fd` is what a child inherits and attaches."""

    def __init__(self, fd: int) -> None:
        """Use `create` or `attach`; takes the descriptor over."""
        self.fd = fd
        self._map = mmap.mmap(fd, _BYTES)
        whole = memoryview(self._map)
        self._words = whole[: 8 * _ROSTER].cast("Q")
        self._numbers = whole[: 8 * _ROSTER].cast("d")
        self._text = whole[8 * _ROSTER :]
        whole.release()

    @classmethod
    def create(cls) -> FleetState:
        """The supervisor's part."""
        fd = os.memfd_create("warmstart-fleet", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.posix_fallocate(fd, 0, _BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        fleet_state = cls(fd)
        fleet_state._words[0], fleet_state._words[1] = _MAGIC, _VERSION
        fleet_state._words[_RUN_NONCE] = secrets.randbits(64)
        return fleet_state

    @classmethod
    def attach(cls, fd: int) -> FleetState:
        """Join the memory behind an inherited descriptor, which stays the caller's."""
        return cls(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))

    @property
    def run_nonce(self) -> int:
        """A random number of this run's: two nodes may have one id, where a disk was copied."""
        return self._words[_RUN_NONCE]

    # The roster.

    @property
    def sequence(self) -> int:
        """Changes with the roster; odd while it is being written."""
        return self._words[_SEQUENCE]

    def publish_roster(self, text: bytes) -> None:
        """The control process's. Raises ValueError for more than ROSTER_BYTES_MAX."""
        if len(text) > ROSTER_BYTES_MAX:
            raise ValueError(f"a roster of {len(text)} bytes; {ROSTER_BYTES_MAX} are the most")
        words = self._words
        sequence = words[_SEQUENCE] | 1
        words[_SEQUENCE] = sequence
        self._text[: len(text)] = text
        words[_LENGTH], words[_SUM] = len(text), zlib.crc32(text)
        words[_SEQUENCE] = sequence + 1

    def read_roster(self) -> tuple[int, bytes] | None:
        """Its sequence number and text; None: none yet, or it is being written."""
        words = self._words
        sequence = words[_SEQUENCE]
        if sequence == 0 or sequence & 1:
            return None
        text = bytes(self._text[: min(words[_LENGTH], ROSTER_BYTES_MAX)])
        if words[_SEQUENCE] != sequence or zlib.crc32(text) != words[_SUM]:
            return None
        return sequence, text

    # How long records may be trusted.

    @property
    def fresh_until_s(self) -> float:
        """Until when (time.monotonic) this node is sure to have heard of every write."""
        return self._numbers[_FRESH_UNTIL]

    @fresh_until_s.setter
    def fresh_until_s(self, value: float) -> None:
        self._numbers[_FRESH_UNTIL] = value

    @property
    def due_before_s(self) -> float:
        """Records checked until this moment (Unix time) may have missed a write."""
        return self._numbers[_DUE_BEFORE]

    @due_before_s.setter
    def due_before_s(self, value: float) -> None:
        self._numbers[_DUE_BEFORE] = value

    @property
    def heard(self) -> int:
        """The stamp of the last write that this node has been told of; see proxy.fleet.channel."""
        return self._words[_HEARD]

    @heard.setter
    def heard(self, stamp: int) -> None:
        self._words[_HEARD] = stamp

    @property
    def coordinated(self) -> bool:
        """Whether Redis answers. False without one."""
        return bool(self._words[_COORDINATED])

    @coordinated.setter
    def coordinated(self, value: bool) -> None:
        self._words[_COORDINATED] = int(value)

    # Fills.

    def join(self, block_hash: int, fill_id: int) -> None:
        """A fill of this node's has this source."""
        self._mark(_JOINED, block_hash, fill_id)

    def joined(self, block_hash: int) -> int:
        """0: nobody knows."""
        return self._marked(_JOINED, block_hash)

    def own(self, block_hash: int, fill_id: int) -> None:
        """This node's block directory names sources within this fill."""
        self._mark(_OWNED, block_hash, fill_id)

    def owned(self, block_hash: int) -> int:
        """0: nobody knows."""
        return self._marked(_OWNED, block_hash)

    def _mark(self, table: int, block_hash: int, fill_id: int) -> None:
        at = table + 2 * (block_hash % SLOT_COUNT)
        self._words[at], self._words[at + 1] = fill_id, fill_id ^ block_hash & _WORD

    def _marked(self, table: int, block_hash: int) -> int:
        at = table + 2 * (block_hash % SLOT_COUNT)
        fill_id = self._words[at]
        return fill_id if fill_id ^ self._words[at + 1] == block_hash & _WORD else 0

    def discarded(self, block_hash: int) -> int:
        """Another number each time that a fill of the block threw bytes of other nodes away, to begin anew."""
        return self._words[_DISCARDED + block_hash % DISCARDED_COUNT]

    def discard(self, block_hash: int) -> None:
        self._words[_DISCARDED + block_hash % DISCARDED_COUNT] = secrets.randbits(64)

    def keep_digest(self, block_hash: int, digest: bytes) -> None:
        """The block has these bytes on this node's disks."""
        at, words = _DIGESTS + 3 * (block_hash % SLOT_COUNT), self._words
        first, second = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
        words[at], words[at + 1], words[at + 2] = first, second, (first ^ second ^ block_hash) & _WORD

    def digest(self, block_hash: int) -> bytes | None:
        """None: nobody knows."""
        at, words = _DIGESTS + 3 * (block_hash % SLOT_COUNT), self._words
        first, second = words[at], words[at + 1]
        if words[at + 2] == 0 or (first ^ second ^ block_hash) & _WORD != words[at + 2]:
            return None
        return first.to_bytes(8, "little") + second.to_bytes(8, "little")

    # Workers' rows.

    def add(self, row: int, column: int, number: int) -> None:
        """By the worker of that row alone."""
        at = _ROWS + row * ROW_WORDS + column
        self._words[at] = max(0, self._words[at] + number)

    def put(self, row: int, column: int, number: int) -> None:
        """By the worker of that row alone."""
        self._words[_ROWS + row * ROW_WORDS + column] = number

    def clear_row(self, row: int) -> None:
        """A new worker's first act: what its predecessor had under way has ended with it. Totals stay."""
        for column in (UPLOADS, FILLS):
            self._words[_ROWS + row * ROW_WORDS + column] = 0

    def total(self, column: int) -> int:
        """Over all workers."""
        return sum(self._words[_ROWS + row * ROW_WORDS + column] for row in range(ROW_COUNT))

    def close(self) -> None:
        """Leave. Calling it twice does no harm."""
        if self.fd < 0:
            return
        for view in (self._words, self._numbers, self._text):
            view.release()
        self._map.close()
        os.close(self.fd)
        self.fd = -1
