"""One block for one reader: found on disk, joined in flight, or begun.

How it works. `obtain` repeats these steps until one of them settles the matter; between 2 and 5 there is no await, so
this process starts one flight for a block at most.
1. Open the block's segment (a thread, the first time). No room or a broken disk: the reader goes on uncached.
2. An arrival of this process: join it, where its bytes lie: that may be a segment retired meanwhile, whose successor
   has a hole there.
3. Present and checked in this run: take it. Present from another run: check it first, in a thread; a damaged one has
   retired its segment, so start over with a new one.
4. Reserve the block (a lock between processes): launch a flight.
5. Another worker holds it: follow that worker's progress.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from proxy.blocks import BlockWriter, Origin, Piece, block_span, blocks_of
from proxy.cache.blockmap import BlockKind
from proxy.cache.store import Block, Store
from proxy.errors import StoreUnavailable
from proxy.fetch.flight import Flights
from proxy.gateway.follow import BlockArrival, Followers
from proxy.metrics import CHECKSUM_FAILURES
from proxy.objects import ObjectRecord, ObjectVersion, SumKind
from proxy.ranges import ByteRange
from proxy.threads import Threads

log = logging.getLogger(__name__)

TRIES = 8  # each needs a segment retired, or a fill ended, between two steps


@dataclass(slots=True)
class Supplied:
    """A block that is on disk (`arrival` None) or on its way there. `release` it when done."""

    block: Block
    arrival: BlockArrival | None

    def available(self, offset: int) -> int:
        if self.arrival is None:
            return self.block.length - offset
        return self.arrival.available(offset)

    def piece(self, offset: int, length: int) -> Piece:
        return self.block.piece(offset, length)


class Supply:
    def __init__(self, store: Store, flights: Flights, followers: Followers, threads: Threads) -> None:
        self._store = store
        self._flights = flights
        self._followers = followers
        self._threads = threads
        self._checks: dict[tuple[bytes, int], asyncio.Task[bool]] = {}

    async def obtain(self, origin: Origin, record: ObjectRecord, index: int, offset: int) -> Supplied:
        """The block, with this reader's interest taken. Raises StoreUnavailable: read on uncached."""
        version = record.version
        for _ in range(TRIES):
            block = self._store.peek_block(version, index)
            if block is None:
                block = await self._threads.run(self._open, version, index, second_sums(record))
            arrival = self._flights.find(version, index)
            if arrival is None:
                state = block.state()
                if state.kind is BlockKind.PRESENT:
                    if state.verified:
                        return Supplied(block, None)
                    await self._check(version, block)
                    continue
                arrival = self._begin(origin, version, block, offset)
            if arrival is not None:
                assert isinstance(arrival, BlockArrival)
                arrival.interest += 1
                return Supplied(arrival.block, arrival)
        raise StoreUnavailable(f"block {index} of {version.key!r} changes hands too often")

    def release(self, version: ObjectVersion, supplied: Supplied) -> None:
        if supplied.arrival is not None:
            self._flights.release(version, supplied.block.index, supplied.arrival)
            supplied.arrival = None

    async def settle(self, version: ObjectVersion) -> None:
        """Returns when every block whose bytes are all there is published (or its fill has failed)."""
        for arrival in self._flights.finishing(version):
            with contextlib.suppress(Exception):
                await arrival.wait_end()

    async def presence(self, version: ObjectVersion, span: ByteRange) -> tuple[int, int]:
        """How many of the range's blocks are on this disk, and how many it has."""
        return await self._threads.run(self._count_present, version, span)

    def _count_present(self, version: ObjectVersion, span: ByteRange) -> tuple[int, int]:
        blocks = blocks_of(span, self._store.block_bytes)
        present, index = 0, blocks.start
        while index < blocks.stop:
            block = self._store.open_block(version, index, create=False)
            if block is None:  # nor any other of its segment
                index += self._store.segment_blocks - index % self._store.segment_blocks
                continue
            present += block.state().kind is BlockKind.PRESENT
            index += 1
        return present, len(blocks)

    def _begin(self, origin: Origin, version: ObjectVersion, block: Block, offset: int) -> BlockArrival | None:
        """A flight of our own, or another worker's followed; None: look again."""
        del offset  # a fill starts at its block's beginning
        arrival = BlockArrival(block)
        claim = _Claim(self, origin, version, arrival)
        if block.state().kind is BlockKind.FILLING:
            writer = block.reserve(0)
            if writer is None:
                return claim.follow()
            claim.writer = writer
            arrival.move(writer.start, writer.progress)
        self.launch(claim)
        return arrival

    def launch(self, claim: _Claim) -> None:
        version, index = claim.version, claim.arrival.block.index
        span = block_span(index, version.size_bytes, self._store.block_bytes)
        self._flights.launch(claim.origin, version, index, span, claim, claim.arrival)

    def follow(self, claim: _Claim) -> None:
        self._followers.follow(claim.version, claim.arrival, claim.take_over)

    async def read_back(self, writer: BlockWriter) -> None:
        await self._threads.run(writer.read_back)

    def _open(self, version: ObjectVersion, index: int, sums: tuple[SumKind, ...]) -> Block:
        block = self._store.open_block(version, index, create=True, sums=sums)
        assert block is not None, "create=True opens or raises"
        return block

    async def _check(self, version: ObjectVersion, block: Block) -> None:
        """Checks a block of an earlier run, once for all readers; a damaged one retires its segment."""
        key = (version.digest, block.index)
        check = self._checks.get(key)
        if check is None:
            check = asyncio.get_running_loop().create_task(self._threads.run(block.verify))
            self._checks[key] = check
            check.add_done_callback(lambda done: self._checks.pop(key, None))
        if not await asyncio.shield(check):
            CHECKSUM_FAILURES.labels("block").inc()
            log.warning("block %d of %s was damaged on disk; it is fetched again", block.index, version.key)


class _Claim:
    """One block's way to a writer: `proxy.fetch.flight.Claim`."""

    def __init__(self, supply: Supply, origin: Origin, version: ObjectVersion, arrival: BlockArrival) -> None:
        self._supply = supply
        self.origin = origin
        self.version = version
        self.arrival = arrival
        self.writer: BlockWriter | None = None

    @property
    def held(self) -> bool:
        return self.writer is not None

    def take(self) -> BlockWriter | None:
        return self.writer or self.arrival.block.reserve(0)

    async def prepare(self, writer: BlockWriter) -> None:
        await self._supply.read_back(writer)

    def pass_on(self) -> None:
        """The block is another worker's by now: follow that one, with the readers that wait already."""
        self._supply.follow(self)

    def follow(self) -> BlockArrival | None:
        """The followed arrival; None where there is nothing to follow: the block is there, or its segment is not."""
        block = self.arrival.block
        if block.retired or block.state().kind is BlockKind.PRESENT:
            return None
        self._supply.follow(self)
        return self.arrival

    def take_over(self, writer: BlockWriter) -> None:
        """The filler that was followed is gone: a flight of our own goes on, on the same arrival."""
        self.writer = writer
        self._supply.launch(self)


def second_sums(record: ObjectRecord) -> tuple[SumKind, ...]:
    """Checksums to keep beside crc32c, so that the object's can be compared at its end."""
    kinds = [kind for kind, _ in record.sums]
    if SumKind.CRC32C in kinds:
        return ()
    return tuple(kinds[:1])
