"""Child processes that the supervisor starts, and the launch spec that each one receives.

How it works. A child is a fresh program (`python -m proxy worker …`), never a fork of a running one. What it needs
comes by inherited descriptors: the listening sockets, the run's shared tables, the settings (in an anonymous file:
secrets belong neither into arguments nor into the environment), the disks' locks, and the writing end of a pipe. On
that pipe the child says that it serves, or why it never will; its end of file says that it is dead.

A child dies with its supervisor: the kernel kills it (PR_SET_PDEATHSIG). A supervisor that was gone before the child
could ask for that is found by comparing the parent's pid.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from proxy.config.handover import parse_settings, render_settings

if TYPE_CHECKING:
    from proxy.config.settings import Settings

WORKER = "worker"
HOUSEKEEPER = "housekeep"
CONTROL = "control"
ROLES = (WORKER, HOUSEKEEPER, CONTROL)
LET_GO = signal.SIGUSR1  # to a control process that drains: the workers have drained
READY = b"R"
INVALID = b"I"  # and the message: starting again would not help

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def role_name(role: str) -> str:
    """What logs, metrics and documentation call the processes of a role."""
    return "housekeeper" if role == HOUSEKEEPER else role


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """What a child is told. All `*_fd` are numbers that it inherits; `number` counts the children of one role.

    `fleet_fd`: the run's fleet memory, -1 where there is no fleet. `served_at`: host and port of the first listener.
    """

    role: str
    number: int
    run_id: str
    parent_pid: int
    settings_fd: int
    tables_fd: int
    status_fd: int
    listen_fds: tuple[int, ...]
    held_fds: tuple[int, ...]
    fleet_fd: int = -1
    served_at: tuple[str, int] = ("", 0)

    @property
    def name(self) -> str:
        return f"{self.role}-{self.number}" if self.role == WORKER else role_name(self.role)

    def arguments(self) -> list[str]:
        values = {key: value for key, value in asdict(self).items() if key != "role"}
        return [self.role, json.dumps(values, separators=(",", ":"))]

    @classmethod
    def parse(cls, role: str, text: str) -> Self:
        values: dict[str, Any] = json.loads(text)
        for key in ("listen_fds", "held_fds", "served_at"):
            values[key] = tuple(values[key])
        return cls(role=role, **values)

    def inherited(self) -> tuple[int, ...]:
        fleet_fds = (self.fleet_fd,) if self.fleet_fd >= 0 else ()
        return (self.settings_fd, self.tables_fd, self.status_fd, *fleet_fds, *self.listen_fds, *self.held_fds)


class Child:
    """One running process, seen from the supervisor. `status_fd` is readable when it has something to say."""

    def __init__(self, spec: LaunchSpec) -> None:
        self.status_fd, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.spec = replace(spec, parent_pid=os.getpid(), status_fd=theirs)
        self.ready = False
        self.complaint: str | None = None  # why its configuration can't be used
        self.started_s = time.monotonic()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "proxy", *self.spec.arguments()],
                stdin=subprocess.DEVNULL,
                pass_fds=self.spec.inherited(),
                env=_environment(),
            )
        except BaseException:
            os.close(self.status_fd)
            raise
        finally:
            os.close(theirs)

    @property
    def name(self) -> str:
        return self.spec.name

    def read_status(self) -> bool:
        """Takes what the child said; False when it is dead, which is then reaped."""
        try:
            said = os.read(self.status_fd, 4096)
        except BlockingIOError:
            return True
        if said.startswith(INVALID):
            self.complaint = said[1:].decode("utf-8", "replace")
        elif said:
            self.ready = True
        if said:
            return True
        os.close(self.status_fd)
        self.process.wait()
        return False

    def describe_end(self) -> str:
        status = self.process.returncode
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"


def share_settings(settings: Settings) -> int:
    """An anonymous file with the checked settings, for children to read."""
    fd = os.memfd_create("warmstart-settings", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(render_settings(settings))
    return fd


def read_settings(fd: int) -> Settings:
    """What `share_settings` wrote."""
    return parse_settings(os.pread(fd, os.fstat(fd).st_size, 0))


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies; exits at once where that has happened already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit("the supervisor is gone")


def close_on_exec(fds: Sequence[int]) -> None:
    """Inherited descriptors go no further than this process."""
    for fd in fds:
        os.set_inheritable(fd, False)


def say_ready(fd: int) -> None:
    """Tell the supervisor that this process does its work."""
    os.write(fd, READY)


def say_invalid(fd: int, message: str) -> None:
    """Tell the supervisor that the configuration can't be used."""
    os.write(fd, INVALID + message.encode()[:4000])


def _environment() -> dict[str, str]:
    """The supervisor's, by which `-P -m proxy` finds this package also where it is not installed."""
    environment = dict(os.environ)
    root = str(Path(__file__).parents[2])
    if Path(root).name not in ("site-packages", "dist-packages"):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    return environment
