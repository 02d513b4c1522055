"""One gateway for each disk: a lock on `DISK/v1/lock` that a second one meets.

How it works. The lock (flock) belongs to the open file, which the supervisor's children inherit: it is free when the
last of them is gone, so no two runs ever touch one disk. Who holds it is written inside, for the message. When the
supervisor was killed, its children follow at once; a restart in that moment waits for them instead of giving up.

What is made here is for its owner alone, at every level. A `v1` that another user owns, or may write to, is refused:
its files are served as they are, and whoever can write there can put others in their place.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from pathlib import Path

from proxy.cache.layout import make_private
from proxy.errors import ConfigInvalid

_DEAD_HOLDER_S = 10.0  # how long the children of a killed supervisor may take to die
_PAUSE_S = 0.02


class DiskLock:
    """Makes the disk's folder where it is missing and takes its lock. Raises ConfigInvalid in one line."""

    def __init__(self, key: str, disk: Path) -> None:
        """`key` is the setting that names the disk, for messages."""
        self.path = disk / "v1" / "lock"
        try:
            make_private(self.path.parent)
            _check_private(key, self.path.parent)
            self.fd = self._take(key, disk)
        except OSError as error:
            raise ConfigInvalid(f"{key}: {str(disk)!r} can't be written ({error.strerror}); {_fix(disk)}") from None

    def close(self) -> None:
        """Gives it up, once all who inherited it are gone."""
        os.close(self.fd)

    def _take(self, key: str, disk: Path) -> int:
        deadline = time.monotonic() + _DEAD_HOLDER_S
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(fd, 200, 0).decode("utf-8", "replace").split()
                os.close(fd)
                if time.monotonic() > deadline or not _is_dead(holder):
                    raise ConfigInvalid(_refusal(key, disk, holder)) from None
                time.sleep(_PAUSE_S)
                continue
            if self._is_current(fd):
                os.ftruncate(fd, 0)
                os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
                return fd
            os.close(fd)  # somebody emptied the cache meanwhile: lock the new file

    def _is_current(self, fd: int) -> bool:
        try:
            mine, there = os.fstat(fd), self.path.stat()
        except FileNotFoundError:
            make_private(self.path.parent)
            return False
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _check_private(key: str, folder: Path) -> None:
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise ConfigInvalid(
            f"{key}: {str(folder)!r} belongs to user {status.st_uid}, and this gateway is user {os.geteuid()};"
            f" give it to this user (chown -R {os.geteuid()} {folder}), or choose another directory"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigInvalid(
            f"{key}: others may write to {str(folder)!r} (mode {stat.S_IMODE(status.st_mode):04o});"
            f" look at what is in it, then run: chmod -R go-w {folder}"
        )


def _is_dead(holder: list[str]) -> bool:
    """Whether the named process is surely gone; one on another host (or in another container) can't be asked."""
    if len(holder) != 2 or not holder[0].isdigit():
        return True  # just being written, or cut off: look again
    if holder[1] != socket.gethostname():
        return False
    try:
        os.kill(int(holder[0]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _refusal(key: str, disk: Path, holder: list[str]) -> str:
    pid = f"pid {holder[0]}" if holder else "unknown pid"
    host = f" on {holder[1]}" if len(holder) > 1 and holder[1] != socket.gethostname() else ""
    return f"{key}: {str(disk)!r} is in use by another gateway ({pid}{host}); stop that one, or give this one its own"


def _fix(disk: Path) -> str:
    return f"make it writable for user {os.geteuid()}, or choose another directory"
