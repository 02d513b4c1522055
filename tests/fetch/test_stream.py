"""Spans that no disk holds, and retries under a deadline."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from proxy.errors import OriginUnavailable, VersionChanged
from proxy.fetch import stream as stream_module
from proxy.fetch.attempts import Attempts, RetryPolicy
from proxy.fetch.stream import stream_span
from proxy.ranges import ByteRange
from tests.fetch.memory import MemoryOrigin, version_of

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
    attempts = Attempts(RetryPolicy(deadline_s=30), "s3://test", clock=lambda: now)
    with pytest.raises(OriginUnavailable):
        await attempts.failed(OriginUnavailable("throttled", retry_after_s=31, throttled=True))
