"""The private folder of one run: what its processes share by name, gone when the run is over.

How it works. The folder's name carries the run id; in it lies a locked file, and `metrics/`, where prometheus-client
keeps each process's counters. It is put where memory is (`$XDG_RUNTIME_DIR`, the temporary folder) because the
counters change with every request. A kill -9 leaves it behind: the next start removes every folder whose lock is
free. The lock is taken before the file gets its name, so a folder that is just being made never looks left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from proxy.cache.layout import make_private

PREFIX = "warmstart-run-"
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_LOCK = "lock"
_UNLOCKED_FOR_S = 3600.0  # a folder without a lock file may be one that is just being made


class RuntimeFolder:
    """Makes the folder in the first of `parents` that lets it, and cleans up after dead runs there.

    The last of them is made where it is missing. Raises OSError where none can be written.
    """

    def __init__(self, run_id: str, parents: Sequence[Path]) -> None:
        self.path = _make_folder(run_id, parents)
        self.metrics = self.path / "metrics"
        self.metrics.mkdir(mode=0o700)
        self._lock_fd = _lock_folder(self.path)
        remove_left_behind(self.path.parent)

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock_fd)


def runtime_parents(last: Path) -> list[Path]:
    """Where a run's folder may lie, the best first; `last` where a machine lets nothing else be written."""
    parents = [Path(os.environ["XDG_RUNTIME_DIR"])] if os.environ.get("XDG_RUNTIME_DIR") else []
    with contextlib.suppress(FileNotFoundError):
        parents.append(Path(tempfile.gettempdir()))
    return [*parents, Path("/dev/shm"), last]


def remove_left_behind(parent: Path) -> None:
    """Removes this user's folders of runs that are over."""
    for folder in parent.glob(PREFIX + "*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            if _is_left_behind(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _make_folder(run_id: str, parents: Sequence[Path]) -> Path:
    complaints = []
    for parent in parents:
        try:
            if parent == parents[-1]:  # the cache's own, which a first start has not made yet
                make_private(parent)
            return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{run_id}-", dir=parent))
        except OSError as error:
            complaints.append(f"{parent} ({error.strerror})")
    raise OSError(f"no place for the run's folder: {', '.join(complaints)}; set TMPDIR to a folder that can be written")


def _lock_folder(folder: Path) -> int:
    fd = os.open(folder / "lock.new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.rename(folder / "lock.new", folder / _LOCK)
    return fd


def _is_left_behind(folder: Path) -> bool:
    try:
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - folder.stat().st_mtime > _UNLOCKED_FOR_S
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True
