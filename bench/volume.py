"""A file system of its own for a bench: what fills it is gone with one file, and a new mount has nothing in memory.

ext4 in a sparse file behind a loop device, past the page cache of the file system below (so that nothing is kept
twice). It needs root; without, a plain folder does, whose files stay in memory as the kernel likes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which

_TOOLS = ("mkfs.ext4", "losetup", "mount", "umount")


@dataclass(frozen=True, slots=True)
class Volume:
    """`device` is None for a plain folder."""

    path: Path
    device: str | None

    def forget(self) -> None:
        """Mount it anew: no page, no inode and no name of it is in memory then. Nothing may use it."""
        if self.device is not None:
            _run("umount", str(self.path))
            _mount(self.device, self.path)


@contextmanager
def own_volume(folder: Path, size_bytes: int, inodes: int) -> Iterator[Volume]:
    """Empty, and gone after the block."""
    path = folder / "volume"
    path.mkdir()
    if os.geteuid() != 0 or not all(which(tool, path=_path()) for tool in _TOOLS):
        yield Volume(path, None)
        return
    image = folder / "volume.ext4"
    with image.open("wb") as file:
        file.truncate(size_bytes)
    _run("mkfs.ext4", "-q", "-F", "-N", str(inodes), "-m", "0", "-E", "lazy_itable_init=1,nodiscard", str(image))
    device = _run("losetup", "--find", "--show", "--direct-io=on", str(image)).strip()
    try:
        _mount(device, path)
        try:
            yield Volume(path, device)
        finally:
            _run("umount", str(path))
    finally:
        _run("losetup", "--detach", device)
        image.unlink()


def _mount(device: str, path: Path) -> None:
    _run("mount", "-t", "ext4", "-o", "noatime,noinit_itable", device, str(path))


def _run(*command: str) -> str:
    environment = {**os.environ, "PATH": _path()}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
