"""The first moments of a child process, before anything heavy is imported."""

from __future__ import annotations

import logging
import resource
import signal

from proxy.children import CONTROL, WORKER, ChildPaper, close_on_exec, die_with_parent, read_settings, say_invalid
from proxy.errors import ConfigInvalid
from proxy.logs import start_logging


def run_child(role: str, text: str) -> int:
    """Become what the paper says; returns the exit status."""
    paper = ChildPaper.parse(role, text)
    for shared in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to the whole group: the supervisor decides
        signal.signal(shared, signal.SIG_IGN)
    die_with_parent(paper.parent_pid)
    close_on_exec(paper.inherited())
    raise_open_files_limit()
    settings = read_settings(paper.settings_fd)
    start_logging(paper.name, level=settings.log.level, form=settings.log.format)
    try:
        if role == WORKER:
            from proxy.worker import run_worker

            run_worker(paper, settings)
        elif role == CONTROL:
            from proxy.control import run_control

            run_control(paper, settings)
        else:
            from proxy.housekeeping import keep_house

            keep_house(paper, settings)
    except ConfigInvalid as error:
        say_invalid(paper.status_fd, str(error))
        return 2
    except Exception:
        logging.getLogger("warmstart").exception("%s failed", paper.name)
        return 1
    return 0


def raise_open_files_limit() -> int:
    """As many descriptors as the system grants: connections and cache segments need them. Returns the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
