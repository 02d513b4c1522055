"""What small random reads have left of their blocks, brought in when there is nothing else to do.

How it works. A cold read of a few KiB brings just its bytes; the fill of its block then steps back (see
`proxy.fill.flight`). The rest is remembered here, and fetched by one task of this worker, one block after the other,
each begun only while the limiter is idle. The list is bounded and forgets its oldest: a block that is never finished
costs its bytes again to nobody, for whoever reads it next goes on where it stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

BLOCKS_MAX = 4096

Finish = Callable[[], Awaitable[None]]


class BackgroundFills:
    """`wait_idle` returns when a fill disturbs nobody."""

    def __init__(self, wait_idle: Callable[[], Awaitable[None]]) -> None:
        self._wait_idle = wait_idle
        self._waiting: OrderedDict[tuple[bytes, int], Finish] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, digest: bytes, index: int, finish: Finish) -> None:
        """`finish` brings the rest of block `index` of the version with this digest."""
        self._waiting.setdefault((digest, index), finish)
        if len(self._waiting) > BLOCKS_MAX:
            self._waiting.popitem(last=False)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="background fills")

    async def _run(self) -> None:
        while self._waiting:
            await self._wait_idle()
            _, finish = self._waiting.popitem(last=False)
            try:
                await finish()
            except Exception as error:  # nobody waits for these bytes
                log.debug("the rest of a block was not brought in: %s", error)
        self._task = None

    async def aclose(self) -> None:
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
