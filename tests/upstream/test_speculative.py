"""A range asked for before its version is known: held back, judged, handed over, dropped."""

from __future__ import annotations

import asyncio

import pytest

from proxy.blocks import ByteSink
from proxy.errors import NotFound, OriginUnavailable, VersionChanged
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.origin import Opened
from proxy.ranges import ByteRange
from proxy.upstream.deliver import deliver
from proxy.upstream.limiter import FREE_RATE, AdaptiveLimiter, private_numbers
from proxy.upstream.retry import RetryPolicy
from proxy.upstream.speculative import SpeculativeRead, SpeculativeSource
from proxy.upstream.throttle import OriginThrottles
from tests.fakes.memory import MemoryOrigin, pump, version_of
from tests.waiting import until

CONTENT = bytes(range(100))
VERSION = version_of(CONTENT)


RECORD = ObjectRecord(VERSION, '"1"', None, (), 0.0, sums_known=False)


def narrow_policy() -> RetryPolicy:
    """One request at a time."""

    def limiter(origin_id: str) -> AdaptiveLimiter:
        return AdaptiveLimiter(private_numbers(), 0, concurrency_max=1, start_rate=FREE_RATE)

    return RetryPolicy(first_pause_s=0.001, throttles=OriginThrottles(limiter))


POLICY = narrow_policy()


def opened(origin: SpeculativeOrigin, start: int, end: int) -> SpeculativeRead:
    return SpeculativeRead(origin, "b", "k", ByteRange(start, end), POLICY.throttles.of("s3://test"))


class SpeculativeOrigin(MemoryOrigin):
    """Opens ranges of its content; `refusal` is raised instead, `judge` by its taker, `broken` after its head."""

    opening_tells = True

    def __init__(self) -> None:
        super().__init__(CONTENT)
        self.refusal: Exception | None = None
        self.judge: Exception | None = None
        self.broken: Exception | None = None
        self.head = asyncio.Event()
        self.head.set()
        self.ended = asyncio.Event()

    async def open_range(self, bucket: str, key: str, span: ByteRange, opened: Opened) -> None:
        try:
            await self.head.wait()
            if self.refusal is not None:
                raise self.refusal

            def attach(version: ObjectVersion, wanted: ByteRange, sink: ByteSink) -> ByteSink:
                if self.judge is not None:
                    raise self.judge
                return sink

            sink = opened.begin(attach, RECORD)
            if self.broken is not None:
                raise self.broken
            for start in range(span.start, min(span.end, len(CONTENT)), 10):
                await pump(sink, CONTENT[start : min(start + 10, span.end)])
        finally:
            self.ended.set()


class Taken:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        self.data += data


@pytest.fixture
def origin() -> SpeculativeOrigin:
    return SpeculativeOrigin()


async def test_its_bytes_wait_for_whoever_takes_them(origin: SpeculativeOrigin) -> None:
    speculative = opened(origin, 20, 60)
    taken = Taken()
    await speculative.read_range(VERSION, ByteRange(20, 60), taken)
    assert bytes(taken.data) == CONTENT[20:60]
    assert origin.asked == []


async def test_its_head_tells_the_object_before_anybody_takes_the_bytes(origin: SpeculativeOrigin) -> None:
    speculative = opened(origin, 20, 60)
    assert await speculative.tell() == RECORD
    speculative.drop()
    origin.refusal = NotFound("key", "k")
    with pytest.raises(NotFound):
        await opened(origin, 20, 60).tell()


async def fill(source: SpeculativeSource, span: ByteRange, taken: Taken) -> None:
    await deliver(source, "s3://test", VERSION, span, taken, POLICY)


async def test_one_that_broke_off_behind_its_head_is_asked_for_again(origin: SpeculativeOrigin) -> None:
    origin.broken = OriginUnavailable("timed out", silent=True)
    source, taken = SpeculativeSource(opened(origin, 20, 60), origin), Taken()
    await asyncio.wait_for(origin.ended.wait(), 10)
    await asyncio.sleep(0)
    await fill(source, ByteRange(20, 60), taken)
    assert bytes(taken.data) == CONTENT[20:60]
    assert origin.asked == [ByteRange(20, 60)]


