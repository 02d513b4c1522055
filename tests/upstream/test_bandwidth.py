"""The cap on an origin's bytes: what a delivery takes is paid for, by pausing, on one clock for all workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from proxy.ranges import ByteRange
from proxy.upstream.deliver import deliver
from proxy.upstream.limiter import BURST_S, FREE_RATE, AdaptiveLimiter, private_numbers
from proxy.upstream.retry import RetryPolicy
from proxy.upstream.throttle import OriginThrottles
from tests.fakes.memory import MemoryOrigin, version_of

CONTENT = bytes(40_000)
BYTES_PER_S = 1000.0


class VirtualTime:
    """A clock that only sleeps move: each sleeper wakes when the clock has come to its time, the earliest first."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._real_sleep = asyncio.sleep
        self._wakes: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        wake_s = self.now_s + seconds
        self._wakes.append(wake_s)
        while self.now_s < wake_s:
            for _ in range(10):
                await self._real_sleep(0)  # whoever can run does so first
            if self.now_s < wake_s == min(self._wakes):
                self.now_s = wake_s
        self._wakes.remove(wake_s)


class Sink:
    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self.taken: list[tuple[float, int]] = []

    def write(self, data: memoryview) -> Awaitable[None] | None:
        self.taken.append((self._time.now_s, len(data)))
        return None


@pytest.mark.parametrize("readers", [1, 2, 7])
async def test_all_workers_together_take_no_more_than_the_cap(readers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    time, numbers = VirtualTime(), private_numbers()
    monkeypatch.setattr("proxy.upstream.deliver.asyncio.sleep", time.sleep)

    def worker(slot: int) -> RetryPolicy:
        limiter = AdaptiveLimiter(
            numbers, slot, concurrency_max=64, bytes_per_s=BYTES_PER_S, start_rate=FREE_RATE, clock=time
        )
        return RetryPolicy(throttles=OriginThrottles(lambda _: limiter))

    version, span = version_of(CONTENT), ByteRange(0, 14_000 // readers)
    sinks = [Sink(time) for _ in range(readers)]
    began_s = time.now_s
    await asyncio.gather(
        *(
            deliver(MemoryOrigin(CONTENT, 100), version.origin, version, span, sink, worker(slot))
            for slot, sink in enumerate(sinks)
        )
    )
    taken = sorted(moment for sink in sinks for moment in sink.taken)
    total = sum(length for _, length in taken)
    assert total == span.length * readers
    assert (time.now_s - began_s) == pytest.approx(total / BYTES_PER_S - BURST_S, rel=0.03)
    # Smooth: at no moment more than the cap, a moment's burst, and a piece for each connection.
    so_far = 0
    for at_s, length in taken:
        so_far += length
        assert so_far <= (at_s - began_s + BURST_S) * BYTES_PER_S + 100 * readers + 1


async def test_without_a_cap_nobody_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    time = VirtualTime()
    monkeypatch.setattr("proxy.upstream.deliver.asyncio.sleep", time.sleep)
    version, sink = version_of(CONTENT), Sink(time)
    await deliver(MemoryOrigin(CONTENT, 100), version.origin, version, ByteRange(0, 40_000), sink, RetryPolicy())
    assert time.now_s == 1000.0
