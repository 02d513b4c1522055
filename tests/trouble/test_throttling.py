"""An origin that throttles, before a real gateway of two workers: the whole node slows down."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.scripted import Exchange, ScriptedServer, object_of
from tests.gateways import GatewayProcess, start_gateway

CONTENT = os.urandom(3000)
READERS = 16


class Origin:
    """Serves `CONTENT` under every key to so many requests a second, a burst of them at once; it refuses the others."""

    def __init__(self, allowed_per_s: float, burst: float, retry_after_s: int | None = None) -> None:
        self._allowed_per_s = allowed_per_s
        self._burst = self._tokens = burst
        self._filled_s = time.monotonic()
        self._headers = [("Retry-After", str(retry_after_s))] if retry_after_s is not None else []
        self.arrivals_s: list[float] = []
        self.refusals_s: list[float] = []

    async def __call__(self, exchange: Exchange) -> None:
        now_s = time.monotonic()
        self.arrivals_s.append(now_s)
        self._tokens = min(self._burst, self._tokens + (now_s - self._filled_s) * self._allowed_per_s)
        self._filled_s = now_s
        if self._tokens < 1:
            self.refusals_s.append(now_s)
            await exchange.respond(503, b"<Error><Code>SlowDown</Code></Error>", self._headers)
            return
        self._tokens -= 1
        await object_of(CONTENT)(exchange)


@asynccontextmanager
async def gateway_before(handler: Any, tmp_path: Path, **limits: Any) -> AsyncIterator[GatewayProcess]:
    async with ScriptedServer(handler) as server:
        gateway = await asyncio.to_thread(
            start_gateway, tmp_path, origin=server.url, workers=2, config={"limits": limits}
        )
        try:
            yield gateway
        finally:
            await asyncio.to_thread(gateway.stop)


async def read_all(gateway: GatewayProcess, keys: list[str]) -> Counter[tuple[int, bool]]:
    """Statuses, and whether the bytes were right; READERS connections, so that both workers have some."""
    found: Counter[tuple[int, bool]] = Counter()
    left = iter(keys)

    async def work() -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            for key in left:
                answer = await client.get(f"{gateway.url}/b/{key}")
                found[answer.status_code, answer.content == CONTENT] += 1

    await asyncio.gather(*(work() for _ in range(READERS)))
    return found


async def test_a_load_beyond_the_rate_ends_without_an_error_and_with_few_refusals(tmp_path: Path) -> None:
    origin = Origin(allowed_per_s=60, burst=10)
    async with gateway_before(origin, tmp_path) as gateway:
        keys = [f"k{number}" for number in range(300)]
        assert await read_all(gateway, keys) == {(200, True): 300}
        assert len(origin.refusals_s) <= 0.05 * len(origin.arrivals_s)
        throttled = await asyncio.to_thread(gateway.metric, "warmstart_origin_errors_total", reason="throttled")
        assert throttled == len(origin.refusals_s)


async def test_after_retry_after_no_worker_asks_before_its_time(tmp_path: Path) -> None:
    origin = Origin(allowed_per_s=5, burst=20, retry_after_s=3)
    async with gateway_before(origin, tmp_path) as gateway:
        keys = [f"k{number}" for number in range(40)]
        assert await read_all(gateway, keys) == {(200, True): 40}
    first_s = origin.refusals_s[0]
    # What was on its way when the refusal came may still arrive.
    assert not [at_s for at_s in origin.arrivals_s if first_s + 1 < at_s < first_s + 2.9]


async def test_a_pause_longer_than_the_deadline_is_told_to_the_client_and_spares_the_origin(tmp_path: Path) -> None:
    origin = Origin(allowed_per_s=0, burst=0, retry_after_s=100)
    async with gateway_before(origin, tmp_path, retry_deadline="5s") as gateway:
        assert set(await read_all(gateway, ["first"])) == {(503, False)}
        asked = len(origin.arrivals_s)
        found = await read_all(gateway, [f"k{number}" for number in range(40)])
        assert set(found) == {(503, False)}
        assert len(origin.arrivals_s) == asked


async def test_what_a_killed_worker_had_under_way_comes_back(tmp_path: Path) -> None:
    stalled, begun = asyncio.Event(), asyncio.Event()

    async def stalls(exchange: Exchange) -> None:
        if b"stall" not in exchange.request.target:
            await object_of(CONTENT)(exchange)
            return
        begun.set()
        await exchange.stall()

    async with gateway_before(stalls, tmp_path, origin_requests=4) as gateway:
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            reads = [asyncio.create_task(client.get(f"{gateway.url}/b/stall{number}")) for number in range(12)]
            await begun.wait()
            while await asyncio.to_thread(gateway.metric, "warmstart_origin_under_way") < 4:
                await asyncio.sleep(0.1)
            for pid in await asyncio.to_thread(gateway.worker_pids):
                os.kill(pid, signal.SIGKILL)
            assert {type(end) for end in await asyncio.gather(*reads, return_exceptions=True)} <= {
                httpx.ReadError,
                httpx.RemoteProtocolError,
            }
        assert await read_all(gateway, ["after"]) == {(200, True): 1}
    stalled.set()
