"""Locks among the processes of one run, which the kernel frees when their holder dies.

How it works. They are open file description locks on single bytes of the shared tables' memfd, far behind its end
(the locked byte need not exist). Memory never fails as a disk does, so a key can be locked while its disk is broken.
The next run has its own memfd and never sees the locks of this one. Each process opens the file again for locking
alone: `open` makes a new description, while an inherited descriptor would share the supervisor's, and its locks would
exclude nobody. It is never mapped, because a mapping keeps a closed description's locks alive.

    PROCESSES + n   the holder counts in slot n of the usage table
    STRIPES + n     the holder changes records of keys whose digest falls into stripe n
    LIMITERS + n    the holder changes the numbers of origin n's limiter
    SLOTS + n       the holder counts in slot n of all limiters
    LOOK_UPS + hash the holder asks the origin for a key, on behalf of all processes
    WRITERS + hash  the writer of that id is alive

Locks of one description don't exclude each other, so the threads of a process also take ordinary locks.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.cache import locks

PROCESSES = 1 << 56
STRIPES = 2 << 56
LIMITERS = 3 << 56
SLOTS = 4 << 56
LOOK_UPS = 5 << 56
WRITERS = 1 << 62
STRIPE_COUNT = 256
STRIPE_WAIT_S = 5.0  # a record is written in a millisecond; a tombstone that is synced to a busy disk takes seconds
_PAUSE_FIRST_S, _PAUSE_LONGEST_S = 0.0005, 0.02
LEDGER_TRIES = 100  # the lock is held for microseconds: after so many tries its holder must have been stopped


def writer_offset(writer_id: str) -> int:
    """Return the offset of a writer's lock: 61 bits of a hash of its id."""
    return WRITERS + (int.from_bytes(hashlib.sha256(writer_id.encode()).digest()[:8], "big") >> 3)


def look_up_offset(digest: bytes) -> int:
    """Return the offset of the lock of a key's look-up: 56 bits of its digest."""
    return LOOK_UPS + int.from_bytes(digest[:7], "big")


class RunLocks:
    """One process's access to the run's locks."""

    def __init__(self, table_fd: int) -> None:
        self._fd = os.open(f"/proc/self/fd/{table_fd}", os.O_RDWR | os.O_CLOEXEC)
        self._guard = threading.Lock()
        self._own: set[int] = set()
        self._threads = tuple(threading.Lock() for _ in range(STRIPE_COUNT))
        self.stripe_wait_s = STRIPE_WAIT_S

    def try_hold(self, offset: int) -> bool:
        """Take the lock until `release` or death. Return False if any process, this one included, holds it."""
        with self._guard:
            if offset in self._own or not locks.try_lock(self._fd, offset):
                return False
            self._own.add(offset)
            return True

    def release(self, offset: int) -> None:
        with self._guard:
            if offset in self._own:
                self._own.remove(offset)
                locks.unlock(self._fd, offset)

    def is_held(self, offset: int) -> bool:
        """Return whether a living process holds the lock."""
        return offset in self._own or locks.is_held(self._fd, offset)

    @contextmanager
    def stripe(self, digest: bytes) -> Iterator[None]:
        """Hold the stripe of a digest, excluding all threads and processes. Blocking: not for an event loop.

        Raises OSError (ETIMEDOUT) after `stripe_wait_s`: a process that was stopped while it holds the lock must not
        block the threads of the others, one after another.
        """
        number = digest[2]  # a byte that selects neither the token slot nor the folder
        until_s = time.monotonic() + self.stripe_wait_s
        if not self._threads[number].acquire(timeout=self.stripe_wait_s):
            raise _stripe_held()
        try:
            self._wait_for(STRIPES + number, until_s)
            try:
                yield
            finally:
                locks.unlock(self._fd, STRIPES + number)
        finally:
            self._threads[number].release()

    def _wait_for(self, offset: int, until_s: float) -> None:
        pause_s = _PAUSE_FIRST_S
        while not locks.try_lock(self._fd, offset):
            if time.monotonic() >= until_s:
                raise _stripe_held()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_LONGEST_S)

    def take_slot(self, count: int) -> int:
        """Take the first slot of the limiters that no living process has, until this process ends."""
        for number in range(count):
            if self.try_hold(SLOTS + number):
                return number
        raise RuntimeError(f"more than {count} processes of one run")

    @contextmanager
    def dead_slot(self, number: int) -> Iterator[bool]:
        """Yield whether no living process has that slot of the limiters; if so, none can take it meanwhile."""
        dead = self.try_hold(SLOTS + number)
        try:
            yield dead
        finally:
            if dead:
                self.release(SLOTS + number)

    @contextmanager
    def limiter(self, index: int) -> Iterator[None]:
        """Lock an origin's limiter, or go on without if its holder was stopped. Inline; event loop's thread only."""
        held = any(locks.try_lock(self._fd, LIMITERS + index) for _ in range(LEDGER_TRIES))
        try:
            yield
        finally:
            if held:
                locks.unlock(self._fd, LIMITERS + index)

    def close(self) -> None:
        with self._guard:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                self._own.clear()


def _stripe_held() -> OSError:
    return OSError(errno.ETIMEDOUT, "another process holds the lock of these keys; it was stopped, or its disk hangs")
