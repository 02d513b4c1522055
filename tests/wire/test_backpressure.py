"""A sink that is not done at once: it owns the memory until it is, and nothing is lost, doubled or overwritten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.wire import ConnectionBroken, WireClient
from proxy.wire.buffers import MAX_SPARE_BUFFERS, ReceiveBuffers
from tests.fakes.scripted import Exchange, ScriptedServer, object_of
from tests.waiting import until
from tests.wire.sinks import SlowSink, fetch, give


async def test_a_slow_sink_gets_the_same_bytes(client: WireClient, blob: bytes) -> None:
    sink = SlowSink()
    async with ScriptedServer(object_of(blob)) as server:
        await client.get(server.endpoint, b"/k", [], give(sink))
        assert sink.data == blob
        await fetch(client, server.endpoint)
    assert server.accepted == 1


async def test_a_slow_sink_of_a_chunked_body_gets_the_same_bytes(client: WireClient, blob: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, [("transfer-encoding", "chunked")])
        for start in range(0, len(blob), 9_001):
            await exchange.send_chunk(blob[start : start + 9_001])
        await exchange.send_chunk(b"")

    sink = SlowSink()
    async with ScriptedServer(handler) as server:
        await client.get(server.endpoint, b"/k", [], give(sink))
    assert sink.data == blob


async def test_slow_and_quick_sinks_share_the_memory_without_mixing(client: WireClient) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, bytes([int(exchange.request.target[1:])]) * 700_000)

    slow = [SlowSink() for _ in range(8)]
    async with ScriptedServer(handler) as server:
        endpoint = server.endpoint
        await asyncio.gather(
            *(client.get(endpoint, b"/%d" % number, [], give(sink)) for number, sink in enumerate(slow)),
            *(fetch(client, endpoint, b"/%d" % number) for number in range(100, 108)),
        )
    for number, sink in enumerate(slow):
        assert sink.data == bytes([number]) * 700_000


async def test_the_memory_stays_as_it_was_while_the_sink_holds_it(client: WireClient, blob: bytes) -> None:
    """The sink looks at its first piece again after another response went through the client."""
    held: list[memoryview] = []
    copies: list[bytes] = []
    barrier = asyncio.Event()

    class HoldingSink:
        def write(self, data: memoryview) -> Awaitable[None] | None:
            if held:
                return None
            held.append(data)
            copies.append(bytes(data))
            return self._hold()

        async def _hold(self) -> None:
            await barrier.wait()
            assert held[0] == copies[0]

    async with ScriptedServer(object_of(blob)) as server:
        running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(HoldingSink())))
        await until(lambda: bool(held), "the first write")
        for _ in range(3):
            await fetch(client, server.endpoint)
        barrier.set()
        await running


async def test_a_sink_in_a_thread_gets_the_same_bytes(client: WireClient, blob: bytes) -> None:
    received = bytearray()

    class ThreadSink:
        def __init__(self, threads: ThreadPoolExecutor) -> None:
            self.threads = threads

        def write(self, data: memoryview) -> Awaitable[None]:
            return asyncio.get_running_loop().run_in_executor(self.threads, received.extend, data)

    with ThreadPoolExecutor(1) as threads:
        async with ScriptedServer(object_of(blob)) as server:
            await client.get(server.endpoint, b"/k", [], give(ThreadSink(threads)))
    assert received == blob


async def test_reading_stops_while_the_sink_is_not_done(client: WireClient) -> None:
    """The server can't push on beyond what sockets hold: far less than the body."""
    sent = 0
    body_bytes = 64 << 20

    async def handler(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send_head(200, content_length=body_bytes)
        while sent < body_bytes:
            await exchange.send(bytes(1 << 20))
            sent += 1 << 20

    sink = SlowSink(open_gate=False)
    async with ScriptedServer(handler) as server:
        running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
        await until(lambda: sink.writing == 1, "the first write")
        previous = -1
        while sent != previous:  # until the server makes no progress any more
            previous = sent
            await asyncio.sleep(0.1)
        assert sent < body_bytes // 2
        sink.barrier.set()
        await running
    assert len(sink.data) == body_bytes


@pytest.mark.parametrize("framed", [True, False])
async def test_a_close_seen_while_the_sink_is_busy_counts_after_what_came_before_it(
    client: WireClient, framed: bool
) -> None:
    sink = SlowSink(open_gate=False)

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=100_000 if framed else None)
        await exchange.send(b"x" * 100_000)
        exchange.close()

    async with ScriptedServer(handler) as server:
        running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
        await until(lambda: sink.writing == 1 and server.open_connections == 0, "the first write and the close")
        sink.barrier.set()
        await running
    assert sink.data == b"x" * 100_000


async def test_a_reset_while_the_sink_is_busy_is_a_broken_connection(client: WireClient) -> None:
    sink = SlowSink(open_gate=False)

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=1000)
        await exchange.send(b"x" * 10)
        await until(lambda: sink.writing == 1, "the first write")
        exchange.reset()

    async with ScriptedServer(handler) as server:
        running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(sink)))
        await until(lambda: sink.writing == 1 and server.open_connections == 0, "the first write and the reset")
        sink.barrier.set()
        with pytest.raises(ConnectionBroken) as raised:
            await running
    assert raised.value.received_bytes == len(sink.data) == 10


async def test_a_slow_sink_that_fails_ends_the_exchange(client: WireClient, blob: bytes) -> None:
    class FailingSink:
        def write(self, data: memoryview) -> Awaitable[None]:
            return self._fail()

        async def _fail(self) -> None:
            await asyncio.sleep(0)
            raise OSError("disk full")

    async with ScriptedServer(object_of(blob)) as server:
        with pytest.raises(OSError, match="disk full"):
            await client.get(server.endpoint, b"/k", [], give(FailingSink()))
        await until(lambda: server.open_connections == 0, "the connection's end")


async def test_quick_sinks_of_all_connections_share_one_piece_of_memory(client: WireClient, blob: bytes) -> None:
    places: set[int] = set()

    class NotingSink:
        def write(self, data: memoryview) -> None:
            places.add(id(data.obj))

    async with ScriptedServer(object_of(blob)) as server:
        await asyncio.gather(*(client.get(server.endpoint, b"/k", [], give(NotingSink())) for _ in range(16)))
    assert len(places) == 1


def test_a_lent_buffer_is_not_the_current_one_and_spares_are_bounded() -> None:
    buffers = ReceiveBuffers(16)
    lent = [buffers.lend() for _ in range(3 * MAX_SPARE_BUFFERS)]
    assert all(view is not buffers.current for view in lent)
    assert len({id(view.obj) for view in lent}) == len(lent)
    for view in lent:
        buffers.give_back(view)
    again = [buffers.lend() for _ in range(3 * MAX_SPARE_BUFFERS)]
    assert len({id(view.obj) for view in again} & {id(view.obj) for view in lent}) == MAX_SPARE_BUFFERS


def test_a_buffer_must_hold_something() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        ReceiveBuffers(0)
