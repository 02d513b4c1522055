"""Memory that the processes of one run share: key tokens, bytes used per disk, and locks that die with their holder.

How it works. The supervisor creates one anonymous file (memfd), allocates it in full, seals its size and passes the
descriptor to its children, and each maps it. Everything shared is a single 64-bit word, always read and written whole
(`memoryview(...).cast("Q")[i]`). So nobody ever sees half a value, and no two processes ever write the same counter:

    header     magic, layout version, file size, numbers of tokens, processes, disks
    tokens     one random word per slot of keys                                    (tokens.py)
    usage      counters per disk and process, one flag and one base per disk       (usage.py)
    limiters    numbers of 64 origins, defined elsewhere                            (proxy.upstream.limiter)
    beats      of each worker, the time of its last tick
    missing    keys that an origin does not have                                   (missing.py)

A table that can't shrink (sealed) and has all of its pages (allocated) can't raise SIGBUS. Each run creates a new one:
nothing in it means anything to the next run.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from proxy.cache.missing import MISSING_WORDS, MissingTable
from proxy.cache.runlocks import RunLocks
from proxy.cache.tokens import TOKEN_COUNT, TokenTable
from proxy.cache.usage import DISK_COUNT_MAX, PROCESS_COUNT_MAX, USAGE_WORDS, UsageTable
from proxy.errors import ConfigInvalid

_MAGIC = 0x7761726D73746172  # "warmstar"
_LAYOUT_VERSION = 5
_HEADER_WORDS = 512  # a page of its own
_TOKENS_END = _HEADER_WORDS + TOKEN_COUNT
_USAGE_END = _TOKENS_END + USAGE_WORDS
LIMITER_COUNT = 64
LIMITER_WORDS = 288
_LEDGERS_END = _USAGE_END + LIMITER_COUNT * LIMITER_WORDS
BEAT_COUNT = 256  # workers
_BEATS_END = _LEDGERS_END + BEAT_COUNT
_TABLE_WORDS = _BEATS_END + MISSING_WORDS
_TABLE_BYTES = 8 * _TABLE_WORDS
_HEADER = (_MAGIC, _LAYOUT_VERSION, _TABLE_BYTES, TOKEN_COUNT, PROCESS_COUNT_MAX, DISK_COUNT_MAX)


class SharedTables:
    """The run's shared memory in one process. A child inherits `fd` (`pass_fds`) and attaches to it."""

    def __init__(self, fd: int) -> None:
        """Take ownership of the descriptor. Use `create` or `attach`."""
        self.fd = fd
        self._map = mmap.mmap(fd, _TABLE_BYTES)
        self._words = memoryview(self._map).cast("Q")
        self._parts = (
            self._words[_HEADER_WORDS:_TOKENS_END],
            self._words[_TOKENS_END:_USAGE_END],
            self._words[_BEATS_END:],
        )
        self._numbers = memoryview(self._map).cast("d")
        self._limiters: list[memoryview[float]] = []
        self.locks = RunLocks(fd)
        self.tokens = TokenTable(self._parts[0])
        self.usage = UsageTable(self._parts[1], self.locks)
        self.missing = MissingTable(self._parts[2])

    @classmethod
    def create(cls) -> SharedTables:
        """Create the tables of a new run, in the supervisor."""
        fd = os.memfd_create("warmstart-tables", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.posix_fallocate(fd, 0, _TABLE_BYTES)
        os.pwrite(fd, b"".join(word.to_bytes(8, "little") for word in _HEADER), 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(fd)

    @classmethod
    def attach(cls, fd: int) -> SharedTables:
        """Attach to the tables of an inherited descriptor, which still belongs to the caller.

        Raises ConfigInvalid, before mapping anything, if they have another layout: the program was replaced while its
        supervisor was running.
        """
        raw = os.pread(fd, 8 * len(_HEADER), 0)
        found = tuple(int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8))
        if found != _HEADER or os.fstat(fd).st_size != _TABLE_BYTES:
            raise ConfigInvalid(
                f"the shared tables have the layout {found[1:]}, this program's is {_HEADER[1:]}:"
                " the program was replaced while it runs; restart the gateway"
            )
        return cls(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))

    def limiter(self, index: int) -> memoryview[float]:
        """Return the numbers of one origin's limiter, all zero when the run starts."""
        assert 0 <= index < LIMITER_COUNT
        start = _USAGE_END + index * LIMITER_WORDS
        self._limiters.append(self._numbers[start : start + LIMITER_WORDS])
        return self._limiters[-1]

    def beat(self, worker: int, now_s: float) -> None:
        """Note that this worker is running. `now_s` is time.monotonic(), which is the same for all processes."""
        self._numbers[_LEDGERS_END + worker] = now_s

    def stopped(self, now_s: float, silence_s: float) -> bool:
        """Return whether some worker that has been running has been silent for that long."""
        beats = self._numbers[_LEDGERS_END : _LEDGERS_END + BEAT_COUNT].tolist()
        return any(beat and now_s - beat > silence_s for beat in beats)

    def close(self) -> None:
        """Unmap the tables and release this process's slot and locks. A second call does nothing."""
        if self.fd < 0:
            return
        self.locks.close()
        for numbers in (*self._limiters, self._numbers):
            numbers.release()
        for view in (*self._parts, self._words):
            view.release()
        self._map.close()
        os.close(self.fd)
        self.fd = -1
