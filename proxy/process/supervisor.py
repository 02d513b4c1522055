"""The process tree of one run: it holds what must outlive a worker, and does no work itself.

How it works.
1. The disks' locks are taken, the listeners bound, the shared tables made: whatever is wrong shows here, before
   anything serves.
2. Workers, the housekeeper and, in a fleet, the control process are started and watched by their status pipes. One
   that dies is counted and started again, after a pause that doubles while it dies young. Connections wait in the
   listeners' queue meanwhile.
3. A child that says its configuration can't be used won't ever work: while nothing serves yet, that ends the start.
4. SIGTERM or SIGINT: the listeners are closed, the children asked to drain, and killed when their time is over. The
   control process of a fleet's node says at once that the node leaves, and is let go when the workers have drained.
   A second signal kills at once. A kill -9 of this process takes the children along (`proxy.process.children`).
5. SIGHUP from a closed terminal drains, too. Without a terminal it is a request to read the settings again, which this
   version can't do: the log says so, and everything goes on.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from proxy.cache.capacity import DiskClaim, check_capacity
from proxy.cache.estimate import read_estimate
from proxy.cache.layout import FOLDER, open_layouts
from proxy.cache.shared import SharedTables
from proxy.errors import ConfigInvalid
from proxy.fleet.state import FleetState
from proxy.process.children import CONTROL, HOUSEKEEPER, LET_GO, WORKER, Child, LaunchSpec, role_name, share_settings
from proxy.process.disklock import DiskLock
from proxy.process.listeners import listener_url, open_control, open_listeners

if TYPE_CHECKING:
    from proxy.config.settings import Settings

PAUSE_FIRST_S = 0.1
PAUSE_LONGEST_S = 10.0
YOUNG_S = 30.0  # a child that lived longer starts again at the first pause
KILL_AFTER_S = 5.0  # beyond the drain time-out, for what a worker does at its end

log = logging.getLogger("warmstart.supervisor")


class Supervisor:
    """Runs until a signal ends it. `url_file` gets the listeners' URLs, one a line, when the gateway is ready."""

    def __init__(self, settings: Settings, run_id: str, *, url_file: Path | None = None) -> None:
        disks = settings.cache.disks
        self._settings = settings
        self._url_file = url_file
        self._locks = _lock_disks([disk.path for disk in disks])
        claims = [DiskClaim(f"cache.disks[{index}]", disk.path, disk.size) for index, disk in enumerate(disks)]
        for warning in check_capacity(claims, settings.cache.block_size):
            log.warning("%s", warning)
        open_layouts([(disk.path, disk.size) for disk in disks], settings.cache.block_size, settings.cache.segment_size)
        if settings.cluster is not None and settings.cluster.zone == "":
            log.warning("cluster.zone is empty: this node counts as one without a zone")
        self._listeners = open_listeners(settings.listen)
        self._fleet_state = FleetState.create() if settings.cluster is not None else None
        self._control = open_control(settings.cluster, settings.listen[0]) if settings.cluster is not None else None
        self._tables = SharedTables.create()
        for index, disk in enumerate(disks):
            self._tables.usage.publish_estimate(index, read_estimate(disk.path / FOLDER, disk.size))
        self._settings_fd = share_settings(settings)
        self._run_id = run_id

        self._children: dict[int, Child] = {}  # by status descriptor
        self._due: list[tuple[float, LaunchSpec]] = []  # restarts that wait for their time
        self._pauses: dict[str, float] = {}
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._announced = False
        self._on_terminal = os.isatty(0)  # asked now: a terminal that has hung up is none any more
        self._complaint: str | None = None

    def run(self) -> int:
        """Returns the exit status after a signal. Raises ConfigInvalid when the children could not start."""
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for wanted in (signal.SIGTERM, signal.SIGINT):
            signal.signal(wanted, self._note_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, self._note_hangup)
        self._selector.register(wake, selectors.EVENT_READ)
        try:
            if self._control is not None:
                self._start(self._spec(CONTROL, 0))
                _count_restarts(CONTROL, 0)
            for number in range(self._settings.workers):
                self._start(self._spec(WORKER, number))
            # Not after them: a small cache is then counted before they write; a count beside fills is an estimate.
            self._start(self._spec(HOUSEKEEPER, 0))
            _count_restarts(WORKER, 0)  # shown as 0 from the start
            _count_restarts(HOUSEKEEPER, 0)
            while not self._signals and self._complaint is None:
                self._step(wake, self._next_due_s())
            self._drain(wake)
        finally:
            self._kill_all()
            self._close()
        if self._complaint is not None:
            raise ConfigInvalid(self._complaint)
        return 0

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _note_hangup(self, number: int, frame: FrameType | None) -> None:
        if self._on_terminal:
            self._signals.append(number)
        else:
            log.warning("SIGHUP changes nothing: settings are read at the start only; restart the gateway")

    def _spec(self, role: str, number: int) -> LaunchSpec:
        listeners = {WORKER: self._listeners, CONTROL: [self._control] if self._control is not None else []}
        return LaunchSpec(
            role=role,
            number=number,
            run_id=self._run_id,
            parent_pid=os.getpid(),
            settings_fd=self._settings_fd,
            tables_fd=self._tables.fd,
            status_fd=-1,
            listen_fds=tuple(listener.fileno() for listener in listeners.get(role, ())),
            held_fds=tuple(lock.fd for lock in self._locks),
            fleet_fd=self._fleet_state.fd if self._fleet_state is not None else -1,
            served_at=self._listeners[0].getsockname()[:2],
        )

    def _start(self, spec: LaunchSpec) -> None:
        child = Child(spec)
        self._children[child.status_fd] = child
        self._selector.register(child.status_fd, selectors.EVENT_READ)
        log.debug("%s started", child.name, extra={"fields": {"pid": child.process.pid}})

    def _step(self, wake: int, timeout_s: float | None) -> None:
        """Wait for a signal, a child's word or a restart's time, and do what follows from it."""
        for key, _ in self._selector.select(timeout_s):
            if key.fd == wake:
                os.read(wake, 64)
                continue
            child = self._children[key.fd]
            was_ready = child.ready
            if child.read_status():
                if child.ready and not was_ready and self._announced:
                    log.info("%s is back", child.name, extra={"fields": {"pid": child.process.pid}})
                self._announce()
                continue
            self._selector.unregister(key.fd)
            del self._children[key.fd]
            if not self._signals:
                self._bury(child)
        now_s = time.monotonic()
        for due in [due for due in self._due if due[0] <= now_s and not self._signals]:
            self._due.remove(due)
            self._start(due[1])

    def _next_due_s(self) -> float | None:
        return max(0.0, min(due_s for due_s, _ in self._due) - time.monotonic()) if self._due else None

    def _bury(self, child: Child) -> None:
        """Count a child that died by itself, and have it started again."""
        if child.complaint is not None and not self._announced:
            self._complaint = child.complaint
            return
        if child.spec.role == WORKER:
            self._tables.usage.note_death()
        _count_restarts(child.spec.role, 1)
        lived_s = time.monotonic() - child.started_s
        pause_s = self._pauses.get(child.name, PAUSE_FIRST_S) if lived_s < YOUNG_S else PAUSE_FIRST_S
        self._pauses[child.name] = min(2 * pause_s, PAUSE_LONGEST_S)
        self._due.append((time.monotonic() + pause_s, child.spec))
        fields = {"pid": child.process.pid, "restart_in_s": pause_s}
        log.error("%s %s", child.name, child.complaint or child.describe_end(), extra={"fields": fields})

    def _announce(self) -> None:
        """Once, when every worker serves, and the fleet's node answers."""
        ready = [child.spec.role for child in self._children.values() if child.ready]
        missing = ready.count(WORKER) < self._settings.workers or ready.count(CONTROL) < int(self._control is not None)
        if self._announced or missing:
            return
        self._announced = True
        urls = [listener_url(listener, tls=self._settings.tls is not None) for listener in self._listeners]
        fields = {"pid": os.getpid(), "run": self._run_id, "workers": self._settings.workers}
        fields |= {"writes": "through" if self._settings.writes_through() else "deny"}
        log.info("serving at %s", " and ".join(urls), extra={"fields": fields})
        if self._url_file is not None:
            _write_whole(self._url_file, "".join(f"{url}\n" for url in urls))

    def _drain(self, wake: int) -> None:
        """Stop accepting, let bodies in flight end, until the time is over or somebody is impatient."""
        for listener in self._listeners:
            listener.close()
        for child in self._children.values():
            child.process.send_signal(signal.SIGTERM)
        timeout_s = self._settings.limits.drain_timeout + KILL_AFTER_S
        log.info("stopping", extra={"fields": {"drain_timeout_s": self._settings.limits.drain_timeout}})
        deadline = time.monotonic() + timeout_s
        impatient_at = len(self._signals) + 1
        while self._children and len(self._signals) < impatient_at:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                log.warning("not drained in time", extra={"fields": {"children": len(self._children)}})
                break
            self._due.clear()
            self._let_control_go()
            self._step(wake, left_s)

    def _let_control_go(self) -> None:
        """When no worker is left, who needs it to answer for the node."""
        left = [child for child in self._children.values() if child.spec.role in (WORKER, CONTROL)]
        if len(left) == 1 and left[0].spec.role == CONTROL:
            left[0].process.send_signal(LET_GO)

    def _kill_all(self) -> None:
        for child in self._children.values():
            child.process.kill()
        for child in self._children.values():
            child.process.wait()
            os.close(child.status_fd)
        self._children.clear()

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        for listener in self._listeners:
            listener.close()
        if self._control is not None:
            self._control.close()
        self._selector.close()
        self._tables.close()
        if self._fleet_state is not None:
            self._fleet_state.close()
        os.close(self._settings_fd)
        for lock in self._locks:
            lock.close()
        if self._url_file is not None:
            self._url_file.unlink(missing_ok=True)
        log.info("stopped")


def _count_restarts(role: str, number: int) -> None:
    from proxy.metrics import WORKER_RESTARTS  # prometheus-client: not before the children are on their way

    WORKER_RESTARTS.labels(role_name(role)).inc(number)


def _lock_disks(paths: Sequence[Path]) -> list[DiskLock]:
    locks: list[DiskLock] = []
    try:
        for index, path in enumerate(paths):
            locks.append(DiskLock(f"cache.disks[{index}].path", path))
    except BaseException:
        for lock in locks:
            lock.close()
        raise
    return locks


def _write_whole(path: Path, text: str) -> None:
    """So that nobody reads half of it."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, "utf-8")
    beside.replace(path)
