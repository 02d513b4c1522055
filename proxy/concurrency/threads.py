"""Threads for calls that wait for a disk, so that the event loop never does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar, TypeVarTuple

Args = TypeVarTuple("Args")
Result = TypeVar("Result")


class Threads:
    """Runs calls on an executor; None means the event loop's own."""

    def __init__(self, executor: Executor | None = None) -> None:
        self._executor = executor

    async def run(self, call: Callable[[*Args], Result], *args: *Args) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)
