"""How many bytes each disk's cache has allocated, counted by every process and lost by none.

How it works. Each counting process holds one slot: a lock that dies with it (runlocks.py). A slot has counters that
only grow, and only its holder writes them, so nobody's addition is lost; whoever takes the slot over after a death
goes on from where the counters stand. The bytes used are a base, plus all that was allocated, minus all that was
freed, over all slots. The housekeeper sets the base from a scan of the disk, in one store; until its first scan of
this run nobody knows what the disk holds, and `used` says None.

    per disk    failed | base (0: not scanned) | then per counter one word for each process:
                allocated bytes | freed bytes | blind fences opened | closed

A blind fence is a write to the origin whose tombstone could not be written to this disk (keys.py).
"""

from __future__ import annotations

import threading

from proxy.cache.runlocks import PROCESSES, RunLocks

DISK_COUNT_MAX = 64
PROCESS_COUNT_MAX = 256  # of one run at one time: workers, supervisor and housekeeper

_FAILED, _BASE = 0, 1
_ALLOCATED, _FREED, _FENCES_OPENED, _FENCES_CLOSED = range(4)
_HEAD_WORDS = 8
_DISK_WORDS = _HEAD_WORDS + 4 * PROCESS_COUNT_MAX
USAGE_WORDS = DISK_COUNT_MAX * _DISK_WORDS

_BASE_BIAS = 1 << 62  # a base may be negative, and a stored 0 means "none"


class UsageTable:
    """The run's accounts. Disks are named by their place in the configuration, from 0."""

    def __init__(self, words: memoryview, locks: RunLocks) -> None:
        assert words.format == "Q"
        assert len(words) == USAGE_WORDS
        self._words = words
        self._locks = locks
        self._guard = threading.Lock()  # a slot is one process's, but many threads'
        self._slot: int | None = None

    def allocated(self, disk_index: int, nbytes: int) -> None:
        """This process has allocated so many bytes of the disk. Cheap enough for an event loop: no I/O."""
        self._add(disk_index, _ALLOCATED, nbytes)

    def freed(self, disk_index: int, nbytes: int) -> None:
        self._add(disk_index, _FREED, nbytes)

    def used(self, disk_index: int) -> int | None:
        """Bytes allocated under the disk's cache, as well as known; None until this run's first scan has ended."""
        base = self._words[_place(disk_index) + _BASE]
        return None if base == 0 else max(0, base - _BASE_BIAS + self.net(disk_index))

    def net(self, disk_index: int) -> int:
        """Bytes allocated less bytes freed by all processes of this run; may be negative."""
        return sum(self._counters(disk_index, _ALLOCATED)) - sum(self._counters(disk_index, _FREED))

    def publish_scan(self, disk_index: int, allocated_bytes: int) -> None:
        """The disk holds so many bytes now: the housekeeper's word, which later counts add to."""
        self._words[_place(disk_index) + _BASE] = allocated_bytes - self.net(disk_index) + _BASE_BIAS

    def fail_disk(self, disk_index: int) -> None:
        """Take a disk that returned an I/O error out of service, for every process, until the next start."""
        self._words[_place(disk_index) + _FAILED] = 1

    def disk_failed(self, disk_index: int) -> bool:
        """One load, never waits."""
        return bool(self._words[_place(disk_index) + _FAILED])

    def open_blind_fence(self, disk_index: int) -> None:
        self._add(disk_index, _FENCES_OPENED, 1)

    def close_blind_fence(self, disk_index: int) -> None:
        self._add(disk_index, _FENCES_CLOSED, 1)

    def blind_fence_stands(self, disk_index: int) -> bool:
        """Whether a living process has one open."""
        closed = self._counters(disk_index, _FENCES_CLOSED)  # first: one that opens and closes meanwhile hides none
        opened = self._counters(disk_index, _FENCES_OPENED)
        if opened == closed:
            return False
        pairs = enumerate(zip(opened, closed, strict=True))
        return any(begun != ended and self._locks.is_held(PROCESSES + slot) for slot, (begun, ended) in pairs)

    def _add(self, disk_index: int, counter: int, amount: int) -> None:
        assert amount >= 0
        with self._guard:
            if self._slot is None:
                self._slot = self._claim_slot()
            self._words[_column(disk_index, counter) + self._slot] += amount

    def _claim_slot(self) -> int:
        for slot in range(PROCESS_COUNT_MAX):
            if self._locks.try_hold(PROCESSES + slot):
                self._close_fences_of_the_dead(slot)
                return slot
        raise RuntimeError(f"more than {PROCESS_COUNT_MAX} processes share the tables of one run")

    def _close_fences_of_the_dead(self, slot: int) -> None:
        for disk_index in range(DISK_COUNT_MAX):
            opened = self._words[_column(disk_index, _FENCES_OPENED) + slot]
            self._words[_column(disk_index, _FENCES_CLOSED) + slot] = opened

    def _counters(self, disk_index: int, counter: int) -> list[int]:
        """A counter's words of all processes."""
        start = _column(disk_index, counter)
        return self._words[start : start + PROCESS_COUNT_MAX].tolist()


def _place(disk_index: int) -> int:
    assert 0 <= disk_index < DISK_COUNT_MAX
    return disk_index * _DISK_WORDS


def _column(disk_index: int, counter: int) -> int:
    return _place(disk_index) + _HEAD_WORDS + counter * PROCESS_COUNT_MAX
