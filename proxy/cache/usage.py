"""The bytes that each disk's cache has allocated, counted by all processes together without losing any.

How it works. Each counting process holds one slot: a lock that dies with it (runlocks.py). A slot has counters that
only its holder writes, so no addition is lost. A process that takes over a dead one's slot continues with its counters.
Counters are sums modulo 2^64, so that one may be negative. The bytes used are a base plus the charges of all slots. The
housekeeper sets the base from a scan of the disk, in one store.

A scan reads folder after folder (accounts.py) and publishes how far it has come. A charge in a folder that was already
read is counted a second time, as late. What the scan found plus the late charges is the total at its end. Only the
folder being read is uncertain, and only by what changes in it meanwhile.

Until the first scan of this run has ended, `used` is None. `used_at_most` then uses what the previous run wrote down
(estimate.py).

    per disk    failed | base | estimate | folders read | records' base | evicting | short | retired |
                orphans (of the first disk: whether some worker has died)
                (a base of 0: not known), then per counter one word for each process:
                charged bytes | of those, records' | of those, late | blind fences opened | closed

A blind fence is a write to the origin whose tombstone could not be written to this disk (keys.py).
"""

from __future__ import annotations

import threading

from proxy.cache.accounts import holds_records
from proxy.cache.runlocks import PROCESSES, RunLocks

DISK_COUNT_MAX = 64
PROCESS_COUNT_MAX = 256  # of one run at one time: workers, supervisor and housekeeper

_FAILED, _BASE, _ESTIMATE, _FOLDERS_READ, _RECORDS_BASE, _EVICTING, _SHORT, _RETIRED, _ORPHANS = range(9)
_CHARGED, _RECORDS, _LATE, _FENCES_OPENED, _FENCES_CLOSED = range(5)
_HEAD_WORDS = 16
_DISK_WORDS = _HEAD_WORDS + 5 * PROCESS_COUNT_MAX
USAGE_WORDS = DISK_COUNT_MAX * _DISK_WORDS

_BASE_BIAS = 1 << 62  # a base may be negative, and a stored 0 means "none"
_WORD = 1 << 64


