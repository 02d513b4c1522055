"""Removal of key records: those of evicted objects, old ones, and those that take too much of the disk.

How it works. A record takes a page and an inode. When the evictor has retired the only segment of an object, it also
removes the record of that version. Records without a segment (HEADs of objects that nobody reads, leftovers of large
objects) may take RECORDS_SHARE of a full disk. When all records together take more, the sweep goes from folder to
folder and removes the oldest records of each. Names are hashes, so each folder has its fair share of the old ones.
A disk that has room is not swept.

A record is removed under its key's lock (runlocks.py), and only if it was not renewed since the sweep saw it. Other
processes may still have it in memory. That is safe, because a record only repeats what the origin said.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from proxy.blocks import block_count
from proxy.cache import mapfile
from proxy.cache.accounts import KEYS, file_charge
from proxy.cache.disks import Disk
from proxy.cache.keys import keys_folder, read_key_file
from proxy.cache.records import parse_version
from proxy.cache.shared import SharedTables
from proxy.objects import ObjectKey, ObjectVersion

RECORDS_SHARE = 0.05  # of a full disk's size, for records without a segment
RECORD_AGE_S = 30 * 86400.0  # since it was last renewed
SWEEP_PAUSE_S = 60.0  # after a round that could not remove enough, because the remaining records have segments here
SWEEP_TO = 0.8  # of their share, so that the next sweep is not due at once
_FOLDER_COUNT = 256
_RECORD_NAME = re.compile("[0-9a-f]{62}", re.ASCII)


def is_record(path: Path) -> bool:
    """Return whether the file's name is that of a record."""
    return _RECORD_NAME.fullmatch(path.name) is not None


class RecordSweep:
    """The sweep of one disk. `disks` are all disks of the store, as an object's segments may be on any of them."""

    def __init__(
        self,
        disk: Disk,
        disks: Sequence[Disk],
        tables: SharedTables,
        segment_bytes: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk = disk
        self._disks = disks
        self._locks = tables.locks
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._budget_bytes = int(disk.size_bytes * RECORDS_SHARE)
        self._hand = 0
        self._left = _FOLDER_COUNT  # folders of this round that are still to be swept
        self._resume_at_s = 0.0

    def is_due(self) -> bool:
        """Return whether records take more than their share, and a sweep may help."""
        return self._disk.records_bytes > self._budget_bytes and self._clock() >= self._resume_at_s

    def step(self) -> None:
        """Sweep one folder. Raises OSError (EIO ...)."""
        records_bytes = max(1, self._disk.records_bytes)
        surplus = max(0.0, 1 - SWEEP_TO * self._budget_bytes / records_bytes)
        self._sweep(self._hand, surplus)
        self._hand = (self._hand + 1) % _FOLDER_COUNT
        self._left -= 1
        if self._left == 0:
            self._left = _FOLDER_COUNT
            if self._disk.records_bytes > self._budget_bytes:
                self._resume_at_s = self._clock() + SWEEP_PAUSE_S

    def _sweep(self, number: int, share: float) -> None:
        """Remove that share of a folder's records, oldest first, skipping those that have a segment here."""
        folder = keys_folder(self._disk) / f"{number:02x}"
        files = [(status.st_mtime, path) for path, status in mapfile.list_files(folder) if is_record(path)]
        files.sort()
        wanted = -int(-len(files) * share // 1)
        for seen_s, path in files:
            if wanted <= 0:
                return
            wanted -= self.remove(path, older_than_s=seen_s + 1e-6)

    def remove(self, path: Path, *, older_than_s: float) -> bool:
        """Remove a record that was last renewed before that time, unless a segment of its object is here.

        A tombstone stays for RECORD_AGE_S, because its writer may still be alive. Raises OSError.
        """
        with self._locks.stripe(bytes.fromhex(path.parent.name + path.name)):
            try:
                status = path.stat(follow_symlinks=False)
                if not stat.S_ISREG(status.st_mode) or status.st_mtime >= older_than_s:
                    return False
                version = parse_version(read_key_file(path))
            except FileNotFoundError:
                return False
            if version is None:  # a tombstone, or damage
                removable = status.st_mtime < time.time() - RECORD_AGE_S
            else:
                removable = not self._has_segments(version)
            return removable and self._unlink(path, status)

    def remove_of(self, version: ObjectVersion) -> None:
        """Remove the record of a version whose only segment is gone. Raises OSError."""
        digest = ObjectKey(version.origin, version.bucket, version.key).digest
        name = digest.hex()
        path = keys_folder(self._disk) / name[:2] / name[2:]
        with self._locks.stripe(digest):
            try:
                status = path.stat(follow_symlinks=False)
                found = parse_version(read_key_file(path))
            except FileNotFoundError:
                return
            if found == version and not self._has_segments(version):
                self._unlink(path, status)

    def _unlink(self, path: Path, status: os.stat_result) -> bool:
        path.unlink()
        self._disk.freed(file_charge(status), KEYS + int(path.parent.name, 16))
        return True

    def _has_segments(self, version: ObjectVersion) -> bool:
        return any(
            mapfile.map_path(disk.objects, version.digest, segment).exists()
            for disk in self._disks
            if not disk.failed
            for segment in range(block_count(version.size_bytes, self._segment_bytes))
        )
