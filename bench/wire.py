"""8 MiB ranges, eight at a time, from a loopback server: our client beside httpx, plain and over TLS.

The processor time is this process's own; the server is another process. Every client takes its turn in each round,
and a row is the client's best round: what disturbs a shared machine only ever makes it slower.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvloop

from bench import Row
from bench.loopback import loopback_server
from proxy.wire import Endpoint, WireClient
from proxy.wire.tls import make_tls_context
from tests.fakes.certificates import make_certificates

QUESTION = "What does a byte from an origin cost: our range client or httpx, 8 MiB ranges, 8 in parallel?"

RANGE_BYTES = 8 << 20
PARALLEL = 8
FILE_BYTES = 64 << 20

Fetch = Callable[[int], Awaitable[int]]  # one range by its start; returns the body bytes that came


class _CountingSink:
    """Looks at nothing: what is measured is the way from the socket to here."""

    def __init__(self) -> None:
        self.received_bytes = 0

    def write(self, data: memoryview) -> None:
        self.received_bytes += len(data)


@dataclass(frozen=True, slots=True)
class _Figures:
    gb_per_s: float
    cpu_s_per_gb: float


@dataclass(frozen=True, slots=True)
class _Contestant:
    name: str
    new_loop: Callable[[], asyncio.AbstractEventLoop]
    run: Callable[[Endpoint, ssl.SSLContext | None, int], Coroutine[Any, Any, _Figures]]


async def _run_wire(endpoint: Endpoint, context: ssl.SSLContext | None, total_bytes: int) -> _Figures:
    client = WireClient(ssl_context=context)

    async def fetch(start: int) -> int:
        sink = _CountingSink()
        headers = [("range", f"bytes={start}-{start + RANGE_BYTES - 1}")]
        await client.get(endpoint, b"/bucket/key", headers, lambda head: sink)
        return sink.received_bytes

    try:
        return await _fetch_all(fetch, total_bytes)
    finally:
        await client.aclose()


async def _run_httpx(endpoint: Endpoint, context: ssl.SSLContext | None, total_bytes: int) -> _Figures:
    async with httpx.AsyncClient(verify=context or True, trust_env=False) as client:

        async def fetch(start: int) -> int:
            headers = {"range": f"bytes={start}-{start + RANGE_BYTES - 1}"}
            received_bytes = 0
            async with client.stream("GET", f"{endpoint}/bucket/key", headers=headers) as response:
                async for piece in response.aiter_raw():
                    received_bytes += len(piece)
            return received_bytes

        return await _fetch_all(fetch, total_bytes)


async def _fetch_all(fetch: Fetch, total_bytes: int) -> _Figures:
    """Fetch that many bytes, `PARALLEL` ranges at a time."""
    starts = iter([number * RANGE_BYTES % FILE_BYTES for number in range(total_bytes // RANGE_BYTES)])

    async def worker() -> None:
        for start in starts:
            received_bytes = await fetch(start)
            assert received_bytes == RANGE_BYTES

    await asyncio.gather(*(fetch(0) for _ in range(PARALLEL)))  # connections and handshakes are not what we ask for
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(PARALLEL)))
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    return _Figures(total_bytes / wall_s / 1e9, cpu_s / (total_bytes / 1e9))


CONTESTANTS = [
    _Contestant("wire, uvloop", uvloop.new_event_loop, _run_wire),
    _Contestant("wire, asyncio", asyncio.new_event_loop, _run_wire),
    _Contestant("httpx, uvloop", uvloop.new_event_loop, _run_httpx),
    _Contestant("httpx, asyncio", asyncio.new_event_loop, _run_httpx),
]


def measure(quick: bool) -> list[Row]:
    rounds, total_bytes = (2, 256 << 20) if quick else (5, 1 << 30)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        certificates = make_certificates(Path(folder))
        files = (certificates.server_file, certificates.key_file)
        with loopback_server(FILE_BYTES) as plain_port, loopback_server(FILE_BYTES, files) as tls_port:
            context = make_tls_context(ca_file=certificates.ca_file)
            rows += _compare("plain", Endpoint("127.0.0.1", plain_port), None, rounds, total_bytes)
            rows += _compare("TLS", Endpoint("127.0.0.1", tls_port, tls=True), context, rounds, total_bytes // 2)
    return rows


def _compare(link: str, endpoint: Endpoint, context: ssl.SSLContext | None, rounds: int, total_bytes: int) -> list[Row]:
    taken: dict[str, list[_Figures]] = {contestant.name: [] for contestant in CONTESTANTS}
    for _ in range(rounds):
        for contestant in CONTESTANTS:
            taken[contestant.name].append(_measure_once(contestant, endpoint, context, total_bytes))
    return [
        {
            "link": link,
            "client": name,
            "GB/s": max(one.gb_per_s for one in figures),
            "CPU s/GB": min(one.cpu_s_per_gb for one in figures),
        }
        for name, figures in taken.items()
    ]


def _measure_once(
    contestant: _Contestant, endpoint: Endpoint, context: ssl.SSLContext | None, total_bytes: int
) -> _Figures:
    gc.collect()
    with asyncio.Runner(loop_factory=contestant.new_loop) as runner:
        return runner.run(contestant.run(endpoint, context, total_bytes))
