"""The housekeeper: one loop over all disks that accounts, evicts and scrubs, apart from the processes that serve.

How it works. It is one thread in a process of its own. Each turn does a little of what is due for each disk in
service, then waits for the rest of the turn, or for the stop event:

1. Evict, while there is more than the high watermark allows. This comes first, as fills wait for it. A disk that is
   nearly full is checked many times in a turn, so that eviction stays ahead of what is written.
2. Scan, at start, then every `rescan_s`, and when the evictor asks for it. Such a scan gets most of the time, and so
   does the first one: until it has ended nobody knows how full the disk is. The others get a tenth.
3. Scrub, at a rate in bytes per second.
4. Measure the folders themselves, and write down for the next start how much the disk holds.

A disk that returns an I/O error leaves service (disks.py). Any other error ends the current pass over the disk and is
logged; the next pass begins a minute later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from proxy.cache.accounts import FOLDERS
from proxy.cache.disks import Disk
from proxy.cache.estimate import write_estimate
from proxy.cache.recordsweep import RecordSweep
from proxy.cache.retention import HIGH_WATERMARK, LOW_WATERMARK, Evictor
from proxy.cache.scan import DiskScan, folder_bytes
from proxy.cache.scrub import Scrubber
from proxy.cache.shared import SharedTables
from proxy.metrics import DISK_FAILED, DISK_LEAVING_BYTES, DISK_USED_BYTES, WRITE_BACK_FAILURES

TURN_S = 0.25
LOOK_S = 0.025  # between two checks of a disk that is nearly full and filling: 25 MB at 1 GB/s
NEARLY_FULL_SHARE = 0.8  # of a disk's size
FOLDERS_S = 2.0  # between two measurements of the folders, which grow slowly with the names in them
ESTIMATE_SHARE = 0.005  # of a disk's size: how far the estimate for the next start may be off
EVICT_MOVES = 8  # of a disk's hand in one go: a second, if each removes some gigabytes
URGENT_SCAN_SHARE, RESCAN_SHARE, SCRUB_SHARE = 0.8, 0.1, 0.3  # of a turn, at most
RETRY_S = 60.0  # after an error
SCRUB_PAUSE_S = 5.0  # between two passes, so that a small cache is not read all the time

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HouseRules:
    """The housekeeper's settings. Watermarks are shares of a disk's size; `scrub_bytes_per_s` 0 means no scrubbing."""

    high_watermark: float = HIGH_WATERMARK
    low_watermark: float = LOW_WATERMARK
    headroom_bytes: int = 0
    rescan_s: float = 600.0
    scrub_bytes_per_s: int = 16 << 20


class Housekeeper:
    """The housekeeper of all disks. `segment_bytes` is the layout's; `clock` is monotonic."""

    def __init__(
        self,
        disks: Sequence[Disk],
        tables: SharedTables,
        segment_bytes: int,
        rules: HouseRules,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        scrub_bytes_per_s = rules.scrub_bytes_per_s / len(disks)

        sweeps = [RecordSweep(disk, disks, tables, segment_bytes, clock=clock) for disk in disks]
        self._keepers = [
            _DiskKeeper(disk, sweep, tables, rules, scrub_bytes_per_s, clock)
            for disk, sweep in zip(disks, sweeps, strict=True)
        ]

    def run(self, stop: threading.Event) -> None:
        """Run until the event is set, and end within a second or so after that."""
        while not stop.is_set():
            began_s = self._clock()
            if not self.turn(stop):
                self._wait(stop, began_s + TURN_S)
        for keeper in self._keepers:
            keeper.close()

    def _wait(self, stop: threading.Event, until_s: float) -> None:
        """Wait until the next turn, or until a filling disk has passed its mark."""
        filling = [keeper for keeper in self._keepers if keeper.is_filling()]
        while not stop.is_set() and (left_s := until_s - self._clock()) > 0:
            stop.wait(min(left_s, LOOK_S) if filling else left_s)
            if any(keeper.wants_turn() for keeper in filling):
                return

    def turn(self, stop: threading.Event) -> bool:
        """Do a little of everything that is due. Return whether more eviction is due at once."""
        busy = False
        for keeper in self._keepers:
            if not stop.is_set():
                busy |= keeper.turn()
        return busy


class _DiskKeeper:
    """The work for one disk, a little in each turn."""

    def __init__(
        self,
        disk: Disk,
        records: RecordSweep,
        tables: SharedTables,
        rules: HouseRules,
        scrub_bytes_per_s: float,
        clock: Callable[[], float],
    ) -> None:
        WRITE_BACK_FAILURES.labels(str(disk.path))  # shown as 0 from the start
        self._disk = disk
        self._records = records
        self._tables = tables
        self._clock = clock
        self._evictor = Evictor(
            disk,
            high_watermark=rules.high_watermark,
            low_watermark=rules.low_watermark,
            headroom_bytes=rules.headroom_bytes,
            records=records,
            clock=clock,
        )
        self._rescan_s = rules.rescan_s
        self._scan: DiskScan | None = None
        self._scan_steps: Iterator[None] = iter(())
        self._scan_wanted = False
        self._seen_bytes: int | None = None
        self._scan_due_s = self._scan_allowed_s = clock()
        self._folder_bytes: int | None = None  # as charged; None: not measured yet
        self._folders_due_s = 0.0
        self._estimate_bytes = -1  # as last written down
        self._scrubber = Scrubber(disk)
        self._scrub_bytes_per_s = scrub_bytes_per_s
        self._scrub_steps: Iterator[int] | None = None
        self._scrub_due_s = clock()
        self._scrub_paid_s = clock()
        self._scrub_credit_bytes = 0.0

    def turn(self) -> bool:
        """Do one turn. Return whether more eviction is due at once."""
        self._publish()
        if self._disk.failed:
            return False
        try:
            busy = self._evictor.step(EVICT_MOVES)
            busy |= self._go_on_scanning()
            self._go_on_scrubbing()
            self._measure()
        except OSError as error:
            self._break_off(error)
            return False
        return busy

    def is_filling(self) -> bool:
        """Return whether the disk is nearly full and changed since the last call: a full one may rest for days."""
        used_bytes, seen_bytes = self._disk.used_bytes, self._seen_bytes
        self._seen_bytes = used_bytes
        nearly_full = used_bytes is not None and used_bytes > NEARLY_FULL_SHARE * self._disk.size_bytes
        return nearly_full and used_bytes != seen_bytes

    def wants_turn(self) -> bool:
        """Return whether a turn would evict, or unlink what was evicted."""
        try:
            return not self._disk.failed and self._evictor.is_due()
        except OSError:
            return True  # the turn finds out what is wrong

    def close(self) -> None:
        """Write down how much the disk holds, for the next start."""
        used_bytes = self._disk.used_bytes
        if used_bytes is not None and not self._disk.failed:
            write_estimate(self._disk, used_bytes)

    def _measure(self) -> None:
        used_bytes = self._disk.used_bytes
        if used_bytes is None or self._folder_bytes is None or self._scan is not None:
            return
        if self._clock() >= self._folders_due_s:
            self._folders_due_s = self._clock() + FOLDERS_S
            now_bytes = folder_bytes(self._disk)
            self._disk.allocated(now_bytes - self._folder_bytes, FOLDERS)
            self._folder_bytes = now_bytes
        if abs(used_bytes - self._estimate_bytes) > ESTIMATE_SHARE * self._disk.size_bytes:
            write_estimate(self._disk, used_bytes)
            self._estimate_bytes = used_bytes

    def _publish(self) -> None:
        name, used_bytes = str(self._disk.path), self._disk.used_bytes
        DISK_FAILED.labels(name).set(self._disk.failed)
        if used_bytes is not None:
            DISK_USED_BYTES.labels(name).set(used_bytes)
        DISK_LEAVING_BYTES.labels(name).set(self._evictor.leaving.open_bytes)

    def _go_on_scanning(self) -> bool:
        """Continue the scan. Return whether one has ended that the evictor waits for."""
        if self._scan is None:
            due_s = self._scan_allowed_s if self._evictor.wants_scan else self._scan_due_s
            if self._clock() < due_s:
                return False
            self._scan_wanted = self._evictor.wants_scan
            self._scan = DiskScan(self._disk, self._records, self._tables)
            self._scan_steps = self._scan.steps()
        urgent = self._disk.used_bytes is None or self._evictor.wants_scan
        share = URGENT_SCAN_SHARE if urgent else RESCAN_SHARE
        until_s = self._clock() + share * TURN_S
        while self._clock() <= until_s:
            if next(self._scan_steps, self) is self:
                self._evictor.renew(self._scan.segments, wanted=self._scan_wanted)
                self._folder_bytes = self._scan.folder_bytes
                self._scan = None
                self._scan_due_s = self._clock() + self._rescan_s
                return self._scan_wanted
        return False

    def _go_on_scrubbing(self) -> None:
        now_s = self._clock()
        earned_bytes = (now_s - self._scrub_paid_s) * self._scrub_bytes_per_s
        # Never more than a second's worth: a slow disk need not catch up.
        self._scrub_credit_bytes = min(self._scrub_credit_bytes + earned_bytes, self._scrub_bytes_per_s)
        self._scrub_paid_s = now_s
        if self._scrub_steps is None:
            if now_s < self._scrub_due_s:
                return
            self._scrub_steps = self._scrubber.steps()
        until_s = now_s + SCRUB_SHARE * TURN_S
        while self._scrub_credit_bytes > 0 and self._clock() <= until_s:
            cost_bytes = next(self._scrub_steps, None)
            if cost_bytes is None:
                self._scrub_steps = None
                self._scrub_due_s = self._clock() + SCRUB_PAUSE_S
                return
            self._scrub_credit_bytes -= cost_bytes

    def _break_off(self, error: OSError) -> None:
        self._disk.trouble(error)
        log.warning("housekeeping on %s broke off: %s", self._disk.path, error)
        self._scan = self._scrub_steps = None
        self._scan_due_s = self._scan_allowed_s = self._scrub_due_s = self._clock() + RETRY_S
