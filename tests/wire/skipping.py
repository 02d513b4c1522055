"""A loop whose clock a test moves by hand: long waits end at once, and none too early."""

from __future__ import annotations

import asyncio


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps ahead when told to."""

    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s


def skip(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.skipped_s += seconds


async def turn() -> None:
    """Let every timer that is due run, and what it wakes."""
    for _ in range(10):
        await asyncio.sleep(0)
