"""The processes that a bench starts: they die with it, run on a core of their own, and their CPU time is counted.

With two cores, the servers' side of a comparison gets one and the load's side the other, for every side the same: what
is compared is then what one core can serve, and the load's own cost disturbs none of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from shutil import which

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 30.0

_cores = sorted(os.sched_getaffinity(0))
SERVER_CORES = {_cores[0]}
LOAD_CORES = {_cores[-1]}


class Missing(Exception):
    """A peer's program is not installed; the text has the line that installs it."""


def program(name: str, install: str) -> str:
    """The program's path. Raises Missing with the line that installs it."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Missing(f"{name} is not installed: {install}")
    return found


def join_bench(cores: set[int]) -> None:
    """In a process just forked: it will run on these cores, and be told to end when the bench is gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # not SIGKILL: nginx's worker would outlive its master
    os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, cores: set[int] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """The program while the block runs; it is told to end after, and killed when it does not."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=partial(join_bench, cores or os.sched_getaffinity(0)),
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises RuntimeError with what the process printed when it does not listen in time."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"a peer did not start:\n{log.read_text('utf-8', 'replace')}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def pin(pids: Iterable[int], cores: set[int]) -> None:
    """Every thread of these processes on these cores."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(int(task.name), cores)


def cpu_seconds(pids: Iterable[int]) -> tuple[float, float]:
    """User and kernel CPU seconds that these processes have used so far (to 10 ms)."""
    user = kernel = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            user += int(fields[11])
            kernel += int(fields[12])
    return user / _TICKS_PER_S, kernel / _TICKS_PER_S


def back_memory(folder: Path, size_bytes: int) -> None:
    """Has the machine's host give so much memory to the page cache before the clock starts: by a file that is deleted.

    A virtual machine that reports its free pages loses them, and takes a fault of the host for each page that it uses
    next: writing new files then costs six times as much as on a machine of one's own. Freed just now, they are kept.
    """
    chunk = bytes(512 << 10)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(size_bytes // len(chunk)):
            file.write(chunk)
