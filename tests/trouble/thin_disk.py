"""A file system whose disk can run out of room beneath it, as on a thin pool: a loop device on a small tmpfs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1 << 20
DISK_BYTES = 320 * MIB  # mkfs.xfs makes none below 300 MiB
COMMANDS = {
    "ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
}


class ThinDisk:
    """Mounted at `folder`. Its room is given and taken behind the file system's back."""

    def __init__(self, folder: Path, pool: Path) -> None:
        self.folder = folder
        self._ballast = pool / "ballast"

    def take_room(self) -> None:
        """From now on nothing can be written that has no place in the pool yet."""
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(64 << 10))

    def give_room(self) -> None:
        self._ballast.unlink()

    def drop_pages(self) -> None:
        """Takes what is clean out of memory, as the kernel does when it needs room."""
        for path in self.folder.rglob("*.data"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def thin_disk(kind: str, folder: Path, pool: Path) -> Iterator[ThinDisk]:
    """Skips where such a disk can't be made."""
    if os.geteuid() != 0 or shutil.which(COMMANDS[kind][0]) is None:
        pytest.skip(f"{kind} on a loop device can't be made here")
    folder.mkdir()
    pool.mkdir()
    image = pool / "image"
    with contextlib.ExitStack() as undo:
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES + 64 * MIB}", "warmstart-test", str(pool))
        undo.callback(_unmount, pool)
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        _run(*COMMANDS[kind], str(image))
        _run("mount", "-o", "loop", str(image), str(folder))
        undo.callback(_unmount, folder)
        yield ThinDisk(folder, pool)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"{command[0]}: {done.stderr.strip()}")


def _unmount(path: Path) -> None:
    subprocess.run(["umount", str(path)], capture_output=True)
    if os.path.ismount(path):
        subprocess.run(["umount", "-l", str(path)], check=True)
