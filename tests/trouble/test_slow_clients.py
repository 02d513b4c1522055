"""Clients that take their bytes slowly, or not at all, before a real gateway: nobody else waits for them."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.scripted import Exchange, Handler, object_of
from tests.gateways import GatewayProcess
from tests.trouble.raw_clients import RawClients, gateway_before, read_answer

CONTENT = random.Random(21).randbytes(7 << 20)  # more than sockets and buffers hold
LIMITS: dict[str, Any] = {"origin_requests": 8, "retry_deadline": "20s"}
STALLED = 9  # more than an origin takes requests
OF_A_CUSTOMER_KEY = [("x-amz-server-side-encryption-customer-algorithm", "AES256")]  # so that it can't be cached
LAST_MODIFIED = [("last-modified", "Mon, 02 Nov 2026 10:00:00 GMT")]


async def without_etag(exchange: Exchange) -> None:
    """An object that nothing tells apart from another one under its key."""
    if exchange.request.method == "HEAD":
        await exchange.send_head(200, content_length=len(CONTENT))
    elif (asked := exchange.request.get("range")) is not None:
        first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        part = CONTENT[first : last + 1]
        await exchange.respond(206, part, [("content-range", f"bytes {first}-{first + len(part) - 1}/{len(CONTENT)}")])
    else:
        await exchange.respond(200, CONTENT)


def either(uncached: Handler) -> Handler:
    """Keys that begin with `slow` are this; all others a small object."""

    async def handler(exchange: Exchange) -> None:
        await (uncached if b"/slow" in exchange.request.target else object_of(b"quick"))(exchange)

    return handler


async def metric(gateway: GatewayProcess, name: str, **labels: str) -> float:
    return await asyncio.to_thread(lambda: gateway.metric(name, **labels))


async def until_metric(gateway: GatewayProcess, name: str, value: float) -> None:
    async with asyncio.timeout(60):
        while await metric(gateway, name) != value:
            await asyncio.sleep(0.1)


async def test_stalled_readers_past_the_cache_hold_no_request_at_the_origin_and_get_their_bytes_later(
    tmp_path: Path,
) -> None:
    sealed = either(object_of(CONTENT, headers=OF_A_CUSTOMER_KEY))
    async with gateway_before(sealed, tmp_path, reader_pace="1GiB", **LIMITS) as gateway:
        with RawClients(gateway) as raw:
            clients = [client for n in range(STALLED) for client in raw.stalled(f"/b/slow{n}", 1)]
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                assert (await client.get(f"{gateway.url}/b/cold")).content == b"quick"
                assert (await client.head(f"{gateway.url}/b/colder")).status_code == 200
                await until_metric(gateway, "warmstart_origin_under_way", 0)
                assert (await client.get(f"{gateway.url}/b/coldest")).content == b"quick"
            answers = await asyncio.gather(*(asyncio.to_thread(read_answer, client) for client in clients))
        assert all(answer.body == CONTENT for answer in answers)


async def test_stalled_readers_of_what_can_be_asked_for_once_only_leave_half_of_the_origin_to_others(
    tmp_path: Path,
) -> None:
    async with gateway_before(either(without_etag), tmp_path, reader_pace="1GiB", **LIMITS) as gateway:
        with RawClients(gateway) as raw:
            clients = [client for n in range(STALLED) for client in raw.stalled(f"/b/slow{n}", 1)]
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                assert (await client.get(f"{gateway.url}/b/cold")).content == b"quick"
                assert (await client.head(f"{gateway.url}/b/colder")).status_code == 200
                assert (await client.get(f"{gateway.url}/b/slow")).content == CONTENT, "a quick reader gets a place"
            answers = await asyncio.gather(*(asyncio.to_thread(read_answer, client) for client in clients))
        assert all(CONTENT.startswith(answer.body) for answer in answers), "cut off, never wrong"
