"""Watchdog: says when one piece of work has held a process's event loop for too long, and which.

How it works. A thread looks, LOOKS times within the limit, whether the loop rests: it runs none of our code, and waits
for events. That costs an idle process next to nothing, and a request nothing. Where the loop does not rest, the thread
asks it to set a beat, and waits for it. A beat that is late by the limit means that whatever runs in the loop's thread
has kept all others waiting since. The thread then looks at that thread's stack, waits until
the loop moves, and logs how long it took, how much of that was spent on a CPU (little: it waited for a disk, or the
machine was busy), which request it was for (method and path, never a query), and where in the program it was.
C code that holds the interpreter's lock holds this thread, too: then the stack is that of the moment it let go.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from proxy.metrics import SLOW_CALLBACKS
from proxy.rate_limited_log import RateLimitedLog

LOOKS = 4
PLACES = 4  # of the stack, the innermost
_OURS = ("proxy", "s3api", "gcsapi")
_RESTING = frozenset({("selectors", "select"), ("asyncio.runners", "run")})  # innermost: asyncio's loops, uvloop's

log = logging.getLogger("warmstart.watchdog")


@contextmanager
def watched(limit_s: float) -> Iterator[None]:
    """Watches the running loop, in its own thread; `limit_s` 0: not at all."""
    if limit_s <= 0:
        yield
        return
    watchdog = Watchdog(asyncio.get_running_loop(), limit_s)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


class Watchdog:
    """Make it in the loop's thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit_s: float, limited_log: RateLimitedLog | None = None
    ) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._limited_log = limited_log or RateLimitedLog(log)
        self._watched = threading.get_ident()
        self._clock_id = time.pthread_getcpuclockid(self._watched)
        self._beat = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait: the thread ends with its next look."""
        self._stopped.set()
        self._beat.set()

    def _run(self) -> None:
        while not self._stopped.wait(self._limit_s / LOOKS):
            if self._rests():
                continue
            self._beat.clear()
            began_s, began_cpu_s = time.monotonic(), time.clock_gettime(self._clock_id)
            try:
                self._loop.call_soon_threadsafe(self._beat.set)
            except RuntimeError:  # it is closed
                return
            if self._beat.wait(self._limit_s * (1 - 1 / LOOKS)):
                continue
            operation = self._describe()
            self._beat.wait()
            if self._stopped.is_set():
                return
            took_s, cpu_s = time.monotonic() - began_s, time.clock_gettime(self._clock_id) - began_cpu_s
            if took_s >= self._limit_s * (1 - 1 / LOOKS):
                self._limited_log.say(
                    f"the event loop was held for {took_s:.2f} s, {cpu_s:.2f} s of CPU, by {operation}"
                )
                SLOW_CALLBACKS.inc()

    def _rests(self) -> bool:
        """Whether the loop's thread waits for events: in a selector, or, where that is C, right below the runner."""
        frame = sys._current_frames().get(self._watched)
        return frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) in _RESTING

    def _describe(self) -> str:
        """The request and the places in our code that run in the loop's thread."""
        task = asyncio.current_task(self._loop)
        stack = code_positions(sys._current_frames().get(self._watched))
        return f"{task.get_name() if task is not None else 'a callback'} in {stack or 'the event loop'}"


def code_positions(frame: FrameType | None) -> str:
    """`s3api.requests.parse_request > proxy.ranges.parse_range`: the innermost functions of ours."""
    found: list[str] = []
    while frame is not None and len(found) < PLACES:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in _OURS:
            found.append(f"{module}.{frame.f_code.co_qualname}")
        frame = frame.f_back
    return " > ".join(reversed(found))
