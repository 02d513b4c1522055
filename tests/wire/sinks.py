"""Sinks for tests, and waiting for what happens at the other end of a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.blocks import ByteSink
from proxy.wire import Endpoint, Response, ResponseHead, WireClient


class CopyingSink:
    """Done at once; keeps a copy. After `shut` any call is an error of the client's."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.writes = 0
        self.shut = False

    def write(self, data: memoryview) -> None:
        assert not self.shut, "the sink was called after get had ended"
        self.data += data
        self.writes += 1


class SlowSink:
    """Takes its time with every write: reads the memory only when `barrier` has opened and a few loop turns later."""

    def __init__(self, *, open_gate: bool = True) -> None:
        self.data = bytearray()
        self.barrier = asyncio.Event()
        self.writing = 0
        if open_gate:
            self.barrier.set()

    def write(self, data: memoryview) -> Awaitable[None]:
        assert self.writing == 0, "a second write while the first is not done"
        self.writing += 1
        return self._write(data)

    async def _write(self, data: memoryview) -> None:
        try:
            await self.barrier.wait()
            for _ in range(3):
                await asyncio.sleep(0)
            self.data += data
        finally:
            self.writing -= 1


def give(sink: ByteSink | None) -> Callable[[ResponseHead], ByteSink | None]:
    """An `accept` that answers so, whatever the head."""
    return lambda head: sink


async def fetch(client: WireClient, endpoint: Endpoint, target: bytes = b"/bucket/key") -> tuple[Response, bytes]:
    sink = CopyingSink()
    try:
        response = await client.get(endpoint, target, [], give(sink))
    finally:
        sink.shut = True
    return response, bytes(sink.data)
