"""An estimate of the bytes on a disk, until the first scan of a run has ended.

How it works. The housekeeper writes the bytes used into `used` beside the layout, whenever they have changed by half a
percent of the disk's size, and when it ends. The next run uses that figure until it has counted for itself. Without the
file (the cache of an older program) everything in use on the file system counts. So nothing is written past the size,
and little is written at all until the scan has ended.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.cache.disks import Disk

_NAME = "used"

log = logging.getLogger(__name__)


def write_estimate(disk: Disk, used_bytes: int) -> None:
    """Write the estimate. Never raises: if that fails, an older figure stays."""
    path = disk.objects.with_name(_NAME)
    temporary = path.with_name(f"{_NAME}.tmp")
    try:
        temporary.write_text(f"{used_bytes}\n", "ascii")
        temporary.replace(path)
    except OSError as error:
        log.debug("the bytes used can't be written down: %s", error)


def read_estimate(root: Path, size_bytes: int) -> int:
    """Read the estimate from `root`, the layout's folder. Never raises: an unreadable disk counts as full."""
    if not (root / "objects").exists() and not (root / "keys").exists():
        return 0
    with suppress(OSError, ValueError):
        return max(0, int((root / _NAME).read_text("ascii")))
    try:
        status = os.statvfs(root)
    except OSError:
        return size_bytes
    return min(size_bytes, (status.f_blocks - status.f_bfree) * status.f_frsize)
