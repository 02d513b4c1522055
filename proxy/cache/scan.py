"""Finding out what a disk holds, folder by folder, and clearing away what nobody needs.

How it works. The 256 folders of `objects`, then the 256 of `keys`, are read one at a time; between two of them the
caller may do other things. Along the way:

- Allocated bytes (`st_blocks`, not lengths) of all files are added up. Meanwhile other processes allocate and free.
  Names are hashes, so what they change lies in a folder that was read already with the probability of the share of
  folders read: that share of their net change is added, and the published sum is right on average.
- Sound segments are listed for eviction. Those that are retired, damaged or without data are given up.
- Data files that no map names, unfinished maps and unfinished records go, once they are an hour old.
- Records that nobody has renewed for 30 days go, if no segment of their object is here; so do the oldest such
  records when there are more than `records_max`: the scan after the one that counted them removes them.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import struct
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from proxy.blocks import block_count
from proxy.cache import mapfile
from proxy.cache.disks import BROKEN, Disk
from proxy.cache.keys import TEMP_FOLDER, keys_folder, read_key_file
from proxy.cache.mapfile import STAT_BLOCK_BYTES
from proxy.cache.records import parse_version
from proxy.cache.shared import SharedTables
from proxy.objects import ObjectVersion

STRAY_AGE_S = 3600.0
RECORD_AGE_S = 30 * 86400.0
RECORD_BYTES = 4096  # what one takes on most file systems
RECORDS_MIN, RECORDS_SHARE = 10_000, 0.01  # records may be so many, or take this share of the disk

log = logging.getLogger(__name__)

FOLDERS = tuple(f"{number:02x}" for number in range(256))
_RECORD_NAME = re.compile("[0-9a-f]{62}", re.ASCII)
_ENTRY = struct.Struct(">Q32sQ")  # created ns, digest, segment: in byte order, the order of making


def pack_entry(facts: mapfile.MapFacts) -> bytes:
    """A segment in 48 bytes, so that a million of them fit into memory; sorts by age, the oldest first."""
    header = facts.header
    return _ENTRY.pack(header.created_ns, header.version.digest, header.segment)


def entry_path(objects: Path, entry: bytes) -> Path:
    """The segment's map."""
    _, digest, segment = _ENTRY.unpack(entry)
    return mapfile.map_path(objects, digest, segment)


