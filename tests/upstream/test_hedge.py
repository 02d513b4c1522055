"""A second request for late bytes: the sink gets each byte once, whoever brings it, and the budget holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.blocks import ByteSink
from proxy.errors import OriginUnavailable, StoreUnavailable, VersionChanged
from proxy.ranges import ByteRange
from proxy.upstream.deliver import deliver
from proxy.upstream.hedge import SAMPLES_MIN, SAVED_MAX, Ask, Hedges, read_hedged
from proxy.upstream.limiter import FREE_RATE, AdaptiveLimiter, private_numbers
from proxy.upstream.retry import RetryPolicy
from proxy.upstream.throttle import OriginThrottle, OriginThrottles
from tests.fakes.memory import MemoryOrigin, pump, version_of

CONTENT = bytes(range(200))
SHARE = 0.02


def made(budget: float = 1, share: float = SHARE, concurrency_max: int = 16) -> OriginThrottle:
    """A throttle whose requests are late after ten milliseconds, with so many hedges saved up."""
    limiter = AdaptiveLimiter(private_numbers(), 0, concurrency_max=concurrency_max, start_rate=FREE_RATE)
    throttle = OriginThrottle(limiter, share)
    for _ in range(SAMPLES_MIN):
        throttle.hedges.observe(0.0)
    for _ in range(round(budget / share)):
        throttle.hedges.count()
    return throttle


class Sink:
    """Takes bytes; with a `barrier`, each write is done only when that is set."""

    def __init__(self, barrier: asyncio.Event | None = None) -> None:
        self.data = bytearray()
        self.barrier = barrier
        self.writing = False
        self.closed = False

    def write(self, data: memoryview) -> Awaitable[None] | None:
        assert not self.closed, "written to after the end"
        assert not self.writing, "written to while a write is under way"
        if self.barrier is None:
            self.data += data
            return None
        return self._later(bytes(data), self.barrier)

    async def _later(self, data: bytes, barrier: asyncio.Event) -> None:
        self.writing = True
        await barrier.wait()
        self.writing = False
        self.data += data


class Script:
    """An origin whose requests each do what they are told; `begun` counts them, `cancelled` names those cut short."""

    def __init__(self, *parts: Callable[[int, ByteSink], Awaitable[None]]) -> None:
        self._parts = parts
        self.offsets: list[int] = []
        self.cancelled: list[int] = []

    async def __call__(self, offset: int, sink: ByteSink) -> None:
        number = len(self.offsets)
        self.offsets.append(offset)
        try:
            await self._parts[number](offset, sink)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise


async def silent(offset: int, sink: ByteSink) -> None:
    await asyncio.Event().wait()


async def all_of_it(offset: int, sink: ByteSink) -> None:
    for start in range(offset, len(CONTENT), 7):
        await pump(sink, CONTENT[start : start + 7])
        await asyncio.sleep(0)


def failing(error: Exception, after: asyncio.Event | None = None) -> Ask:
    async def ask(offset: int, sink: ByteSink) -> None:
        if after is not None:
            await after.wait()
        raise error

    return ask


async def run(ask: Ask, throttle: OriginThrottle, sink: Sink) -> None:
    async with throttle.turn(), asyncio.timeout(20):
        try:
            await read_hedged(ask, sink, throttle, "s3://test")
        finally:
            sink.closed = True


async def test_a_late_request_is_hedged_and_the_first_answer_wins() -> None:
    throttle, sink, script = made(), Sink(), Script(silent, all_of_it)
    await run(script, throttle, sink)
    assert sink.data == CONTENT
    assert (script.offsets, script.cancelled) == ([0, 0], [0])
    assert throttle.limiter.under_way == 0


async def test_a_request_in_time_is_not_hedged() -> None:
    throttle, sink, script = made(), Sink(), Script(all_of_it)
    await run(script, throttle, sink)
    assert sink.data == CONTENT
    assert throttle.hedges.left


async def test_without_a_budget_nothing_is_hedged() -> None:
    late, throttle, sink = asyncio.Event(), made(budget=0), Sink()

    async def slow(offset: int, taker: ByteSink) -> None:
        await late.wait()
        await all_of_it(offset, taker)

    script = Script(slow)
    asyncio.get_running_loop().call_later(0.1, late.set)
    await run(script, throttle, sink)
    assert sink.data == CONTENT
    assert script.offsets == [0]


async def test_where_the_gate_lets_nobody_in_nothing_is_hedged() -> None:
    late, throttle, sink = asyncio.Event(), made(concurrency_max=1), Sink()

    async def slow(offset: int, taker: ByteSink) -> None:
        await late.wait()
        await all_of_it(offset, taker)

    script = Script(slow)
    asyncio.get_running_loop().call_later(0.1, late.set)
    await run(script, throttle, sink)
    assert script.offsets == [0]
    assert throttle.hedges.left, "what was not made is not spent"


async def test_the_late_one_may_win_after_all() -> None:
    hedged, throttle, sink = asyncio.Event(), made(), Sink()

    async def slow(offset: int, taker: ByteSink) -> None:
        await hedged.wait()
        await all_of_it(offset, taker)

    async def second(offset: int, taker: ByteSink) -> None:
        hedged.set()
        await silent(offset, taker)

    script = Script(slow, second)
    await run(script, throttle, sink)
    assert sink.data == CONTENT
    assert script.cancelled == [1]
    assert throttle.limiter.under_way == 0


async def test_a_stalled_answer_is_gone_on_with_by_a_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstream.hedge.STALL_MIN_S", 0.01)
    throttle, sink = made(), Sink()

    async def stalls(offset: int, taker: ByteSink) -> None:
        await pump(taker, CONTENT[:50])
        await silent(offset, taker)

    script = Script(stalls, all_of_it)
    await run(script, throttle, sink)
    assert sink.data == CONTENT
    assert script.offsets == [0, 50]


async def test_a_sink_that_takes_its_time_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.upstream.hedge.STALL_MIN_S", 0.01)
    taken = asyncio.Event()
    throttle, sink, script = made(), Sink(taken), Script(all_of_it)
    asyncio.get_running_loop().call_later(0.2, taken.set)
    await run(script, throttle, sink)
    assert sink.data == CONTENT
    assert script.offsets == [0]


async def test_a_failure_of_one_leaves_the_race_to_the_other() -> None:
    hedged, failed = asyncio.Event(), asyncio.Event()
    throttle, sink = made(), Sink()

    async def breaks(offset: int, taker: ByteSink) -> None:
        await hedged.wait()
        failed.set()
        raise OriginUnavailable("reset")

    async def second(offset: int, taker: ByteSink) -> None:
        hedged.set()
        await failed.wait()
        await asyncio.sleep(0)
        await all_of_it(offset, taker)

    await run(Script(breaks, second), throttle, sink)
    assert sink.data == CONTENT


async def test_when_both_fail_the_first_error_stands() -> None:
    throttle, hedged = made(), asyncio.Event()

    async def second(offset: int, taker: ByteSink) -> None:
        hedged.set()
        raise OriginUnavailable("the second")

    script = Script(failing(OriginUnavailable("the first"), hedged), second)
    with pytest.raises(OriginUnavailable, match=r"the first|the second"):
        await run(script, throttle, Sink())
    assert len(script.offsets) == 2
    assert throttle.limiter.under_way == 0


@pytest.mark.parametrize("error", [VersionChanged("another"), StoreUnavailable("full")])
async def test_an_error_that_asking_again_cannot_mend_ends_both(error: Exception) -> None:
    throttle, script = made(), Script(silent, failing(error))
    with pytest.raises(type(error)):
        await run(script, throttle, Sink())
    assert script.cancelled == [0]
    assert throttle.limiter.under_way == 0


async def test_a_refused_hedge_slows_the_node_down_and_leaves_the_first_request_alone() -> None:
    throttle, sink, refused = made(), Sink(), asyncio.Event()

    async def slow(offset: int, taker: ByteSink) -> None:
        await refused.wait()
        await asyncio.sleep(0)
        await all_of_it(offset, taker)

    async def second(offset: int, taker: ByteSink) -> None:
        refused.set()
        raise OriginUnavailable("slow down", throttled=True)

    before = throttle.limiter.concurrency
    await run(Script(slow, second), throttle, sink)
    assert sink.data == CONTENT
    assert throttle.limiter.concurrency < before


async def test_a_refused_first_request_is_told_to_the_gate() -> None:
    throttle, hedged = made(), asyncio.Event()

    async def second(offset: int, taker: ByteSink) -> None:
        hedged.set()
        await silent(offset, taker)

    error = OriginUnavailable("slow down", throttled=True)
    before = throttle.limiter.concurrency
    with pytest.raises(OriginUnavailable, match="slow down"):
        await run(Script(failing(error, hedged), second), throttle, Sink())
    assert throttle.limiter.concurrency < before


async def test_a_cancelled_read_cancels_both_and_writes_no_more() -> None:
    hedged, throttle, sink = asyncio.Event(), made(), Sink()

    async def second(offset: int, taker: ByteSink) -> None:
        hedged.set()
        await silent(offset, taker)

    script = Script(silent, second)
    task = asyncio.create_task(run(script, throttle, sink))
    await hedged.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(script.cancelled) == [0, 1]
    assert throttle.limiter.under_way == 0


async def test_a_cancellation_while_the_beaten_one_ends_is_not_lost() -> None:
    leaving, gone = asyncio.Event(), asyncio.Event()
    throttle, sink = made(), Sink()

    async def lingers(offset: int, taker: ByteSink) -> None:
        try:
            await silent(offset, taker)
        finally:
            leaving.set()
            await gone.wait()

    task = asyncio.create_task(run(Script(lingers, all_of_it), throttle, sink))
    await leaving.wait()
    while len(sink.data) < len(CONTENT):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    gone.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_however_two_requests_interleave_each_byte_arrives_once_and_in_order(seed: int) -> None:
    chance = random.Random(seed)

    async def uneven(offset: int, taker: ByteSink) -> None:
        at = offset
        while at < len(CONTENT):
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.05:
                await asyncio.sleep(0.02)
            if chance.random() < 0.02:
                raise OriginUnavailable("reset")
            length = chance.randrange(1, 40)
            await pump(taker, CONTENT[at : at + length])
            at += length

    async def main() -> None:
        throttle, gate_open = made(budget=SAVED_MAX), asyncio.Event()
        gate_open.set()
        sink = Sink(gate_open if seed % 2 else None)
        try:
            await run(uneven, throttle, sink)
        except OriginUnavailable:
            assert CONTENT.startswith(sink.data)
        else:
            assert sink.data == CONTENT
        assert throttle.limiter.under_way == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.upstream.hedge.STALL_MIN_S", 0.005)
        patch.setattr("proxy.upstream.hedge.LATE_MIN_S", 0.003)
        asyncio.run(main())


@given(st.lists(st.booleans(), max_size=2000), st.sampled_from([0.01, 0.02, 0.1]))
def test_no_more_than_the_share_of_requests_is_hedged(lateness: list[bool], share: float) -> None:
    hedges, made_hedges = Hedges(share), 0
    for number, late in enumerate(lateness, 1):
        hedges.count()
        if late and hedges.left:
            hedges.spend()
            made_hedges += 1
        assert made_hedges <= number * share + 1e-6


def test_late_is_later_than_all_but_the_share_of_recent_first_bytes() -> None:
    hedges = Hedges(0.02)
    for number in range(SAMPLES_MIN - 1):
        hedges.observe(number / 100)
        assert hedges.late_s() is None, "too few to know"
    for number in range(SAMPLES_MIN - 1, 200):
        hedges.observe(number / 100)
    assert hedges.late_s() == pytest.approx(1.95, abs=0.5)


async def test_a_fill_is_hedged_where_the_gate_is_told_to() -> None:
    content = bytes(range(100))
    origin, version = MemoryOrigin(content), version_of(content)

    async def script(number: int, sent: int) -> None:
        if number == 1:
            await asyncio.Event().wait()

    origin.script = script
    throttles = OriginThrottles(
        lambda origin_id: AdaptiveLimiter(private_numbers(), 0, concurrency_max=9, start_rate=FREE_RATE), lambda _: 0.1
    )
    hedges = throttles.of(version.origin).hedges
    for _ in range(SAMPLES_MIN):
        hedges.observe(0.0)
        hedges.count()
    sink = Sink()
    await deliver(origin, version.origin, version, ByteRange(10, 90), sink, RetryPolicy(throttles=throttles))
    assert sink.data == content[10:90]
    assert origin.asked == [ByteRange(10, 90)] * 2
