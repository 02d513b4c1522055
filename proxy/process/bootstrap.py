"""The first moments of a child process, before anything heavy is imported."""

from __future__ import annotations

import gc
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from proxy.errors import ConfigInvalid
from proxy.process.children import (
    CONTROL,
    WORKER,
    LaunchSpec,
    close_on_exec,
    die_with_parent,
    read_settings,
    say_invalid,
)
from proxy.process.logs import start_logging

if TYPE_CHECKING:
    from proxy.config.settings import Settings


def run_child(role: str, text: str) -> int:
    """Become what the launch spec says; returns the exit status."""
    spec = LaunchSpec.parse(role, text)
    for shared in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to the whole group: the supervisor decides
        signal.signal(shared, signal.SIG_IGN)
    die_with_parent(spec.parent_pid)
    close_on_exec(spec.inherited())
    raise_open_files_limit()
    settings = read_settings(spec.settings_fd)
    start_logging(spec.name, level=settings.log.level, form=settings.log.format)
    try:
        load_role(role)(spec, settings)
    except ConfigInvalid as error:
        say_invalid(spec.status_fd, str(error))
        return 2
    except Exception:
        logging.getLogger("warmstart").exception("%s failed", spec.name)
        return 1
    return 0


def load_role(role: str) -> Callable[[LaunchSpec, Settings], None]:
    """Import what a role needs, and return what runs it.

    Modules stay for good: no collection looks for garbage among them, neither while they load nor afterwards.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        if role == WORKER:
            from proxy.process.worker import run_worker

            return run_worker
        if role == CONTROL:
            from proxy.process.control import run_control

            return run_control
        from proxy.process.housekeeping import keep_house

        return keep_house
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def leave(status: int) -> NoReturn:
    """End the process. All that it held is closed, and Python would only take its modules apart, object by object."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def raise_open_files_limit() -> int:
    """As many descriptors as the system grants: connections and cache segments need them. Returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
