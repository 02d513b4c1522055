"""An origin that goes silent, before real gateways: readers get whole objects, late by what the settings allow."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.scripted import Exchange, ScriptedServer, object_of
from tests.gateways import GatewayProcess, start_gateway
from tests.trouble.origins import Origins, gateway_before_many

KEY = "/b/k"
BLOCK_BYTES = 256 << 10
CONTENT = random.Random(13).randbytes(2 * BLOCK_BYTES + 777)
SHORT = {"stall_timeout": "300ms", "stall_timeout_min": "200ms", "stall_timeout_max": "2s", "retry_deadline": "60s"}

Silence = Callable[[Exchange], Awaitable[None]]


async def after_the_request(exchange: Exchange) -> None:
    await exchange.stall()


async def after_the_head(exchange: Exchange) -> None:
    start, end = asked(exchange)
    await exchange.send_head(206, labelled(start, end), content_length=end - start)
    await exchange.stall()


async def in_mid_body(exchange: Exchange) -> None:
    start, end = asked(exchange)
    await exchange.send_head(206, labelled(start, end), content_length=end - start)
    await exchange.send(CONTENT[start : start + (end - start) // 2])
    await exchange.stall()


def asked(exchange: Exchange) -> tuple[int, int]:
    first, last = (exchange.request.get("range") or "").removeprefix("bytes=").split("-")
    return int(first), min(int(last) + 1, len(CONTENT))


def labelled(start: int, end: int) -> list[tuple[str, str]]:
    return [("Content-Range", f"bytes {start}-{end - 1}/{len(CONTENT)}"), ("ETag", '"v1"')]


class Stalling:
    """Serves CONTENT; requests that `chosen` picks are met with `silence` and never end by themselves."""

    def __init__(self, silence: Silence, chosen: Callable[[Stalling, Exchange], bool]) -> None:
        self._silence = silence
        self._chosen = chosen
        self.silenced = 0
        self.reads: list[tuple[int, int]] = []
        self.begun = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if exchange.request.method == "GET":
            self.reads.append(asked(exchange))
        if self._chosen(self, exchange):
            self.silenced += 1
            self.begun.set()
            with contextlib.suppress(ConnectionError):
                await self._silence(exchange)
        else:
            await object_of(CONTENT)(exchange)


def first(count: int, method: str = "GET") -> Callable[[Stalling, Exchange], bool]:
    return lambda origin, exchange: exchange.request.method == method and origin.silenced < count


@pytest.fixture(scope="module")
def origins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origins]:
    """Before a gateway with as many workers as the test says."""
    config = {"cache": {"block_size": "256KiB"}, "limits": SHORT}
    with gateway_before_many(tmp_path_factory.mktemp("gateway"), 10, workers=request.param, config=config) as made:
        yield made


@asynccontextmanager
async def gateway_before(
    origin: Stalling, tmp_path: Path, *, workers: int = 1, block: str = "256KiB", **limits: Any
) -> AsyncIterator[GatewayProcess]:
    config = {"cache": {"block_size": block}, "limits": SHORT | limits}
    async with ScriptedServer(origin) as server:
        gateway = await asyncio.to_thread(start_gateway, tmp_path, origin=server.url, workers=workers, config=config)
        try:
            yield gateway
        finally:
            await asyncio.to_thread(gateway.stop)


async def get(url: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
        return await client.get(url, headers=headers)


WHOLE = (200, "the whole object")


def told(answer: httpx.Response) -> tuple[int, str]:
    """Its status, and what it brought, in words."""
    return answer.status_code, "the whole object" if answer.content == CONTENT else answer.text[:300]


@pytest.mark.parametrize("silence", [after_the_request, after_the_head, in_mid_body])
@pytest.mark.parametrize("origins", [1, 2], indirect=True)
async def test_a_reader_of_an_origin_that_goes_silent_gets_its_whole_object(silence: Silence, origins: Origins) -> None:
    origin, place = Stalling(silence, first(3)), origins.take()
    async with place.serve(origin):
        answers = await asyncio.gather(*(get(place.url) for _ in range(4)))
        assert [told(answer) for answer in answers] == [WHOLE] * len(answers)
        assert origin.silenced == 3
        labels = {"origin": place.name, "reason": "timeout"}
        assert await asyncio.to_thread(partial(place.gateway.metric, "warmstart_origin_errors_total", **labels)) >= 1


@pytest.mark.parametrize("origins", [1], indirect=True)
async def test_a_question_about_an_object_that_goes_unanswered_is_asked_again(origins: Origins) -> None:
    origin, place = Stalling(after_the_request, first(2, "HEAD")), origins.take()
    async with place.serve(origin), httpx.AsyncClient(trust_env=False, timeout=120) as client:
        answer = await client.head(place.url)
        assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(CONTENT)))
        assert origin.silenced == 2


async def test_what_came_before_a_stall_is_not_asked_for_again(tmp_path: Path) -> None:
    origin = Stalling(in_mid_body, first(1))
    async with gateway_before(origin, tmp_path, block="1MiB") as gateway:
        assert told(await get(gateway.url + KEY)) == WHOLE
    (start, end), *again = origin.reads
    assert (start + (end - start) // 2, end) in again


async def test_every_request_that_was_abandoned_gives_its_place_at_the_origin_back_once(tmp_path: Path) -> None:
    origin = Stalling(in_mid_body, first(6))
    async with gateway_before(origin, tmp_path, workers=2, origin_requests=4) as gateway:
        answers = await asyncio.gather(*(get(gateway.url + KEY) for _ in range(6)))
        assert [told(answer) for answer in answers] == [WHOLE] * len(answers)
        while await asyncio.to_thread(gateway.metric, "warmstart_origin_under_way"):
            await asyncio.sleep(0.05)


async def test_an_origin_that_is_slow_but_moves_is_asked_once(tmp_path: Path) -> None:
    async def slowly(exchange: Exchange) -> None:
        start, end = asked(exchange)
        await exchange.send_head(206, labelled(start, end), content_length=end - start)
        for at in range(start, end, 32 << 10):
            await asyncio.sleep(0.05)
            await exchange.send(CONTENT[at : min(at + (32 << 10), end)])

    origin = Stalling(slowly, first(1000))
    async with gateway_before(
        origin, tmp_path, stall_timeout="3s", stall_timeout_min="3s", stall_timeout_max="3s"
    ) as gateway:
        assert told(await get(gateway.url + KEY)) == WHOLE
        assert len(origin.reads) == len(set(origin.reads)) == 3


async def test_an_origin_whose_first_bytes_take_long_is_given_more_time_with_each_silence(tmp_path: Path) -> None:
    async def late(exchange: Exchange) -> None:
        start, end = asked(exchange)
        await asyncio.sleep(1.5)
        await exchange.respond(206, CONTENT[start:end], labelled(start, end))

    origin = Stalling(late, first(1000))
    async with gateway_before(origin, tmp_path, block="1MiB", stall_timeout_max="20s") as gateway:
        assert told(await get(gateway.url + KEY)) == WHOLE
        assert len(origin.reads) <= 6, "0.3, 0.3, 0.6, 1.2 s were too little"


@pytest.mark.parametrize("workers", [1, 2])
async def test_after_a_fill_has_failed_the_next_reader_begins_a_new_one(workers: int, tmp_path: Path) -> None:
    well = asyncio.Event()
    origin = Stalling(
        after_the_request, lambda origin, exchange: exchange.request.method == "GET" and not well.is_set()
    )
    async with gateway_before(
        origin, tmp_path, workers=workers, retry_deadline="1s", stall_timeout="200ms", stall_timeout_max="200ms"
    ) as gateway:
        with contextlib.suppress(httpx.RemoteProtocolError):
            assert (await get(gateway.url + KEY)).status_code == 503
        well.set()
        assert told(await get(gateway.url + KEY)) == WHOLE


@pytest.mark.parametrize("origins", [1], indirect=True)
async def test_a_head_that_hangs_holds_the_last_bytes_for_seconds_only(origins: Origins) -> None:
    origin = Stalling(after_the_request, lambda origin, exchange: exchange.request.method == "HEAD")
    place = origins.take()
    async with place.serve(origin):
        assert told(await get(place.url)) == WHOLE
        assert origin.silenced < 10, "the body waited until the HEAD was given up"


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_client_that_gives_up_early_and_asks_again_costs_no_further_request(
    workers: int, tmp_path: Path
) -> None:
    """A loader of models waits a second for its first byte, then asks the same again, maybe of another worker."""
    go_on = asyncio.Event()

    async def late(exchange: Exchange) -> None:
        start, end = asked(exchange)
        await go_on.wait()
        await exchange.respond(206, CONTENT[start:end], labelled(start, end))

    origin = Stalling(late, first(1000))
    async with gateway_before(
        origin,
        tmp_path,
        workers=workers,
        block="1MiB",
        stall_timeout="10s",
        stall_timeout_min="10s",
        stall_timeout_max="20s",
    ) as gateway:
        async with httpx.AsyncClient(trust_env=False) as client:
            for _ in range(6):
                with pytest.raises(httpx.ReadTimeout):
                    await client.get(f"{gateway.url}{KEY}", timeout=httpx.Timeout(30, read=0.3))
        last = asyncio.create_task(get(gateway.url + KEY))
        await origin.begun.wait()
        go_on.set()
        assert told(await last) == WHOLE
        assert len(origin.reads) <= workers
