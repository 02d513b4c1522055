"""An origin that dies, stalls or lies, as a client of the gateway sees it: right bytes or a clean failure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.scripted import Exchange, object_of
from tests.trouble.origins import Origin, Origins, gateway_before_many

BLOCK_BYTES = 256 << 10
CONTENT = random.Random(11).randbytes(4 * BLOCK_BYTES + 999)
OTHER = random.Random(12).randbytes(4 * BLOCK_BYTES + 999)
RULES: dict[str, Any] = {"cache": {"block_size": "256KiB"}, "limits": {"retry_deadline": "3s", "read_timeout": "2s"}}


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origins]:
    with gateway_before_many(tmp_path_factory.mktemp("gateway"), 30, workers=2, config=RULES) as made:
        yield made


@pytest.fixture
def origin(origins: Origins) -> Origin:
    return origins.take()


async def fetch(origin: Origin, **headers: str) -> tuple[int, bytes, bool]:
    """Status, the bytes that came, and whether the body came to its declared end."""
    got = bytearray()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        try:
            async with client.stream("GET", origin.url, headers=headers) as answer:
                async for chunk in answer.aiter_raw():
                    got += chunk
        except httpx.RemoteProtocolError:
            return answer.status_code, bytes(got), False
    return answer.status_code, bytes(got), True


class Script:
    """Answers HEADs as an object; the n-th ranged GET (from 0) as `answers[n]` says, later ones rightly."""

    def __init__(
        self, *answers: Callable[[Exchange, int, int], Any], content: bytes = CONTENT, etag: str = '"v1"'
    ) -> None:
        self.answers = list(answers)
        self.content = content
        self.etag = etag
        self.gets = 0

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.request.method == "HEAD":
            await object_of(self.content, etag=self.etag)(exchange)
            return
        number, self.gets = self.gets, self.gets + 1
        if number >= len(self.answers):
            await object_of(self.content, etag=self.etag)(exchange)
            return
        first, last = (exchange.request.get("range") or "").removeprefix("bytes=").split("-")
        await self.answers[number](exchange, int(first), int(last) + 1)


def ranged(start: int, end: int, *, size: int = len(CONTENT), etag: str = '"v1"') -> list[tuple[str, str]]:
    return [("Content-Range", f"bytes {start}-{end - 1}/{size}"), ("ETag", etag)]


async def short(exchange: Exchange, start: int, end: int) -> None:
    await exchange.send_head(206, ranged(start, end), content_length=end - start)
    await exchange.send(CONTENT[start : start + 1000])
    exchange.close()


async def reset(exchange: Exchange, start: int, end: int) -> None:
    await exchange.send_head(206, ranged(start, end), content_length=end - start)
    await exchange.send(CONTENT[start : start + 70_000])
    exchange.reset()


async def longer(exchange: Exchange, start: int, end: int) -> None:
    await exchange.send_head(206, ranged(start, end), content_length=end - start)
    await exchange.send(CONTENT[start:end] + b"and more, which nobody asked for")
    exchange.close()


async def wrong_range(exchange: Exchange, start: int, end: int) -> None:
    await exchange.respond(206, CONTENT[start + 1 : end + 1], ranged(start + 1, end + 1))


async def unknown_size(exchange: Exchange, start: int, end: int) -> None:
    headers = [("Content-Range", f"bytes {start}-{end - 1}/*"), ("ETag", '"v1"')]
    await exchange.respond(206, CONTENT[start:end], headers)


async def whole_instead(exchange: Exchange, start: int, end: int) -> None:
    await exchange.respond(200, CONTENT, [("ETag", '"v1"')])


async def refused(exchange: Exchange, start: int, end: int) -> None:
    await exchange.respond(503, b"<Error><Code>SlowDown</Code></Error>", [("Retry-After", "0")])


async def stalled(exchange: Exchange, start: int, end: int) -> None:
    await exchange.send_head(206, ranged(start, end), content_length=end - start)
    await exchange.send(CONTENT[start : start + 5000])
    await exchange.stall()


async def dripping(exchange: Exchange, start: int, end: int) -> None:
    await exchange.send_head(206, ranged(start, end), content_length=end - start)
    await exchange.drip(CONTENT[start : start + 300])
    await exchange.send(CONTENT[start + 300 : end])


@pytest.mark.parametrize(
    "lie", [short, reset, longer, wrong_range, unknown_size, whole_instead, refused, stalled, dripping]
)
async def test_a_trouble_that_passes_is_mended_before_the_client_notices(
    lie: Callable[..., Any], origin: Origin
) -> None:
    async with origin.serve(Script(lie, lie)):
        assert await fetch(origin) == (200, CONTENT, True)
        assert await fetch(origin, Range="bytes=100-262150") == (206, CONTENT[100:262151], True)


@pytest.mark.parametrize("lie", [short, reset, wrong_range, refused, stalled])
async def test_a_trouble_that_stays_is_a_clean_failure(lie: Callable[..., Any], origin: Origin) -> None:
    async def never(exchange: Exchange, start: int, end: int) -> None:
        await exchange.send_head(206, ranged(start, end), content_length=end - start)
        exchange.reset()

    async def silent(exchange: Exchange, start: int, end: int) -> None:
        await exchange.send_head(206, ranged(start, end), content_length=end - start)
        await exchange.stall()

    # Without one byte of progress: a transfer that moves a little with each try is slow, not dead.
    lies = {short: never, reset: never, stalled: silent}.get(lie, lie)
    async with origin.serve(Script(*[lies] * 1000)):
        status, got, whole = await fetch(origin)
        assert not (status == 200 and whole)
        assert status == 503 or got == CONTENT[: len(got)]


async def test_a_new_version_before_the_first_byte_is_served_whole(origin: Origin) -> None:
    script = Script()

    async def changed(exchange: Exchange, start: int, end: int) -> None:
        script.content, script.etag = OTHER, '"v2"'
        await exchange.respond(412)

    script.answers = [changed]
    async with origin.serve(script):
        assert await fetch(origin) == (200, OTHER, True)


async def test_a_new_version_in_mid_object_ends_the_body_and_the_next_read_is_whole(origin: Origin) -> None:
    script = Script()

    async def right(exchange: Exchange, start: int, end: int) -> None:
        await exchange.respond(206, CONTENT[start:end], ranged(start, end))

    async def changed(exchange: Exchange, start: int, end: int) -> None:
        script.content, script.etag = OTHER, '"v2"'
        await exchange.respond(206, OTHER[start:end], ranged(start, end, etag='"v2"'))

    script.answers = [right, right, changed]
    async with origin.serve(script):
        status, got, whole = await fetch(origin)
        assert (status, whole) == (200, False)
        assert got == CONTENT[: len(got)]
        assert await fetch(origin) == (200, OTHER, True)


@pytest.fixture
def at_one_worker(tmp_path: Path) -> Iterator[Origin]:
    with gateway_before_many(tmp_path, 1, config=RULES) as origins:
        yield origins.take()


async def test_an_origin_that_is_gone_gives_503_for_what_is_missing_and_serves_what_is_there(
    at_one_worker: Origin,
) -> None:
    origin = at_one_worker
    async with origin.serve(Script()):
        assert await fetch(origin, Range="bytes=0-262143") == (206, CONTENT[:BLOCK_BYTES], True)
    assert await fetch(origin, Range="bytes=0-99") == (206, CONTENT[:100], True)
    status, body, _ = await fetch(origin, Range=f"bytes={3 * BLOCK_BYTES}-{3 * BLOCK_BYTES + 10}")
    assert status == 503
    assert b"<Code>" in body
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{origin.gateway.url}/-/ready")).status_code == 200


async def test_the_first_bytes_of_a_slow_block_leave_before_it_is_complete(origin: Origin) -> None:
    go_on = asyncio.Event()

    async def slow(exchange: Exchange, start: int, end: int) -> None:
        await exchange.send_head(206, ranged(start, end), content_length=end - start)
        await exchange.send(CONTENT[start : start + 5000])
        await go_on.wait()
        await exchange.send(CONTENT[start + 5000 : end])

    async with origin.serve(Script(slow)):
        assert await asyncio.wait_for(fetch(origin, Range="bytes=0-7"), 30) == (206, CONTENT[:8], True)
        go_on.set()
        assert await fetch(origin) == (200, CONTENT, True)
