"""Waits come to an end. Where a wait must not end too early, the loop's clock is moved by hand, not slept on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from proxy.wire import TimedOut, WireClient
from tests.fakes.scripted import Exchange, ScriptedServer, answer, render_head
from tests.waiting import until
from tests.wire.sinks import CopyingSink, SlowSink, fetch, give
from tests.wire.skipping import SkippingLoop, skip, turn


def run_with_skips(test: Callable[[WireClient], Awaitable[None]]) -> None:
    """Head and read time-outs are 1,000 s: only `skip` gets there."""

    async def whole() -> None:
        client = WireClient(head_timeout_s=1000, read_timeout_s=1000, idle_timeout_s=1e6)
        await test(client)
        await client.aclose()

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(whole())


def holds(sink: CopyingSink, count: int) -> bool:
    return len(sink.data) == count


async def test_a_server_that_never_answers_times_out_for_the_head() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n")
        await exchange.stall()

    client = WireClient(head_timeout_s=0.1)
    async with ScriptedServer(handler) as server:
        with pytest.raises(TimedOut) as raised:
            await fetch(client, server.endpoint)
        assert (raised.value.phase, raised.value.limit_s) == ("head", 0.1)
        await until(lambda: server.open_connections == 0, "the connection's end")
    await client.aclose()


async def test_a_body_that_stalls_times_out_and_says_so() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(render_head(200, (), 10) + b"123")
        await exchange.stall()

    client = WireClient(read_timeout_s=0.1)
    async with ScriptedServer(handler) as server:
        with pytest.raises(TimedOut) as raised:
            await fetch(client, server.endpoint)
        assert (raised.value.phase, raised.value.limit_s) == ("read", 0.1)
        await until(lambda: server.open_connections == 0, "the connection's end")
    await client.aclose()


async def test_a_head_that_drips_for_ever_times_out_all_the_same() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nx-a: ")
        while True:
            await exchange.send(b"a")
            await asyncio.sleep(0.01)

    client = WireClient(head_timeout_s=0.1)
    async with ScriptedServer(handler) as server:
        with pytest.raises(TimedOut) as raised:
            await fetch(client, server.endpoint)
    assert raised.value.phase == "head"
    await client.aclose()


def test_a_body_that_drips_is_no_stall_however_long_it_takes() -> None:
    sink = CopyingSink()
    more = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=10)
        for _ in range(10):
            await exchange.send(b"a")
            await more.wait()
            more.clear()

    async def test(client: WireClient) -> None:
        async with ScriptedServer(handler) as server:
            running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
            for received in range(1, 11):
                await until(partial(holds, sink, received), "a byte")
                skip(900)
                await turn()
                more.set()
            await running

    run_with_skips(test)


def test_a_stall_counts_from_the_last_byte_and_not_from_the_request() -> None:
    sink = CopyingSink()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=10)
        await exchange.send(b"a")
        await exchange.stall()

    async def test(client: WireClient) -> None:
        async with ScriptedServer(handler) as server:
            running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
            await until(lambda: len(sink.data) == 1, "a byte")
            skip(990)
            await turn()
            assert not running.done()
            skip(20)
            with pytest.raises(TimedOut, match="read"):
                await running

    run_with_skips(test)


def test_the_sinks_own_time_is_no_time_out() -> None:
    sink = SlowSink(open_gate=False)

    async def test(client: WireClient) -> None:
        async with ScriptedServer(answer(200, b"x" * 100)) as server:
            running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
            await until(lambda: sink.writing == 1, "the write")
            for _ in range(5):
                skip(2000)
                await turn()
            assert not running.done()
            sink.barrier.set()
            await running

    run_with_skips(test)
    assert len(sink.data) == 100


def test_after_a_slow_write_the_peer_has_its_whole_time_again() -> None:
    sink = SlowSink(open_gate=False)
    more = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=2)
        await exchange.send(b"a")
        await more.wait()
        await exchange.send(b"b")

    async def test(client: WireClient) -> None:
        async with ScriptedServer(handler) as server:
            running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
            await until(lambda: sink.writing == 1, "the write")
            skip(5000)
            await turn()
            sink.barrier.set()
            await until(lambda: len(sink.data) == 1, "the write's end")
            await turn()
            skip(900)
            await turn()
            assert not running.done()
            more.set()
            await running

    run_with_skips(test)
    assert sink.data == b"ab"
