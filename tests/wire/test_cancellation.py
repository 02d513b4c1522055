"""Cancelling `get`, at every point: the connection goes, nothing more is written, the next request is clean."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable

import pytest

from proxy.wire import ConnectFailed, ConnectionBroken, WireClient
from tests.fakes.scripted import Exchange, ScriptedServer, answer, in_turn
from tests.waiting import until
from tests.wire.sinks import CopyingSink, SlowSink, fetch, give


async def _cancel(running: asyncio.Task[object]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_cancelled_before_the_head(client: WireClient) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.stall()

    async with ScriptedServer(in_turn(handler, answer(200, b"next"))) as server:
        running: asyncio.Task[object] = asyncio.create_task(fetch(client, server.endpoint))
        await until(lambda: len(server.requests) == 1, "the request")
        await _cancel(running)
        await until(lambda: server.open_connections == 0, "the connection's end")
        assert (await fetch(client, server.endpoint))[1] == b"next"


async def test_cancelled_in_mid_body(client: WireClient) -> None:
    sink = CopyingSink()
    more = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=1 << 20)
        await exchange.send(b"x" * 1000)
        await more.wait()
        await exchange.send(b"y" * 1000)
        await exchange.stall()

    async with ScriptedServer(in_turn(handler, answer(200, b"next"))) as server:
        running: asyncio.Task[object] = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
        await until(lambda: len(sink.data) == 1000, "the first bytes")
        await _cancel(running)
        sink.shut = True
        more.set()
        await until(lambda: server.open_connections == 0, "the connection's end")
        assert (await fetch(client, server.endpoint))[1] == b"next"
    assert len(sink.data) == 1000


async def test_cancelled_in_the_same_turn_as_the_last_byte(client: WireClient) -> None:
    """The response is complete, the task not yet awake: the cancellation still comes out, and nothing is reused."""
    holder: list[asyncio.Task[object]] = []

    class CancellingSink:
        def write(self, data: memoryview) -> None:
            holder[0].cancel()

    async with ScriptedServer(answer(200, b"x")) as server:
        holder.append(asyncio.create_task(client.get(server.endpoint, b"/k", [], give(CancellingSink()))))
        with pytest.raises(asyncio.CancelledError):
            await holder[0]
        await until(lambda: server.open_connections == 0, "the connection's end")
        assert (await fetch(client, server.endpoint))[1] == b"x"


async def test_cancelled_in_the_same_turn_as_a_slow_sink_begins(client: WireClient) -> None:
    holder: list[asyncio.Task[object]] = []

    class CancellingSink(SlowSink):
        def write(self, data: memoryview) -> Awaitable[None]:
            holder[0].cancel()
            return super().write(data)

    async with ScriptedServer(answer(200, b"x")) as server:
        holder.append(asyncio.create_task(client.get(server.endpoint, b"/k", [], give(CancellingSink()))))
        with pytest.raises(asyncio.CancelledError):
            await holder[0]
        await until(lambda: server.open_connections == 0, "the connection's end")


async def test_cancelled_while_a_thread_reads_the_buffer_the_memory_is_never_used_again(client: WireClient) -> None:
    """The thread can't be cancelled: it must go on seeing its own bytes, whatever is received meanwhile."""
    entered, leave = threading.Event(), threading.Event()
    seen: list[bytes] = []

    def read_late(data: memoryview) -> None:
        entered.set()
        leave.wait(20)
        seen.append(bytes(data))

    class ThreadSink:
        def write(self, data: memoryview) -> Awaitable[None]:
            return asyncio.get_running_loop().run_in_executor(None, read_late, data)

    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, exchange.request.target[1:] * 50_000)

    async with ScriptedServer(handler) as server:
        running: asyncio.Task[object] = asyncio.create_task(client.get(server.endpoint, b"/a", [], give(ThreadSink())))
        await until(entered.is_set, "the thread's start")
        await _cancel(running)
        for _ in range(10):
            slow = SlowSink()
            await client.get(server.endpoint, b"/b", [], give(slow))
            await fetch(client, server.endpoint, b"/c")
        leave.set()
        await until(lambda: bool(seen), "the thread's end")
    assert set(seen[0]) == {ord("a")}


async def test_cancelled_while_connecting_nothing_stays_open(client: WireClient) -> None:
    async with ScriptedServer(answer(200, b"x")) as server:
        for turns in range(12):
            running: asyncio.Task[object] = asyncio.create_task(fetch(client, server.endpoint))
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await until(lambda: server.open_connections <= len(client._pool), "the connections' end")
        assert (await fetch(client, server.endpoint))[1] == b"x"


async def test_a_deadline_around_get_is_a_cancellation(client: WireClient) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.stall()

    async with ScriptedServer(handler) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await fetch(client, server.endpoint)
        await until(lambda: server.open_connections == 0, "the connection's end")


async def test_closing_the_client_while_it_connects_leaves_nothing_open() -> None:
    async with ScriptedServer(answer(200, b"x")) as server:
        for turns in range(12):
            client = WireClient()
            running: asyncio.Task[object] = asyncio.create_task(fetch(client, server.endpoint))
            for _ in range(turns):
                await asyncio.sleep(0)
            await client.aclose()
            outcome = (await asyncio.gather(running, return_exceptions=True))[0]
            assert isinstance(outcome, ConnectFailed | ConnectionBroken | tuple)
        await until(lambda: server.open_connections == 0, "the connections' end")
