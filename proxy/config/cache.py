"""Settings of the cache: its disks, their sizes and their upkeep."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from proxy.config.quantities import GIB, KIB, MIB, LocalPath, Share, Size, render_size
from proxy.config.section import KeyProblem, Section
from proxy.config.watermarks import smallest_size

DISK_BYTES_DEFAULT = 20 * GIB
DISK_BYTES_MIN = 64 * MIB


def default_cache_path() -> Path:
    """Return `$XDG_CACHE_HOME/warmstart`, `~/.cache/warmstart`, or, without a home, `/var/cache/warmstart`."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME, and a number that no user has: a container that runs under any uid
        base = Path("/var/cache")
    return base / "warmstart"


def _block_bytes(value: int) -> int:
    if value % (64 * KIB) or not 64 * KIB <= value <= 16 * MIB:
        raise ValueError("is not a multiple of 64KiB up to 16MiB; write 8MiB, for example")
    return value


def _segment_bytes(value: int | None) -> int | None:
    if value is not None and (value & (value - 1) or not 16 * MIB <= value <= 8 * GIB):
        raise ValueError("is not a power of two from 16MiB to 8GiB; leave it out, or write 1GiB, for example")
    return value


class DiskSettings(Section):
    """One cache directory. With several, put each on its own disk."""

    path: LocalPath = Field(default_factory=default_cache_path)
    """The directory, created if missing. A relative path starts at the working directory."""
    size: Annotated[Size, Field(ge=DISK_BYTES_MIN)] = DISK_BYTES_DEFAULT
    """Bytes that the cache may use there; at most the size of its file system."""


def one_or_more(value: Any) -> Any:
    """Turn a single value into a list of one."""
    return value if isinstance(value, list | tuple) else [value]


class CacheSettings(Section):
    """Where blocks are kept. Changing `block_size` or `segment_size` requires an empty cache."""

    block_size: Annotated[Size, AfterValidator(_block_bytes)] = 8 * MIB
    """Unit of fetching and checking. Larger blocks make small reads dearer; smaller ones cost more requests."""
    disks: Annotated[tuple[DiskSettings, ...], BeforeValidator(one_or_more)] = Field(
        default_factory=lambda: (DiskSettings(),), min_length=1, max_length=64
    )
    """One or more disks. An object's blocks are spread over them by size."""
    segment_size: Annotated[Size | None, AfterValidator(_segment_bytes)] = None
    """Unit of eviction. Default: 1/64 of the smallest disk, from 64MiB to 8GiB, fixed at first use."""
    high_watermark: Share = 0.95
    """Share of a disk's size at which eviction begins; it begins with two blocks left at the latest."""
    low_watermark: Share = 0.90
    """Share of a disk's size at which eviction ends."""
    scrub_rate: Size = 16 * MIB
    """Bytes per second that are re-read in the background to find bit rot; 0: none."""
    open_files_share: Share = 0.5
    """Share of this process's open files that the cache may hold; the rest is for connections."""

    @model_validator(mode="after")
    def _sizes_agree(self) -> CacheSettings:
        if self.low_watermark >= self.high_watermark:
            raise KeyProblem(
                "low_watermark",
                f"{self.low_watermark:.0%}",
                f"is not below high_watermark ({self.high_watermark:.0%}); lower it",
            )
        if self.segment_size is not None and self.segment_size < self.block_size:
            fix = f"is smaller than block_size ({render_size(self.block_size)}); remove it"
            raise KeyProblem("segment_size", render_size(self.segment_size), fix)
        smallest = smallest_size(self.block_size, self.high_watermark, self.low_watermark)
        for index, disk in enumerate(self.disks):
            if disk.size < smallest:
                raise KeyProblem(
                    f"disks[{index}].size",
                    render_size(disk.size),
                    f"is too small for blocks of {render_size(self.block_size)} and a low_watermark of"
                    f" {self.low_watermark:.0%}: eviction keeps two blocks free, which leaves room for fewer than two;"
                    f" write at least {render_size(smallest)}, or a smaller block_size",
                )
        paths = [disk.path.absolute() for disk in self.disks]
        for index, path in enumerate(paths):
            if path in paths[:index]:
                raise KeyProblem(f"disks[{index}].path", str(path), "is listed twice; give each disk its own directory")
        return self
