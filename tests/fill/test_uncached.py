"""Spans that no disk holds, and retries under a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import pytest

from proxy.errors import OriginUnavailable, Overloaded, VersionChanged
from proxy.fill import uncached as stream_module
from proxy.fill.uncached import stream_span
from proxy.ranges import ByteRange
from proxy.upstream.limiter import AdaptiveLimiter, private_numbers
from proxy.upstream.retry import Attempts, OriginCall, RetryPolicy
from proxy.upstream.throttle import OriginThrottles
from tests.fakes.memory import MemoryOrigin, version_of

CONTENT = bytes(n % 251 for n in range(5000))
POLICY = RetryPolicy(deadline_s=5, first_pause_s=0.001, longest_pause_s=0.002)


async def test_a_span_comes_whole_and_in_order_also_when_it_breaks_off_on_the_way() -> None:
    origin = MemoryOrigin(CONTENT, piece_bytes=100)

    async def script(number: int, sent: int) -> None:
        if number == 1 and sent == 700:
            raise OriginUnavailable("reset")

    origin.script = script
    stream = stream_span(origin, version_of(CONTENT), ByteRange(10, 4000), POLICY)
    assert b"".join([chunk async for chunk in stream]) == CONTENT[10:4000]
    assert origin.asked == [ByteRange(10, 4000), ByteRange(710, 4000)]


async def test_a_slow_reader_holds_the_origin_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "BUFFER_BYTES", 300)
    origin, sent_bytes = MemoryOrigin(CONTENT, piece_bytes=100), 0

    async def script(number: int, sent: int) -> None:
        nonlocal sent_bytes
        sent_bytes = sent

    origin.script = script
    stream = stream_span(origin, version_of(CONTENT), ByteRange(0, 5000), POLICY)
    async with aclosing(stream):
        first = await anext(stream)
        for _ in range(50):
            await asyncio.sleep(0)
        assert sent_bytes <= 600
        rest = b"".join([chunk async for chunk in stream])
    assert first + rest == CONTENT


async def test_an_error_comes_after_the_bytes_before_it() -> None:
    origin = MemoryOrigin(CONTENT, piece_bytes=100)

    async def script(number: int, sent: int) -> None:
        if sent == 200:
            raise VersionChanged("changed")

    origin.script = script
    got = b""
    with pytest.raises(VersionChanged):
        async for chunk in stream_span(origin, version_of(CONTENT), ByteRange(0, 5000), POLICY):
            got += chunk
    assert got == CONTENT[:200]


async def test_closing_the_stream_ends_the_request() -> None:
    origin, ended = MemoryOrigin(CONTENT, piece_bytes=100), asyncio.Event()

    async def script(number: int, sent: int) -> None:
        if sent == 200:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    origin.script = script
    stream = stream_span(origin, version_of(CONTENT), ByteRange(0, 5000), POLICY)
    await anext(stream)
    for _ in range(20):
        await asyncio.sleep(0)
    await stream.aclose()
    assert ended.is_set()


async def test_retry_after_beyond_the_deadline_fails_at_once() -> None:
    now = 0.0
    attempts = Attempts(RetryPolicy(deadline_s=30), OriginCall(MemoryOrigin(b""), "b", "k"), clock=lambda: now)
    assert not await attempts.again(OriginUnavailable("throttled", retry_after_s=31, throttled=True))


SLOW = RetryPolicy(deadline_s=5, first_pause_s=0.001, longest_pause_s=0.002, reader_pace=1 << 40)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers of 300 bytes, and no patience."""
    monkeypatch.setattr(stream_module, "BUFFER_BYTES", 300)
    monkeypatch.setattr(stream_module, "PATIENCE_MIN_S", 0.01)


async def slow_reader(stream: AsyncGenerator[bytes, None], policy: RetryPolicy) -> bytes:
    """Waits, before it takes more, until the stream holds no place at the origin any more."""
    streams = policy.throttles.of("s3://test").streams
    got = b""
    async for chunk in stream:
        got += chunk
        while streams.under_way:
            await asyncio.sleep(0.001)
    return got


