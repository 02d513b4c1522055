"""The bytes and inodes of a file system, and how many of them the cache may still use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
RESERVE_INODES_MIN = 1024  # what a burst of small objects takes before the evictor reacts


@dataclass(frozen=True, slots=True)
class Space:
    """A file system's bytes and inodes, in total and still free. `inodes` is 0 if it does not limit them."""

    total_bytes: int
    free_bytes: int
    inodes: int = 0
    free_inodes: int = 0

    @classmethod
    def of(cls, path: Path) -> Space:
        status = os.statvfs(path)
        unit = status.f_frsize
        return cls(status.f_blocks * unit, status.f_bavail * unit, status.f_files, status.f_favail)

    @property
    def reserve_bytes(self) -> int:
        """What the cache leaves free: 1 %, between 64 MiB and 1 GiB, but at most a tenth of a tiny disk."""
        return min(max(self.total_bytes // 100, 64 * MIB), 1024 * MIB, self.total_bytes // 10)

    @property
    def reserve_inodes(self) -> int:
        """The inodes that the cache leaves free: 1 %, at least 1,024, but at most a tenth if there are few."""
        return min(max(self.inodes // 100, RESERVE_INODES_MIN), self.inodes // 10)
