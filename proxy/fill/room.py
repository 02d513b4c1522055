"""Waiting for room on a full disk: eviction frees some within moments, while a read past the cache stores nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from proxy.errors import StoreFull

LOOK_S = 0.025  # a look costs one statvfs; the evictor looks as often

Result = TypeVar("Result")


async def with_room(attempt: Callable[[], Awaitable[Result]], wait_s: float) -> Result:
    """Return what `attempt` returns once there is room for it. Raise StoreFull if there is none within `wait_s`."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + wait_s
    while True:
        try:
            return await attempt()
        except StoreFull:
            if loop.time() >= until_s:
                raise
        await asyncio.sleep(LOOK_S)
