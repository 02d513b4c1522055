"""Whether this worker should be sent requests.

How it works. The checks touch disks, so they run in a thread, one round at a time for all who ask, and what they
found holds for a second: a probe storm costs one round. An origin that is down is no reason to be unready: what is
cached can be served, and no other node could do better.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

HOLDS_S = 1.0
CHECK_TIMEOUT_S = 5.0  # a disk that does not answer in this time is not ready


class Readiness:
    """`checks` are blocking calls by the sentence that is true when they return False; `draining` says we stop."""

    def __init__(self, checks: Mapping[str, Callable[[], bool]], clock: Callable[[], float] = time.monotonic) -> None:
        self.draining = False
        self._checks = dict(checks)
        self._clock = clock
        self._found: tuple[str, ...] = ()
        self._found_at_s: float | None = None
        self._round: asyncio.Task[tuple[str, ...]] | None = None

    async def reasons(self) -> tuple[str, ...]:
        """Why this worker is not ready; empty when it is."""
        if self.draining:
            return ("the gateway is stopping",)
        if self._found_at_s is not None and self._clock() - self._found_at_s < HOLDS_S:
            return self._found
        if self._round is None or self._round.done():
            self._round = asyncio.get_running_loop().create_task(self._check())
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                return await asyncio.shield(self._round)
        except TimeoutError:
            return ("the disks do not answer",)

    async def _check(self) -> tuple[str, ...]:
        found = []
        for sentence, check in self._checks.items():
            if not await asyncio.to_thread(_holds, check):
                found.append(sentence)
        self._found, self._found_at_s = tuple(found), self._clock()
        return self._found


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:
        return False
