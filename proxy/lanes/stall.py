"""StallWatch: notices a client that takes no more bytes.

A socket that stays full proves nothing: the kernel calls it writable only when a third of its buffer, megabytes,
has drained, which a slow but honest reader may need minutes for. What counts is whether the bytes that the
client has not acknowledged become fewer, so the watch asks for them while it runs, a few times per time-out.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable

_TICKS = 4  # looks per time-out; a stalled client is given up after 1 to 1.25 time-outs


class StallWatch:
    """Calls `expired` once when, between `begin` and `end`, `timeout_s` pass without progress.

    Progress is a call of `progress`, or that `outstanding` (bytes which the client has yet to take) falls.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        outstanding: Callable[[], int],
        expired: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._outstanding = outstanding
        self._expired = expired
        self._timer: asyncio.TimerHandle | None = None
        self._last_progress_s = 0.0
        self._last_outstanding: int | None = None

    def begin(self) -> None:
        """Again while it runs: no change."""
        if self._timer is None:
            self._last_outstanding = self._outstanding()
            self._last_progress_s = self._loop.time()
            self._schedule()

    def progress(self) -> None:
        self._last_outstanding = None

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(self._timeout_s / _TICKS, self._tick)

    def _tick(self) -> None:
        outstanding, now_s = self._outstanding(), self._loop.time()
        if self._last_outstanding is None or outstanding < self._last_outstanding:
            self._last_progress_s = now_s
        self._last_outstanding = outstanding
        if now_s - self._last_progress_s < self._timeout_s:
            self._schedule()
        else:
            self._timer = None
            self._expired()


def unacknowledged_bytes(socket_fd: int) -> int:
    """What the kernel holds of a socket's sent bytes: not sent, or not acknowledged (SIOCOUTQ, see tcp(7))."""
    try:
        answer = fcntl.ioctl(socket_fd, termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return 0
    return int(struct.unpack("i", answer)[0])
