"""Background fills: the rest of the blocks that small random reads have only begun.

How it works. A cold read of a few KiB fetches only its own bytes; then the fill of its block pauses (see
`proxy.fill.flight`). The rest is listed here. One task of this worker fetches it, block by block, and begins each block
only while the limiter is idle. The list is bounded and drops its oldest entry. Even a block that is never finished
costs no byte twice: its next reader continues where the fill stopped.
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
    """The list of blocks to finish, and the task that does it. `wait_idle` returns when a fill disturbs nobody."""

    def __init__(self, wait_idle: Callable[[], Awaitable[None]]) -> None:
        self._wait_idle = wait_idle
        self._waiting: OrderedDict[tuple[bytes, int], Finish] = OrderedDict()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, digest: bytes, index: int, finish: Finish) -> None:
        """Add block `index` of the version with this digest; `finish` fetches its rest."""
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
