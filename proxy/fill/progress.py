"""Fill progress: a block on its way to this node's disk, as its readers see it.

What fills the block (a task of this process, or another worker) moves `progress`. Readers take what is already there
and wait for more. A progress ends once: published (complete, and present in the store) or failed.
Each reader gets an exception of its own: a shared one would hold the frames of all readers, and with them the block and
its file.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

from proxy.blocks import available_bytes
from proxy.errors import fresh

# A reader that waits is woken for no less than this, except for its first bytes and the block's last.
WAKE_BYTES = 128 << 10


ROUND_TRIP_S = 0.02  # until one was measured
FAR_BYTES = 1 << 20  # what a fill of unknown speed fetches in that time: 50 MB/s
SEEN_OVER_S = 0.01  # a speed measured for less time says little


class FillPaused(Exception):
    """The end of a fill that keeps what it fetched: a reader that wants more asks for the block again.

    Either its small readers have what they wanted and the rest of the block can wait, or it failed before this reader
    waited.
    """


class _Waiter(NamedTuple):
    """A reader that waits for `needed` bytes from `offset` on. `turn` gets the error that ends its wait, or None."""

    offset: int
    needed: int
    since_s: float
    turn: asyncio.Future[BaseException | None]


class FillProgress:
    """How far the fill of one block has come, and its readers.

    `interest` counts the readers: a fill that nobody wants and that has not begun is dropped. `whole` is set if some
    reader wants more than a small part of the block.
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
        self._waiters: list[_Waiter] = []
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
        """Return how many bytes the fill must still write until all of [offset, end) is there."""
        first, last = (offset - self.start) % self.length, (end - 1 - self.start) % self.length
        return max(0, (last if last >= first else self.length - 1) + 1 - self.progress)

    def is_far(self, offset: int, end: int, now_s: float | None = None) -> bool:
        """Return whether the fill will reach [offset, end) later than a separate request would be answered."""
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
        """Return how many bytes from `offset` on may be sent in one piece now."""
        return available_bytes(self.start, self.progress, self.length, offset)

    def move(self, start: int, progress: int) -> None:
        """Note how far the fill has come, or that it has begun again. Wake the readers that this satisfies."""
        if not self._moving_at_s and progress > self.progress:
            self._moving_at_s, self._moved_from = time.monotonic(), progress
        self.start = start
        self.progress = progress
        if self._waiters:
            self._wake()

    def asked(self) -> None:
        """Note that the fill's first request leaves now."""
        self._asked_at_s, self._moving_at_s = time.monotonic(), 0.0

    def publish(self) -> None:
        """Note that all bytes are there and the store knows it."""
        self.progress = self.length
        self.published = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        if not self.ended:
            self.error = fresh(error)
            self._wake()

    def outlast(self, error: BaseException, since_s: float) -> bool:
        """End the wait of readers that have waited since before `since_s` (monotonic). Return whether others wait."""
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            if waiter.turn.done():
                continue
            if waiter.since_s > since_s:
                self._waiters.append(waiter)
            else:
                waiter.turn.set_result(error)
        return bool(self._waiters)

    async def wait(self, offset: int, at_least: int = 1) -> None:
        """Return when `at_least` bytes (or the rest of the block) are there from `offset`. Raise the fill's error."""
        needed = min(at_least, self.length - offset)
        while self.available(offset) < needed and not self.complete:
            await self._turn(offset, needed)

    async def wait_end(self) -> None:
        """Return when the block is published. Raise the fill's error."""
        while not self.published:
            await self._turn(0, self.length + 1)

    async def _turn(self, offset: int, needed: int) -> None:
        """Return when something may have changed. Raise the fill's error, or the one that ends this wait."""
        if self.error is not None:
            raise fresh(self.error)
        turn: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._waiters.append(_Waiter(offset, needed, time.monotonic(), turn))
        given_up = await turn
        if given_up is not None:
            raise fresh(given_up)

    def _wake(self) -> None:
        waiting, self._waiters = self._waiters, []
        for waiter in waiting:
            if waiter.turn.done():
                continue
            if self.ended or self.available(waiter.offset) >= waiter.needed:
                waiter.turn.set_result(None)
            else:
                self._waiters.append(waiter)
