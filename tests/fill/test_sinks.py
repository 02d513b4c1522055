"""Sinks that are not done at once, and a reader that goes away before anybody waits for them."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable

from proxy.blocks import ByteSink, Later
from proxy.fill.uncached import Buffer
from proxy.ranges import ByteRange
from proxy.relay.sinks import Rest
from proxy.upstream.deliver import Counted
from proxy.upstream.retry import Attempts, OriginCall, RetryPolicy
from proxy.wire import WireClient
from tests.fakes.memory import MemoryOrigin
from tests.fakes.scripted import Exchange, ScriptedServer
from tests.wire.sinks import give

DATA = bytes(100)


def full_buffer() -> Buffer:
    buffer = Buffer(room_bytes=10)
    assert buffer.write(memoryview(DATA)) is not None
    return buffer


def chain_before(sink: ByteSink) -> list[ByteSink]:
    """The sinks of a fill and of a relay, each around the one given."""
    return [
        Counted(sink, Attempts(RetryPolicy(), OriginCall(MemoryOrigin(b""), "b", "k")), lambda nbytes: 0.0),
        Rest(ByteRange(0, 1000), sink, last=True),
    ]


async def test_what_a_sink_has_left_to_do_can_be_dropped_unawaited() -> None:
    for sink in (full_buffer(), *chain_before(full_buffer()), *chain_before(chain_before(full_buffer())[0])):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            pending: Awaitable[None] | None = sink.write(memoryview(DATA))
            assert pending is not None
            del pending, sink
            gc.collect()
        assert not [str(warning.message) for warning in seen]


async def test_a_reader_that_leaves_as_its_buffer_fills_leaves_no_coroutine_behind() -> None:
    """The cancellation comes between the sink's answer and the task that would wait for it."""
    running: asyncio.Task[object] | None = None

    class LeavesAsItFills:
        def write(self, data: memoryview) -> Awaitable[None] | None:
            assert running is not None
            running.cancel()
            return chain_before(full_buffer())[0].write(data)

    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, DATA)

    client = WireClient()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        async with ScriptedServer(handler) as server:
            running = asyncio.create_task(client.get(server.endpoint, b"/k", [], give(LeavesAsItFills())))
            await asyncio.wait({running})
            assert running.cancelled()
            await client.aclose()
        running = None
        gc.collect()
    assert not [str(warning.message) for warning in seen]


async def test_work_begins_when_it_is_awaited() -> None:
    done: list[str] = []

    async def work(what: str) -> None:
        done.append(what)

    later = Later(work, "this")
    assert not done
    await later
    assert done == ["this"]
