"""A block on its way to this node's disk, as those who wait for it see it.

Who fills the block (a task of this process, or another worker) moves `progress`; readers take what is there already
and wait for more. An arrival ends once: published (complete, and known to the store as present) or failed.
"""

from __future__ import annotations

import asyncio
import time

from proxy.blocks import available_bytes

# A reader that waits is woken for no less than this, except for its first bytes and the block's last.
WAKE_BYTES = 128 << 10


ROUND_TRIP_S = 0.02  # until one was seen
FAR_BYTES = 1 << 20  # what a fill of unknown speed brings in that time: 50 MB/s
SEEN_OVER_S = 0.01  # a speed seen for less long says little


class FillPaused(Exception):
    """The fill has stepped back: it brought what its small readers wanted, and the rest of the block can wait.

    What it brought is there; whoever wants more asks for the block again.
    """


class Arrival:
    """`interest` counts the readers that want it: a fill that nobody wants and that has not begun is dropped.

    `whole` is set where some reader wants more than a little of the block.
    """

    __slots__ = (
        "_asked_at_s",
        "_moved_from",
        "_moving_at_s",
        "_waiters",
        "error",
        "interest",
        "length",
        "progress",
        "published",
        "start",
        "whole",
    )

    def __init__(self, length: int, start: int = 0, progress: int = 0) -> None:
        self.length = length
        self.start = start
        self.progress = progress
        self.published = False
        self.error: BaseException | None = None
        self.interest = 0
        self.whole = False
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._asked_at_s = self._moving_at_s = 0.0
        self._moved_from = 0

    @property
    def complete(self) -> bool:
        return self.progress == self.length

    @property
    def wanted(self) -> bool:
        """Whether more of the block is wanted than is there."""
        return self.whole or bool(self._waiters)

    def distance(self, offset: int, end: int) -> int:
        """How many bytes the fill must still write until all of [offset, end) is there."""
        first, last = (offset - self.start) % self.length, (end - 1 - self.start) % self.length
        return max(0, (last if last >= first else self.length - 1) + 1 - self.progress)

    def is_far(self, offset: int, end: int, now_s: float | None = None) -> bool:
        """Whether the fill will come to [offset, end) later than an answer to a request of its own."""
        before_bytes = self.distance(offset, end) - (end - offset)
        now_s = time.monotonic() if now_s is None else now_s
        moving_s = now_s - self._moving_at_s
        if not self._moving_at_s or moving_s < SEEN_OVER_S:
            return before_bytes > FAR_BYTES
        round_trip_s = self._moving_at_s - self._asked_at_s if self._asked_at_s else ROUND_TRIP_S
        came_bytes = self.progress - self._moved_from
        return before_bytes * moving_s > came_bytes * round_trip_s

    @property
    def ended(self) -> bool:
        return self.published or self.error is not None

    def available(self, offset: int) -> int:
        """How many bytes from `offset` on may be sent in one piece, now."""
        return available_bytes(self.start, self.progress, self.length, offset)

    def move(self, start: int, progress: int) -> None:
        """The fill has come this far (or has begun again); wakes the readers that it satisfies."""
        if not self._moving_at_s and progress > self.progress:
            self._moving_at_s, self._moved_from = time.monotonic(), progress
        self.start = start
        self.progress = progress
        if self._waiters:
            self._wake()

    def asked(self) -> None:
        """The fill's first request leaves now."""
        self._asked_at_s, self._moving_at_s = time.monotonic(), 0.0

    def publish(self) -> None:
        """All bytes are there and the store knows it."""
        self.progress = self.length
        self.published = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        if not self.ended:
            self.error = error
            self._wake()

    async def wait(self, offset: int, at_least: int = 1) -> None:
        """Returns when `at_least` bytes (or the rest of the block) are there from `offset`; raises the fill's error."""
        needed = min(at_least, self.length - offset)
        while self.available(offset) < needed and not self.complete:
            if self.error is not None:
                raise self.error
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((offset, needed, turn))
            await turn

    async def wait_end(self) -> None:
        """Returns when the block is published; raises the fill's error."""
        while not self.published:
            if self.error is not None:
                raise self.error
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append((0, self.length + 1, turn))
            await turn

    def _wake(self) -> None:
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            offset, needed, turn = waiter
            if turn.done():
                continue
            if self.ended or self.available(offset) >= needed:
                turn.set_result(None)
            else:
                self._waiters.append(waiter)