class DiskScan:
    """One pass over one disk. `segments` (see pack_entry) and `allocated_bytes` are whole when `steps` has ended."""

    def __init__(
        self,
        disk: Disk,
        disks: Sequence[Disk],
        tables: SharedTables,
        segment_bytes: int,
        *,
        records_before_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`disks` are all of the store's; a record last changed before `records_before_s` is old."""
        self.segments: list[bytes] = []
        self.allocated_bytes = 0
        self.record_times_s = array("Q")
        self._disk = disk
        self._disks = disks
        self._tables = tables
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._strays_before_s = clock() - STRAY_AGE_S
        self._tombstones_before_s = clock() - RECORD_AGE_S
        self._records_before_s = max(self._tombstones_before_s, records_before_s)

    def steps(self) -> Iterator[None]:
        """Reads one folder before each yield, and publishes the sum at the end. Raises OSError (EIO ...)."""
        keys = keys_folder(self._disk)
        work = [(self._scan_objects, self._disk.objects / name) for name in FOLDERS]
        work += [(self._scan_records, keys / name) for name in FOLDERS]
        work.append((self._scan_temps, keys / TEMP_FOLDER))
        usage, index = self._tables.usage, self._disk.index
        net_bytes, missed_bytes = usage.net(index), 0.0
        for number, (scan, folder) in enumerate(work, start=1):
            freed_bytes = scan(folder)
            now_bytes = usage.net(index)
            missed_bytes += (now_bytes - net_bytes) * min(1.0, number / len(FOLDERS))
            self._disk.freed(freed_bytes)  # what this scan freed, it knows
            net_bytes = now_bytes - freed_bytes
            yield
        self.segments.sort()
        missed_bytes += usage.net(index) - net_bytes
        usage.publish_scan(index, max(0, self.allocated_bytes + round(missed_bytes)))

    def surplus_before_s(self) -> float:
        """Records last changed before that time are more than this disk should have: the next scan's limit."""
        times = sorted(self.record_times_s)
        records_max = max(RECORDS_MIN, int(self._disk.size_bytes * RECORDS_SHARE) // RECORD_BYTES)
        return times[-records_max] if len(times) > records_max else 0.0

    def _scan_objects(self, folder: Path) -> int:
        """Adds a folder of segments up, and returns how many bytes were freed in it."""
        files = self._list(folder)
        nonces: dict[str, str | None] = {}
        freed_bytes = 0
        for path, status in files:
            if path.suffix == ".map" and not stat.S_ISDIR(status.st_mode):
                with self._passing_over(path):
                    freed_bytes += self._take_map(path, nonces)
        for path, status in files:
            if status.st_mtime < self._strays_before_s and mapfile.is_stray(path, nonces):
                freed_bytes += self._remove(path, status)
        self.allocated_bytes -= freed_bytes
        return freed_bytes

    def _take_map(self, path: Path, nonces: dict[str, str | None]) -> int:
        """List a sound segment, or give it up and return the bytes freed."""
        nonces[path.stem] = None  # until it has been read
        facts = mapfile.read_map(path)
        if facts is not None:
            nonces[path.stem] = facts.header.nonce.hex()
            in_place = entry_path(self._disk.objects, pack_entry(facts)) == path
            if in_place and not facts.retired and facts.data_bytes is not None:
                self.segments.append(pack_entry(facts))
                return 0
        freed_bytes = mapfile.retire(path, facts.header.nonce if facts is not None else None, "damage", force=True)
        del nonces[path.stem]
        return freed_bytes or 0

    def _scan_records(self, folder: Path) -> int:
        freed_bytes = 0
        for path, status in self._list(folder):
            if not _RECORD_NAME.fullmatch(path.name) or not stat.S_ISREG(status.st_mode):
                continue
            self.record_times_s.append(max(0, int(status.st_mtime)))
            if status.st_mtime < self._records_before_s:
                with self._passing_over(path):
                    freed_bytes += self._remove_record(path)
        self.allocated_bytes -= freed_bytes
        return freed_bytes

    def _remove_record(self, path: Path) -> int:
        """Remove an old record, alone with its key: what was renewed meanwhile stays. Returns the bytes freed."""
        with self._tables.locks.stripe(bytes.fromhex(path.parent.name + path.name)):
            try:
                status = path.stat(follow_symlinks=False)
                version = parse_version(read_key_file(path))
            except FileNotFoundError:
                return 0
            if version is None:  # a tombstone, or damage
                removable = status.st_mtime < self._tombstones_before_s
            else:
                removable = status.st_mtime < self._records_before_s and not self._has_segments(version)
            return self._remove(path, status) if removable else 0

    def _has_segments(self, version: ObjectVersion) -> bool:
        return any(
            mapfile.map_path(disk.objects, version.digest, segment).exists()
            for disk in self._disks
            if not disk.failed
            for segment in range(block_count(version.size_bytes, self._segment_bytes))
        )

    def _scan_temps(self, folder: Path) -> int:
        freed_bytes = 0
        for path, status in self._list(folder):
            if status.st_mtime < self._strays_before_s and stat.S_ISREG(status.st_mode):
                freed_bytes += self._remove(path, status)
        self.allocated_bytes -= freed_bytes
        return freed_bytes

    def _list(self, folder: Path) -> list[tuple[Path, os.stat_result]]:
        files: list[tuple[Path, os.stat_result]] = []
        with self._passing_over(folder):
            files = mapfile.list_files(folder)
        self.allocated_bytes += sum(_allocated_bytes(status) for _, status in files)
        return files

    def _remove(self, path: Path, status: os.stat_result) -> int:
        """The bytes freed."""
        with self._passing_over(path):
            path.unlink(missing_ok=True)
            return _allocated_bytes(status)
        return 0

    @contextmanager
    def _passing_over(self, path: Path) -> Iterator[None]:
        """What can't be read or removed is left alone, unless the disk is broken. Raises OSError (EIO ...)."""
        try:
            yield
        except OSError as error:
            if error.errno in BROKEN:
                raise
            log.warning("the housekeeper leaves %s alone: %s", path, error)


def _allocated_bytes(status: os.stat_result) -> int:
    return status.st_blocks * STAT_BLOCK_BYTES
