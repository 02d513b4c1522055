"""One fill of a block by a relay, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from proxy.fill.flight import Flights
from proxy.fill.limiter import FillLimiter
from proxy.fill.progress import FillProgress
from proxy.fleet.fill_ids import ORIGIN, new_fill_id
from proxy.fleet.rediskeys import RedisKeys
from proxy.objects import ObjectRecord
from proxy.ranges import ByteRange
from proxy.relay.digests import digest_bytes
from proxy.relay.relay import Relay
from proxy.upstream.retry import RetryPolicy
from tests.fakes.memory import MemoryClaim, MemoryOrigin, MemoryWriter
from tests.fakes.peers import (
    BLOCK_BYTES,
    MemoryRedis,
    Neighbours,
    member,
    record_of,
)

CONTENT = bytes(range(200))
INDEX = 1
SPAN = ByteRange(100, 200)
BLOCK = CONTENT[100:]
WRONG = bytes(255 - byte for byte in BLOCK)
POLICY = RetryPolicy(deadline_s=5, first_pause_s=0.001, longest_pause_s=0.002)


class RelayedFill:
    """One fill by a relay, of the second block of a small object."""

    def __init__(self, nodes: int = 4, *, sums: bool = False, me: int = -1, redis: Any = None) -> None:
        self.record: ObjectRecord = record_of(CONTENT, sums=sums)
        members = [member(f"{number:02x}") for number in range(nodes)]
        self.fleet = Neighbours(self.record, INDEX, members, me=me, redis=redis)
        self.peers = self.fleet.peers
        self.origin = MemoryOrigin(CONTENT)
        self.writer = MemoryWriter(BLOCK_BYTES)
        self.flights = Flights(FillLimiter(bytes_in_flight_max=1 << 20, fills_max=4), POLICY)

    @property
    def owners(self) -> list[str]:
        return self.fleet.order

    def open(self, below: int | None = None) -> Relay:
        relay = self.fleet.relays.open(self.origin, self.record, INDEX, SPAN, below)
        assert relay is not None
        relay.read_digest = self._digest
        return relay

    def _digest(self, start: int, end: int) -> bytes:
        return digest_bytes(self.fleet.relays.digest_key, memoryview(bytes(self.writer.data))[start:end])

    async def fill(self, relay: Relay | None = None) -> Relay:
        """Runs the flight to its end; raises what its readers are told."""
        relay = relay or self.open()
        claim = MemoryClaim(self.writer)
        arrival = FillProgress(BLOCK_BYTES)
        arrival.move(self.writer.start, self.writer.progress)
        arrival.interest += 1
        arrival.whole = True
        self.flights.launch(relay, self.record.version, INDEX, SPAN, claim, arrival)
        async with asyncio.timeout(30):
            await arrival.wait_end()
        return relay

    async def aclose(self) -> None:
        await self.flights.aclose()
        await self.fleet.leases.aclose()
        self.fleet.close()


@asynccontextmanager
async def relayed_fill(nodes: int = 4, **more: Any) -> AsyncIterator[RelayedFill]:
    made = RelayedFill(nodes, **more)
    try:
        yield made
    finally:
        await made.aclose()


def hold(redis: MemoryRedis, t: RelayedFill, node_id: str, *, done: bool = False, url: str = "") -> int:
    """Another node's lease on the block; its fill id."""
    fill_id = new_fill_id(ORIGIN)
    text = (
        f'{{"node":"{node_id}","url":"{url}","fill":"{fill_id:x}","done":{"true" if done else "false"},"token":"ab"}}'
    )
    redis.keys[RedisKeys("test").lease(t.record.version.digest.hex(), INDEX)] = text
    return fill_id
