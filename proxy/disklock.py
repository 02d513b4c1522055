"""One gateway for each disk: a lock on `DISK/v1/lock` that a second one meets.

How it works. The lock (flock) belongs to the open file, which the supervisor's children inherit: it is free when the
last of them is gone, so no two runs ever touch one disk. Who holds it is written inside, for the message. When the
supervisor was killed, its children follow at once; a restart in that moment waits for them instead of giving up.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

from proxy.errors import ConfigInvalid

_DEAD_HOLDER_S = 10.0  # how long the children of a killed supervisor may take to die
_PAUSE_S = 0.02


class DiskLock:
    """Makes the disk's folder where it is missing and takes its lock. Raises ConfigInvalid in one line."""

    def __init__(self, key: str, disk: Path) -> None:
        """`key` is the setting that names the disk, for messages."""
        self.path = disk / "v1" / "lock"
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return False
        return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


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
