"""The scan of a disk, folder by folder: it counts what is there and removes what nobody needs.

How it works. The 256 folders of `objects`, then the 256 of `keys`, then `leaving` and the folders themselves are read
one at a time. Between two of them the caller may do other things. Along the way:

- What the files are charged with is added up (accounts.py), and what the file system has allocated for a data file
  beyond that. Meanwhile other processes allocate and free. What they do in a folder that was already read, they count
  as late (usage.py), and it is added.
- Sound segments are listed for eviction. Those that are retired, damaged or without data are retired for good.
- Data files that no map names, unfinished maps and unfinished records are removed once they are an hour old.
- Records not renewed for 30 days are removed, if no segment of their object is here.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.cache import leaving, mapfile
from proxy.cache.accounts import FOLDERS as ALL_FOLDERS
from proxy.cache.accounts import KEYS, LEAVING, STAT_BLOCK_BYTES, TEMP, file_charge
from proxy.cache.disks import BROKEN, Disk
from proxy.cache.keys import TEMP_FOLDER, keys_folder
from proxy.cache.recordsweep import RECORD_AGE_S, RecordSweep, is_record
from proxy.cache.shared import SharedTables

STRAY_AGE_S = 3600.0

log = logging.getLogger(__name__)

FOLDERS = tuple(f"{number:02x}" for number in range(256))
_ENTRY = struct.Struct(">Q32sQ")  # created ns, digest, segment: sorting the bytes sorts by creation time


def pack_entry(facts: mapfile.MapFacts) -> bytes:
    """Return a segment in 48 bytes, so that a million fit into memory; they sort by age, oldest first."""
    header = facts.header
    return _ENTRY.pack(header.created_ns, header.version.digest, header.segment)


def entry_path(objects: Path, entry: bytes) -> Path:
    """Return the path of the segment's map."""
    _, digest, segment = _ENTRY.unpack(entry)
    return mapfile.map_path(objects, digest, segment)


def folder_bytes(disk: Disk) -> int:
    """Return what the folders themselves take: they grow with the names in them. About 500 calls of stat."""
    keys = keys_folder(disk)
    folders = [disk.objects, keys, disk.leaving, keys / TEMP_FOLDER]
    folders += [parent / name for parent in (disk.objects, keys) for name in FOLDERS]
    return sum(_folder_bytes(folder) for folder in folders)


def _folder_bytes(folder: Path) -> int:
    try:
        return os.stat(folder).st_blocks * STAT_BLOCK_BYTES
    except (FileNotFoundError, NotADirectoryError):
        return 0


