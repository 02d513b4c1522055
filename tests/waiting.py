"""Waiting for what will be: polls, in one place, with a limit that only a defect reaches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LIMIT_S = 30.0
NEVER = "it never happens"


async def until(condition: Callable[[], object], complaint: str = NEVER, timeout_s: float = LIMIT_S) -> None:
    """Let the event loop go on until `condition` holds; AssertionError with `complaint` when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, complaint
        await asyncio.sleep(0.001)


def wait_until(condition: Callable[[], object], complaint: str = NEVER, timeout_s: float = LIMIT_S) -> None:
    """Block until `condition` holds, for what other threads and processes do; AssertionError likewise.

    What takes longer is asked less often: a question to a gateway is work for it, and for who asks.
    """
    started_s = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - started_s
        assert waited_s < timeout_s, complaint
        time.sleep(min(max(0.005, waited_s / 10), 0.1))
