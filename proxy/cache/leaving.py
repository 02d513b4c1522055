"""Retired segments that are still being read: they stay on the disk, and in its account, until the last reader closes.

How it works. A file that is unlinked while a slow client is still reading it goes on taking room on the disk, and
nothing shows what takes it. So a retired segment is not unlinked but moved, map first:

    leaving/<random id>.<bytes>.map     the name includes what the segment is charged with
    leaving/<random id>.data

Each process that has a data file open holds a shared lock on it, which ends with the last descriptor, however the
process ends. The housekeeper checks several times a second. If it gets the lock exclusively, nobody reads the file any
more: it unlinks both files and takes the charge off. What a killed gateway left here is removed at the next start.

The map of a segment is mapped only while its data file is open, so the one lock covers both.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from proxy.cache import locks
from proxy.cache.accounts import LEAVING
from proxy.cache.disks import BROKEN, Disk

CLOSING_S = 2.0  # workers close their handles within a second; a file open for longer is being sent
AGAIN_S, AGAIN_EACH_S = 0.1, 0.0001  # between two tries of one file, and longer if there are many

_NAME = re.compile(r"(?P<id>[0-9a-f]{32})\.(?P<bytes>\d{1,18})\.map", re.ASCII)


def move_out(map_path: Path, data_path: Path | None, charge: int) -> None:
    """Move a segment's files out of their folder, under `objects/`. Raises OSError (EIO, EROFS ...)."""
    folder = map_path.parents[2] / "leaving"
    name = secrets.token_hex(16)
    target = folder / f"{name}.{charge}.map"
    try:
        os.rename(map_path, target)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, exist_ok=True)
        os.rename(map_path, target)
    if data_path is not None:
        with suppress(FileNotFoundError):
            os.rename(data_path, folder / f"{name}.data")


def charges(folder: Path) -> dict[str, int]:
    """Return what each segment there is charged with, by the name of its map file. Raises OSError (EIO ...)."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return {}
    found = ((name, _NAME.fullmatch(name)) for name in names)
    return {name: int(match["bytes"]) for name, match in found if match is not None}


class Leaving:
    """The retired segments of one disk, for the housekeeper."""

    def __init__(self, disk: Disk, clock: Callable[[], float]) -> None:
        self._disk = disk
        self._clock = clock
        self._came_s: dict[str, float] = {}  # when each was first seen here
        self._tried_s: dict[str, float] = {}
        self._charges: dict[str, int] = {}  # of files that were still open the last time
        self._expected_bytes = 0  # retired since then

    @property
    def open_bytes(self) -> int:
        """Bytes of retired segments that somebody still has open."""
        return sum(self._charges.values())

    def closing_bytes(self) -> int:
        """Return the part of them that should be free in a moment."""
        since_s = self._clock() - CLOSING_S
        closing = (charge for name, charge in self._charges.items() if self._came_s[name] >= since_s)
        return self._expected_bytes + sum(closing)

    def expect(self, charge: int) -> None:
        """Note that a segment charged with that many bytes was retired since the last `clear`."""
        self._expected_bytes += charge

    def clear(self) -> None:
        """Unlink the files that nobody has open. Blocking: gigabytes take a while. Raises OSError (EIO ...)."""
        now_s = self._clock()
        again_s = now_s - AGAIN_S - AGAIN_EACH_S * len(self._charges)
        kept: dict[str, int] = {}
        tried_s: dict[str, float] = {}
        for name, charge in charges(self._disk.leaving).items():
            last_s = self._tried_s.get(name)
            if last_s is None or last_s <= again_s:
                if self._remove(name, charge):
                    continue
                last_s = now_s
            kept[name], tried_s[name] = charge, last_s
        self._came_s = {name: self._came_s.get(name, now_s) for name in kept}
        self._charges, self._tried_s, self._expected_bytes = kept, tried_s, 0

    def _remove(self, name: str, charge: int) -> bool:
        """Remove one segment's files. Return False if they are still open somewhere."""
        data = self._disk.leaving / f"{name.partition('.')[0]}.data"
        try:
            if not _unlink_idle(data):
                return False
            os.unlink(self._disk.leaving / name)
        except OSError as error:
            if error.errno in BROKEN:
                raise
            return False  # it still takes room, and still counts
        self._disk.freed(charge, LEAVING)
        return True


def _unlink_idle(data: Path) -> bool:
    try:
        fd = locks.open_for_locking(data)
    except FileNotFoundError:
        return True
    try:
        if not locks.try_lock(fd, 0, locks.TO_THE_END):
            return False
        os.unlink(data)
        return True
    finally:
        os.close(fd)