class DiskScan:
    """One pass over one disk. `segments` (see pack_entry) and the bytes are complete when `steps` has ended.

    `found_bytes` is the total; `records_bytes` and `folder_bytes` are parts of it.
    """

    def __init__(
        self,
        disk: Disk,
        records: RecordSweep,
        tables: SharedTables,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.segments: list[bytes] = []
        self.found_bytes = self.records_bytes = self.folder_bytes = 0
        self._disk = disk
        self._records = records
        self._usage = tables.usage
        self._strays_before_s = clock() - STRAY_AGE_S
        self._old_before_s = clock() - RECORD_AGE_S

    def steps(self) -> Iterator[None]:
        """Read one folder before each yield, and publish the sum at the end. Raises OSError (EIO ...)."""
        keys = keys_folder(self._disk)
        work: list[tuple[Callable[[Path, int], int], Path]] = []
        work += [(self._scan_objects, self._disk.objects / name) for name in FOLDERS]
        work += [(self._scan_records, keys / name) for name in FOLDERS]
        work += [(self._scan_temps, keys / TEMP_FOLDER), (self._scan_leaving, self._disk.leaving)]
        assert len(work) == ALL_FOLDERS
        assert (work[KEYS][0], work[TEMP][0], work[LEAVING][0]) == (
            self._scan_records,
            self._scan_temps,
            self._scan_leaving,
        )
        usage, index = self._usage, self._disk.index
        late_bytes = usage.begin_scan(index)
        for number, (scan, folder) in enumerate(work):
            self.found_bytes += scan(folder, number)
            usage.scan_reached(index, number + 1)
            yield
        self.folder_bytes = folder_bytes(self._disk)
        self.found_bytes += self.folder_bytes
        self.segments.sort()
        usage.publish_scan(index, self.found_bytes, self.records_bytes, late_bytes)

    def _scan_objects(self, folder: Path, number: int) -> int:
        """Remove what nobody needs from a folder of segments, and return what the rest takes."""
        files = self._list(folder)
        nonces: dict[str, str | None] = {}
        data: set[str] = set()  # the names of data files that were counted with their map
        found_bytes = 0
        for path, status in files:
            if path.suffix == ".map" and not stat.S_ISDIR(status.st_mode):
                with self._passing_over(path):
                    found_bytes += self._take_map(path, nonces, data, number)
                    continue
                found_bytes += file_charge(status)
        for path, status in files:
            if path.suffix == ".map" or path.name in data or not stat.S_ISREG(status.st_mode):
                continue
            if status.st_mtime < self._strays_before_s and mapfile.is_stray(path, nonces):
                found_bytes += self._remove(path, status, number)
            elif path.exists():  # otherwise it has just gone with its map
                found_bytes += status.st_blocks * STAT_BLOCK_BYTES  # it may have holes
        return found_bytes

    def _take_map(self, path: Path, nonces: dict[str, str | None], data: set[str], number: int) -> int:
        """List a sound segment and return what it takes; retire any other."""
        nonces[path.stem] = None  # until it has been read
        facts = mapfile.read_map(path)
        if facts is not None:
            nonces[path.stem] = facts.header.nonce.hex()
            in_place = entry_path(self._disk.objects, pack_entry(facts)) == path
            if in_place and not facts.retired and facts.data_bytes is not None:
                self.segments.append(pack_entry(facts))
                data.add(facts.data_path.name)
                return facts.charged_bytes + facts.surplus_bytes
        charge = mapfile.retire(path, facts.header.nonce if facts is not None else None, "damage", force=True)
        self._disk.retired(charge or 0, number)
        del nonces[path.stem]
        return 0

    def _scan_records(self, folder: Path, number: int) -> int:
        found_bytes = 0
        for path, status in self._list(folder):
            if not stat.S_ISREG(status.st_mode):
                continue
            if is_record(path) and status.st_mtime < self._old_before_s:
                with self._passing_over(path):
                    if self._records.remove(path, older_than_s=self._old_before_s):
                        continue
            found_bytes += file_charge(status)
        self.records_bytes += found_bytes
        return found_bytes

    def _scan_temps(self, folder: Path, number: int) -> int:
        found_bytes = 0
        for path, status in self._list(folder):
            if stat.S_ISREG(status.st_mode) and status.st_mtime < self._strays_before_s:
                found_bytes += self._remove(path, status, number)
        return found_bytes  # fresh ones will soon be renamed, and are charged then

    def _scan_leaving(self, folder: Path, number: int) -> int:
        with self._passing_over(folder):
            return sum(leaving.charges(folder).values())
        return 0

    def _list(self, folder: Path) -> list[tuple[Path, os.stat_result]]:
        with self._passing_over(folder):
            return mapfile.list_files(folder)
        return []

    def _remove(self, path: Path, status: os.stat_result, number: int) -> int:
        """Remove a file and return what is left of it. Only the last scan has counted it: nobody has charged it."""
        with self._passing_over(path):
            path.unlink(missing_ok=True)
            self._disk.freed(status.st_blocks * STAT_BLOCK_BYTES, number)
            return 0
        return status.st_blocks * STAT_BLOCK_BYTES

    @contextmanager
    def _passing_over(self, path: Path) -> Iterator[None]:
        """Skip what can't be read or removed, unless the disk is broken. Raises OSError (EIO ...)."""
        try:
            yield
        except OSError as error:
            if error.errno in BROKEN:
                raise
            log.warning("the housekeeper leaves %s alone: %s", path, error)