async def test_what_lies_beyond_it_is_read_from_the_origin(origin: SpeculativeOrigin) -> None:
    source, taken = SpeculativeSource(opened(origin, 20, 60), origin), Taken()
    await fill(source, ByteRange(20, 100), taken)
    assert bytes(taken.data) == CONTENT[20:]
    assert origin.asked == [ByteRange(60, 100)]
    await fill(source, ByteRange(0, 20), taken)
    assert origin.asked == [ByteRange(60, 100), ByteRange(0, 20)]


async def test_a_range_that_reaches_beyond_the_object_ends_with_it(origin: SpeculativeOrigin) -> None:
    source, taken = SpeculativeSource(opened(origin, 80, 500), origin), Taken()
    await fill(source, ByteRange(80, 100), taken)
    assert bytes(taken.data) == CONTENT[80:]
    assert origin.asked == []


async def test_a_fill_that_begins_elsewhere_does_without_it(origin: SpeculativeOrigin) -> None:
    source, taken = SpeculativeSource(opened(origin, 20, 60), origin), Taken()
    await asyncio.sleep(0)
    await fill(source, ByteRange(0, 10), taken)
    assert bytes(taken.data) == CONTENT[:10]
    await asyncio.wait_for(origin.ended.wait(), 10)


async def test_it_holds_no_place_at_the_gate_while_it_waits_to_be_taken(origin: SpeculativeOrigin) -> None:
    throttle = POLICY.throttles.of("s3://test")
    speculative, taken = opened(origin, 20, 60), Taken()
    await speculative.tell()
    async with asyncio.timeout(10), throttle.turn():
        source = SpeculativeSource(speculative, origin)
        await fill(source, ByteRange(20, 60), taken)
    assert bytes(taken.data) == CONTENT[20:60]
    assert throttle.limiter.under_way == 0


async def test_it_waits_for_its_place_and_leaves_it_when_dropped(origin: SpeculativeOrigin) -> None:
    throttle = POLICY.throttles.of("s3://test")
    async with throttle.turn():
        waiting = opened(origin, 20, 60)
        await asyncio.sleep(0.001)
        assert not origin.ended.is_set()
        waiting.drop()
    origin.head.clear()
    under_way = opened(origin, 20, 60)
    await until(lambda: throttle.limiter.under_way != 0)
    under_way.drop()
    await asyncio.wait_for(origin.ended.wait(), 10)
    assert throttle.limiter.under_way == 0


@pytest.mark.parametrize("refusal", [NotFound("key", "k"), VersionChanged("older")])
async def test_a_refusal_from_before_the_version_was_known_is_asked_again(
    origin: SpeculativeOrigin, refusal: Exception
) -> None:
    origin.refusal = refusal
    source, taken = SpeculativeSource(opened(origin, 20, 60), origin), Taken()
    await fill(source, ByteRange(20, 60), taken)
    assert bytes(taken.data) == CONTENT[20:60]
    assert origin.asked == [ByteRange(20, 60)]


@pytest.mark.parametrize("error", [VersionChanged("other"), OriginUnavailable("nonsense")])
async def test_what_does_not_fit_the_version_is_refused_and_closed(origin: SpeculativeOrigin, error: Exception) -> None:
    origin.judge = error
    speculative, taken = opened(origin, 20, 60), Taken()
    with pytest.raises(type(error)):
        await speculative.read_range(VERSION, ByteRange(20, 60), taken)
    assert not taken.data
    assert origin.ended.is_set()


async def test_a_refusal_is_heard_by_who_takes_it(origin: SpeculativeOrigin) -> None:
    origin.refusal = NotFound("key", "k")
    with pytest.raises(NotFound):
        await opened(origin, 20, 60).read_range(VERSION, ByteRange(20, 60), Taken())


async def test_dropped_it_ends_its_request_and_nobody_hears_of_it(origin: SpeculativeOrigin) -> None:
    speculative = opened(origin, 20, 60)
    await asyncio.sleep(0)
    speculative.drop()
    await asyncio.wait_for(origin.ended.wait(), 10)


async def test_a_cancelled_taker_ends_the_request_first(origin: SpeculativeOrigin) -> None:
    origin.head.clear()
    speculative = opened(origin, 20, 60)
    taking = asyncio.ensure_future(speculative.read_range(VERSION, ByteRange(20, 60), Taken()))
    await asyncio.sleep(0.001)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert origin.ended.is_set()
