"""Background tasks: kept alive until they end, their failures logged, and ended when their owner closes.

The event loop itself holds tasks only weakly: one that nobody refers to may be collected in the middle of its work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class BackgroundTasks:
    """The tasks of one owner, for one event loop."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, Result], *, name: str | None = None) -> asyncio.Task[Result]:
        """A task that nobody awaits: if it fails, that is logged, once."""
        task = self.keep(work, name=name)
        task.add_done_callback(self._log_failure)
        return task

    def keep(self, work: Coroutine[Any, Any, Result], *, name: str | None = None) -> asyncio.Task[Result]:
        """A task that its caller awaits, behind a shield as a rule: its failure is the caller's."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self, *, cancel: bool, timeout_s: float | None = None) -> None:
        """Return when all tasks have ended, those that they begin meanwhile included, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    if cancel:
                        for task in self._tasks:
                            task.cancel()
                    await asyncio.wait(self._tasks)
                    await asyncio.sleep(0)  # done callbacks take ended tasks out
        except TimeoutError:
            self._log.warning("background tasks that have not ended within %g s: %d", timeout_s, len(self._tasks))

    def _log_failure(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._log.error("a background task failed: %s", task.get_name(), exc_info=task.exception())