@pytest.mark.usefixtures("small")
async def test_a_reader_below_the_pace_holds_no_place_at_the_origin_and_gets_its_bytes_all_the_same() -> None:
    origin = MemoryOrigin(CONTENT, piece_bytes=100)
    stream = stream_span(origin, version_of(CONTENT), ByteRange(10, 5000), SLOW)
    assert await slow_reader(stream, SLOW) == CONTENT[10:5000]
    assert origin.asked[0] == ByteRange(10, 5000)
    assert all(span.length <= 300 for span in origin.asked[1:]), "what a slow reader is not ready for is not asked for"
    starts, ends = [span.start for span in origin.asked], [span.end for span in origin.asked]
    assert starts[1] <= 610, "one buffer, and the write that waited for it"
    assert starts[2:] == ends[1:-1]


@pytest.mark.usefixtures("small")
async def test_a_reader_that_has_become_quick_gets_the_rest_by_one_request() -> None:
    policy = RetryPolicy(reader_pace=1)
    origin = MemoryOrigin(CONTENT, piece_bytes=100)
    stream = stream_span(origin, version_of(CONTENT), ByteRange(0, 5000), replace(SLOW, throttles=policy.throttles))
    async with aclosing(stream):
        got = await anext(stream)
        while policy.throttles.of("s3://test").streams.under_way:
            await asyncio.sleep(0.001)
    quick = stream_span(origin, version_of(CONTENT), ByteRange(len(got), 5000), policy)
    got += b"".join([chunk async for chunk in quick])
    assert got == CONTENT
    assert origin.asked[-1].end == 5000


@pytest.mark.usefixtures("small")
async def test_an_object_without_a_validator_is_never_put_together_from_two_answers() -> None:
    """Its slow reader keeps its place while nobody wants it, and is cut off when somebody does."""
    version = replace(version_of(CONTENT), validator="none")
    policy = replace(
        SLOW,
        throttles=OriginThrottles(
            lambda origin: AdaptiveLimiter(private_numbers(), 0, concurrency_max=9), streams_max=1
        ),
    )
    origin, other = MemoryOrigin(CONTENT, piece_bytes=100), MemoryOrigin(CONTENT, piece_bytes=100)
    stream = stream_span(origin, version, ByteRange(0, 5000), policy)
    await anext(stream)
    await asyncio.sleep(0.05)  # longer than its patience
    assert policy.throttles.of("s3://test").streams.under_way == 1
    waiting = stream_span(other, version_of(CONTENT), ByteRange(0, 5000), policy)
    assert b"".join([chunk async for chunk in waiting]) == CONTENT
    with pytest.raises(OriginUnavailable, match="slowly"):
        while True:
            await anext(stream)
    assert origin.asked == [ByteRange(0, 5000)]


async def test_a_stream_that_lasts_gives_its_place_on_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "SLICE_BYTES", 1000)
    throttles = OriginThrottles(lambda origin: AdaptiveLimiter(private_numbers(), 0, concurrency_max=9), streams_max=1)
    policy = replace(POLICY, throttles=throttles)
    origin = MemoryOrigin(CONTENT, piece_bytes=100)

    async def script(number: int, sent: int) -> None:
        del number, sent
        await asyncio.sleep(0)

    origin.script = script

    async def read(span: ByteRange) -> bytes:
        return b"".join([chunk async for chunk in stream_span(origin, version_of(CONTENT), span, policy)])

    parts = await asyncio.gather(read(ByteRange(0, 2500)), read(ByteRange(2500, 5000)))
    assert b"".join(parts) == CONTENT
    starts = [span.start for span in origin.asked]
    assert starts == [0, 2500, 1000, 3500, 2000, 4500]


async def test_a_new_stream_that_finds_no_place_in_time_is_refused_and_not_forgotten() -> None:
    throttles = OriginThrottles(lambda origin: AdaptiveLimiter(private_numbers(), 0, concurrency_max=9), streams_max=1)
    policy = replace(POLICY, throttles=throttles, deadline_s=0.01)
    async with throttles.of("s3://test").streams.take(None):
        with pytest.raises(Overloaded):
            await anext(stream_span(MemoryOrigin(CONTENT), version_of(CONTENT), ByteRange(0, 5000), policy))
    got = [chunk async for chunk in stream_span(MemoryOrigin(CONTENT), version_of(CONTENT), ByteRange(0, 50), policy)]
    assert b"".join(got) == CONTENT[:50]