class UsageTable:
    """The run's accounts. A disk's number is its index in the configuration, from 0."""

    def __init__(self, words: memoryview, locks: RunLocks) -> None:
        assert words.format == "Q"
        assert len(words) == USAGE_WORDS
        self._words = words
        self._locks = locks
        self._guard = threading.Lock()  # a slot is one process's, but many threads'
        self._slot: int | None = None

    def charge(self, disk_index: int, nbytes: int, folder: int) -> None:
        """Charge that many bytes, or a negative number, to a folder of the disk. No I/O: a few loads and stores."""
        self._add(disk_index, _CHARGED, nbytes)
        if holds_records(folder):
            self._add(disk_index, _RECORDS, nbytes)
        if folder < self._words[_disk_offset(disk_index) + _FOLDERS_READ]:
            self._add(disk_index, _LATE, nbytes)

    def used(self, disk_index: int) -> int | None:
        """Return the bytes allocated by the disk's cache; None until this run's first scan has ended."""
        return self._based(disk_index, _BASE)

    def used_at_most(self, disk_index: int) -> int:
        """Return `used` or, before the first scan has ended, the estimate."""
        used = self.used(disk_index)
        if used is None:
            used = self._based(disk_index, _ESTIMATE)
        return used if used is not None else self.net(disk_index)

    def records(self, disk_index: int) -> int:
        """Return the bytes of key records; before the first scan, only those that this run has added."""
        base = self._words[_disk_offset(disk_index) + _RECORDS_BASE]
        return (base - _BASE_BIAS if base else 0) + self._total(disk_index, _RECORDS)

    def net(self, disk_index: int) -> int:
        """Return the net charges of all processes in this run; may be negative."""
        return self._total(disk_index, _CHARGED)

    def begin_scan(self, disk_index: int) -> int:
        """Begin a scan. Return the late charges so far, for `publish_scan`."""
        self.scan_reached(disk_index, 0)
        return self._total(disk_index, _LATE)

    def scan_reached(self, disk_index: int, folders_read: int) -> None:
        """Publish that the folders below that number have been read; 0: no scan is under way."""
        self._words[_disk_offset(disk_index) + _FOLDERS_READ] = folders_read

    def publish_scan(self, disk_index: int, found_bytes: int, records_bytes: int = 0, late_before: int = 0) -> None:
        """Set the base that later charges add to, from the bytes that the scan found.

        `late_before` is what `begin_scan` returned. `records_bytes` is approximately the records' part.
        """
        found_bytes += self._total(disk_index, _LATE) - late_before
        offset = _disk_offset(disk_index)
        self._words[offset + _BASE] = max(0, found_bytes) - self.net(disk_index) + _BASE_BIAS
        self._words[offset + _RECORDS_BASE] = records_bytes - self._total(disk_index, _RECORDS) + _BASE_BIAS
        self.scan_reached(disk_index, 0)

    def publish_estimate(self, disk_index: int, used_bytes: int) -> None:
        """Set the estimate of what the disk holds when the run begins."""
        self._words[_disk_offset(disk_index) + _ESTIMATE] = used_bytes - self.net(disk_index) + _BASE_BIAS

    def set_evicting(self, disk_index: int, able: bool) -> None:
        """Publish whether there is something to evict, so that waiting for room makes sense. For the housekeeper."""
        self._words[_disk_offset(disk_index) + _EVICTING] = int(able)

    def can_evict(self, disk_index: int) -> bool:
        return bool(self._words[_disk_offset(disk_index) + _EVICTING])

    def report_short(self, disk_index: int) -> None:
        """Report that the file system refused to allocate (ENOSPC), whatever its figures say."""
        self._words[_disk_offset(disk_index) + _SHORT] = 1

    def take_short(self, disk_index: int) -> bool:
        """Return whether that was reported since the last call. For the housekeeper."""
        offset = _disk_offset(disk_index) + _SHORT
        short = bool(self._words[offset])
        if short:
            self._words[offset] = 0
        return short

    def tell_of_retired(self, disk_index: int) -> None:
        """Count one more evicted segment, so that processes that have it open close it. For the housekeeper."""
        self._words[_disk_offset(disk_index) + _RETIRED] += 1

    def retired(self, disk_index: int) -> int:
        """Return how many segments were evicted in this run. One load."""
        return int(self._words[_disk_offset(disk_index) + _RETIRED])

    def fail_disk(self, disk_index: int) -> None:
        """Take a disk that returned an I/O error out of service, for every process, until the next start."""
        self._words[_disk_offset(disk_index) + _FAILED] = 1

    def disk_failed(self, disk_index: int) -> bool:
        """Return whether the disk is out of service. One load, never waits."""
        return bool(self._words[_disk_offset(disk_index) + _FAILED])

    def note_death(self) -> None:
        """Note that a worker has died in this run: perhaps no process knows whether its blocks were stored."""
        self._words[_ORPHANS] = 1

    def orphans(self) -> bool:
        """Return whether some worker has died in this run. One load, never waits."""
        return bool(self._words[_ORPHANS])

    def open_blind_fence(self, disk_index: int) -> None:
        self._add(disk_index, _FENCES_OPENED, 1)

    def close_blind_fence(self, disk_index: int) -> None:
        self._add(disk_index, _FENCES_CLOSED, 1)

    def blind_fence_stands(self, disk_index: int) -> bool:
        """Return whether a living process has a blind fence open."""
        closed = self._counters(disk_index, _FENCES_CLOSED)  # first: what opens and closes meanwhile hides nothing
        opened = self._counters(disk_index, _FENCES_OPENED)
        if opened == closed:
            return False
        pairs = enumerate(zip(opened, closed, strict=True))
        return any(begun != ended and self._locks.is_held(PROCESSES + slot) for slot, (begun, ended) in pairs)

    def _add(self, disk_index: int, counter: int, amount: int) -> None:
        with self._guard:
            if self._slot is None:
                self._slot = self._claim_slot()
            offset = _column(disk_index, counter) + self._slot
            self._words[offset] = (self._words[offset] + amount) % _WORD

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

    def _based(self, disk_index: int, word: int) -> int | None:
        base = self._words[_disk_offset(disk_index) + word]
        return None if base == 0 else max(0, base - _BASE_BIAS + self.net(disk_index))

    def _total(self, disk_index: int, counter: int) -> int:
        """Return the sum over all processes; may be negative."""
        total = sum(self._counters(disk_index, counter)) % _WORD
        return total - _WORD if total >= _WORD // 2 else total

    def _counters(self, disk_index: int, counter: int) -> list[int]:
        """Return a counter's words of all processes."""
        start = _column(disk_index, counter)
        return self._words[start : start + PROCESS_COUNT_MAX].tolist()


def _disk_offset(disk_index: int) -> int:
    assert 0 <= disk_index < DISK_COUNT_MAX
    return disk_index * _DISK_WORDS


def _column(disk_index: int, counter: int) -> int:
    return _disk_offset(disk_index) + _HEAD_WORDS + counter * PROCESS_COUNT_MAX
