"""The check that the file systems of the cache's disks are as large as the settings say.

How it works. All directories on one file system count together. A cache larger than its file system is rejected: it
would reach the reserve (space.py) before its watermark, and the size was probably meant for another disk, or for one
that is not mounted. Other files may come and go, so those there now never prevent a start: the reserve leaves them
room. If they leave the cache less than its size, a warning says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.cache.estimate import read_estimate
from proxy.cache.layout import FOLDER
from proxy.cache.space import Space
from proxy.config.quantities import render_size
from proxy.config.watermarks import HEADROOM_BLOCKS, KEPT_BLOCKS
from proxy.errors import ConfigInvalid

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class DiskClaim:
    """The size that one disk of the settings asks for. `key` is its setting, such as `cache.disks[0]`."""

    key: str
    path: Path
    size_bytes: int


def check_capacity(claims: Sequence[DiskClaim], block_bytes: int) -> list[str]:
    """Return the warnings. Raises ConfigInvalid. A missing directory counts on its parent's file system."""
    warnings = []
    for on_one in _by_file_system(claims).values():
        first = on_one[0]
        space = Space.of(_existing(first.path))
        asked_bytes = sum(claim.size_bytes for claim in on_one)
        sizes = " and ".join(f"{claim.key}.size" for claim in on_one)
        paths = " and ".join(str(claim.path) for claim in on_one)
        there = f"the file system of {paths} has {_render(space.total_bytes)}"
        if asked_bytes > space.total_bytes:
            share = (space.total_bytes - space.reserve_bytes) // len(on_one)
            raise ConfigInvalid(
                f"{sizes}: {_render(asked_bytes)} can't be kept, {there};"
                f" write {_render(share)} or less{' each' if len(on_one) > 1 else ''}, or name a larger disk"
            )
        usable_bytes = space.total_bytes - space.reserve_bytes
        least_bytes = (HEADROOM_BLOCKS + KEPT_BLOCKS + 1) * block_bytes
        if usable_bytes < least_bytes:
            raise ConfigInvalid(
                f"{first.key}.path: {there}, of which {_render(space.reserve_bytes)} stay free: too little for blocks"
                f" of {_render(block_bytes)}, which need {_render(least_bytes)}; name a larger disk, or set a smaller"
                " cache.block_size"
            )
        own_bytes = sum(read_estimate(claim.path / FOLDER, claim.size_bytes) for claim in on_one)
        within_bytes = max(0, own_bytes + space.free_bytes - space.reserve_bytes)
        if within_bytes < asked_bytes:
            warnings.append(
                f"{sizes}: {_render(asked_bytes)} are asked for, but {there}, and other files leave the cache"
                f" {_render(within_bytes)} of them: it evicts to stay within that"
            )
    return warnings


def _by_file_system(claims: Sequence[DiskClaim]) -> dict[int, list[DiskClaim]]:
    found: dict[int, list[DiskClaim]] = {}
    for claim in claims:
        found.setdefault(os.stat(_existing(claim.path)).st_dev, []).append(claim)
    return found


def _existing(path: Path) -> Path:
    """Return the directory, or the nearest one above it that exists."""
    path = path.absolute()
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _render(nbytes: int) -> str:
    """Return a size in a readable unit, as it may be written in the settings."""
    if nbytes >= 1 << 30:
        return f"{nbytes / (1 << 30):.1f}GiB"
    return render_size(max(_MIB, nbytes // _MIB * _MIB))
