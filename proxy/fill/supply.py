"""The supply of blocks to readers: a block is found on disk, joined in flight, or begun.

How it works. `obtain` repeats these steps until one of them yields the block. There is no await between steps 2 and 5,
so this process starts at most one flight for a block.
1. Open the block's segment (in a thread, the first time). With no room or a broken disk, the reader continues uncached.
2. If the block has a fill progress in this process, join it, in the segment where its bytes are. That segment may have
   been retired meanwhile; its successor has a hole there.
3. If the block is present, take it if it was checked in this run, or written in this run by a process that still
   vouches for it. Otherwise (it is from another run, or its process has died) check it first, in a thread. A damaged
   block has retired its segment, so start over with a new one.
4. Reserve the block (the lock between processes) and launch a flight.
5. If another worker holds the block, follow that worker's progress.

A flight begins at its first reader's offset and wraps, so that the reader's bytes come first wherever in the block they
are. A flight that only small reads want pauses after their bytes; the rest is left to `proxy.fill.background`. If the
bytes of a key's first read are already on their way (`expect`), the flight of their block uses them.

Within a fleet, a flight reads from a relay (`proxy.relay.relay`), and other nodes read what is here: through `obtain`
with `below` if this node is the block's owner for them, through `join` if it is a node of a chain.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial

from proxy.blocks import START_STEP_BYTES, BlockWriter, RangeSource, block_span
from proxy.cache.blockmap import BlockKind
from proxy.cache.store import Block, Store
from proxy.concurrency.threads import Threads
from proxy.errors import StoreUnavailable
from proxy.fill.background import BackgroundFills
from proxy.fill.claim import BlockClaim
from proxy.fill.coverage import peek_coverage, read_coverage
from proxy.fill.flight import Flights
from proxy.fill.follow import FollowedProgress, Followers
from proxy.fill.handle import SMALL_READ_BYTES, BlockHandle, SpeculativeBlock
from proxy.fill.progress import FAR_BYTES, FillProgress
from proxy.fill.room import with_room
from proxy.fleet.fill_ids import ORIGIN, ZONE, is_unverified, level_of
from proxy.fleet.owners import hash_block
from proxy.metrics import CHECKSUM_FAILURES
from proxy.objects import ObjectRecord, ObjectVersion, SumKind
from proxy.origin import OpensRanges
from proxy.origin import Origin as WholeOrigin
from proxy.ranges import ByteRange
from proxy.relay.digests import digest_piece
from proxy.relay.pooled import Pooled
from proxy.relay.relay import Relays
from proxy.upstream.speculative import SpeculativeRead, SpeculativeSource

log = logging.getLogger(__name__)

STEP_BYTES = 128 << 10  # for a reader nearer to its block's beginning, a fill starts there: else it saves nothing
OPENINGS_MAX = 16  # each holds a receive buffer until its key is known
TRIES = 8  # one fails only if a segment is retired, or a fill ends, between two steps


Place = tuple[str, str, str, int]  # origin, bucket, key, the block's index


class Supply:
    """The blocks of one worker. `relays` is None if this node is alone."""

    def __init__(
        self,
        store: Store,
        flights: Flights,
        followers: Followers,
        threads: Threads,
        relays: Relays | None = None,
    ) -> None:
        self._relays = relays
        self._store = store
        self._background = BackgroundFills(flights.wait_idle)
        self._speculative_reads: dict[Place, SpeculativeRead] = {}
        self._flights = flights
        self._followers = followers
        self._threads = threads
        self._checks: dict[tuple[bytes, int], asyncio.Task[bool]] = {}

    def expect(
        self, origin: WholeOrigin, bucket: str, key: str, first: int, last: int | None
    ) -> SpeculativeBlock | None:
        """Request the first bytes of a key that nobody knows yet, for the fill of their block to use.

        The reader wants [first, last], to the object's end if `last` is None. Return None if nothing was requested.
        """
        if (
            self._relays is not None
            or not isinstance(origin, OpensRanges)
            or len(self._speculative_reads) >= OPENINGS_MAX
        ):
            return None  # a fleet asks the origin once, for a key and for each block
        block_bytes = self._store.block_bytes
        index, offset = divmod(first, block_bytes)
        wanted = (origin.id, bucket, key, index)
        if wanted in self._speculative_reads:
            return None
        block_start, start, own = index * block_bytes, fill_start(offset), None
        if last is not None and last + 1 - first <= SMALL_READ_BYTES:
            own = own_bytes(start, min(last + 1 - block_start, block_bytes), block_bytes)
        end = block_bytes if own is None else start + own
        span = ByteRange(block_start + start, block_start + end)
        speculative = self._speculative_reads[wanted] = SpeculativeRead(
            origin, bucket, key, span, self._flights.throttle(origin.id)
        )

        def forget() -> None:
            if self._speculative_reads.get(wanted) is speculative:
                del self._speculative_reads[wanted]
                speculative.drop()

        return SpeculativeBlock(speculative, forget, origin.opening_tells, block_bytes)

    async def obtain(
        self,
        origin: RangeSource,
        record: ObjectRecord,
        index: int,
        offset: int,
        end: int | None = None,
        *,
        below: int | None = None,
    ) -> BlockHandle:
        """Return the block and count this reader's interest: in bytes [offset, end) for a small read.

        `end` is None if the whole block is wanted. Raise StoreUnavailable: read on uncached. `below`: another node
        waits for the block within a tree of that level, so a fill that begins here must not wait for any node of that
        tree.
        """
        version = record.version
        for _ in range(TRIES):
            block = self._store.peek_block(version, index)
            if block is None:
                speculative = partial(self._threads.run, self._open, version, index, second_sums(record))
                block = await with_room(speculative, self._flights.room_wait_s)
            arrival = self._flights.find(version, index)
            if arrival is None:
                state = block.state()
                if state.kind is BlockKind.PRESENT:
                    if state.verified or block.is_vouched():
                        return BlockHandle(block, None)
                    if not block.retired:
                        await self._check(version, block)
                    continue
                arrival = self._begin(origin, record, block, offset, end, below)
            if arrival is not None:
                return _joined(arrival, whole=end is None, below=below)
        raise StoreUnavailable(f"block {index} of {version.key!r} changes hands too often")

    async def join(self, origin: RangeSource, record: ObjectRecord, index: int) -> BlockHandle | None:
        """Return the block if it is here or on its way, else None. Begin no fill, except for a worker that died."""
        version = record.version
        block = self._store.peek_block(version, index)
        if block is None:
            block = await self._threads.run(partial(self._store.open_block, version, index, create=False))
        arrival = self._flights.find(version, index)
        if arrival is not None:
            return _joined(arrival, whole=True)
        if block is None or block.retired:
            return None
        state = block.state()
        if state.kind is BlockKind.PRESENT:
            if not state.verified and not block.is_vouched() and not block.retired:
                await self._check(version, block)
            return BlockHandle(block, None) if block.state().verified or block.is_vouched() else None
        if state.kind is not BlockKind.FILLING:
            return None
        followed = FollowedProgress(block)
        claim = BlockClaim(self, origin, record, followed)
        self._watch_discarded(claim)
        found = claim.follow()
        return _joined(found, whole=True) if found is not None else None

    def beside(self, origin: RangeSource, record: ObjectRecord, index: int) -> Pooled | None:
        """Return the source of the block's bytes at the node that keeps it, without keeping them here.

        Return None if this node keeps the block, or is alone.
        """
        version = record.version
        if self._relays is None or version.origin in self._relays.private:
            return None
        if self._relays.level(hash_block(version.digest, index)) != ZONE:
            return None
        span = block_span(index, version.size_bytes, self._store.block_bytes)
        return Pooled(self._relays, origin, record, index, span)

    def aside(self, origin: RangeSource, record: ObjectRecord, index: int) -> Pooled | None:
        """Return the source of a small read of a block that is not here: its own bytes, verified, from the pool.

        The rest of the block is fetched when there is nothing else to do. Return None if the block is read as usual.
        """
        if self._relays is None:
            return None
        block = self._store.peek_block(record.version, index)
        kind = block.state().kind if block is not None else BlockKind.ABSENT
        pooled = self.beside(origin, record, index) if kind is not BlockKind.PRESENT else None
        if pooled is not None and kind is BlockKind.ABSENT and self._flights.find(record.version, index) is None:
            self._fetch_later(origin, record, index)
        return pooled

    def pooled(self, origin: RangeSource, record: ObjectRecord, index: int) -> Pooled | None:
        """Return the same as `beside` if the block is not here, else None."""
        block = self._store.peek_block(record.version, index)
        here = block is not None and block.state().kind is not BlockKind.ABSENT
        return None if here else self.beside(origin, record, index)

    def level(self, version: ObjectVersion, index: int) -> int | None:
        """Return the level of the fill that is under way or waiting here; None if there is none."""
        arrival = self._flights.find(version, index)
        if isinstance(arrival, FollowedProgress) and arrival.level is not None:
            return arrival.level()
        block = self._store.peek_block(version, index)
        if block is None or block.state().kind is not BlockKind.FILLING or self._relays is None or _is_idle(block):
            return None
        joined = self._relays.view.fleet_state.joined(hash_block(version.digest, index))
        return level_of(joined) if joined else ZONE  # nobody knows: it may be the highest

    def release(self, version: ObjectVersion, handle: BlockHandle) -> None:
        if handle.arrival is not None:
            self._flights.release(version, handle.block.index, handle.arrival)
            handle.arrival = None

    async def settle(self, version: ObjectVersion) -> None:
        """Return when every block whose bytes are all there is published, or its fill has failed."""
        for arrival in self._flights.finishing(version):
            with contextlib.suppress(Exception):
                await arrival.wait_end()

    async def coverage(self, record: ObjectRecord, span: ByteRange, *, to_read: bool = False) -> tuple[int, int]:
        """Return how many of the range's blocks are on this disk, and how many it has. `to_read`: a body follows."""
        found = peek_coverage(self._store, record.version, span)
        if found is None:
            make = second_sums(record) if to_read else None
            found = await self._threads.run(read_coverage, self._store, record.version, span, make)
        return found

    async def fetch(self, origin: RangeSource, record: ObjectRecord, index: int) -> None:
        """Return when the block is there. Raise what its fill raises, and StoreUnavailable."""
        handle = await self.obtain(origin, record, index, 0)
        try:
            if handle.arrival is not None:
                await handle.arrival.wait_end()
        finally:
            self.release(record.version, handle)

    def _begin(
        self, origin: RangeSource, record: ObjectRecord, block: Block, offset: int, end: int | None, below: int | None
    ) -> FollowedProgress | None:
        """Launch a flight, or follow another worker's. Return None if the caller must look again."""
        version = record.version
        arrival = FollowedProgress(block)
        claim = BlockClaim(self, origin, record, arrival)
        self._watch_discarded(claim)
        if block.state().kind is BlockKind.FILLING:
            writer = block.reserve(0)
            if writer is None:
                return claim.follow()
            claim.writer = writer
            arrival.move(writer.start, writer.progress)
        else:
            claim.start = fill_start(offset)
            claim.first_bytes = own_bytes(claim.start, end, block.length) if end is not None else None
            arrival.move(claim.start, 0)
        wanted = (version.origin, version.bucket, version.key, block.index)
        speculative = self._speculative_reads.pop(wanted, None)
        if speculative is not None:
            claim.source = SpeculativeSource(speculative, origin)
        self.launch(claim, below)
        return arrival

    def _watch_discarded(self, claim: BlockClaim) -> None:
        """Read from the fleet state whether another worker's fill has bytes of other nodes, and threw some away."""
        if self._relays is None or claim.version.origin in self._relays.private:
            return
        fleet_state, block_hash = (
            self._relays.view.fleet_state,
            hash_block(claim.version.digest, claim.arrival.block.index),
        )

        def is_unverified_there() -> bool | None:
            joined = fleet_state.joined(block_hash)
            return is_unverified(joined) if joined else None

        claim.arrival.read_unverified = is_unverified_there
        claim.arrival.watch(lambda: fleet_state.discarded(block_hash))

    def launch(self, claim: BlockClaim, below: int | None = None) -> None:
        version, index = claim.version, claim.arrival.block.index
        span = block_span(index, version.size_bytes, self._store.block_bytes)
        relays = self._relays
        relay = relays.open(claim.origin, claim.record, index, span, below) if relays is not None else None
        if relay is not None and relays is not None:
            if claim.writer is not None and claim.writer.progress:  # a predecessor's; readers may have them at once
                relay.unverified = relay.unverified or claim.arrival.unverified
            claim.source = relay
            claim.arrival.read_unverified, claim.arrival.level = (lambda: relay.unverified), (lambda: relay.level)
            claim.arrival.fill_id = lambda: relay.fill_id
            key, block = relays.digest_key, claim.arrival.block
            relay.read_digest = lambda start, end: digest_piece(key, block.piece(start, end - start))
            if relay.level > ORIGIN:
                claim.first_bytes = None
        self._flights.launch(claim.source, version, index, span, claim, claim.arrival)

    def unlevel(self, claim: BlockClaim) -> None:
        """Forget the flight's level and id: it was not begun, and the fill under way is another worker's."""
        claim.arrival.level = claim.arrival.fill_id = None
        self._watch_discarded(claim)

    def follow(self, claim: BlockClaim) -> None:
        self._followers.follow(claim.version, claim.arrival, claim.take_over)

    def put_off(self, claim: BlockClaim) -> None:
        """Leave the rest of the block to a background fill."""
        self._fetch_later(claim.origin, claim.record, claim.arrival.block.index)

    def _fetch_later(self, origin: RangeSource, record: ObjectRecord, index: int) -> None:
        async def finish() -> None:
            await self.fetch(origin, record, index)

        self._background.add(record.version.digest, index, finish)

    async def read_back(self, writer: BlockWriter) -> None:
        await self._threads.run(writer.read_back)

    async def aclose(self) -> None:
        await self._background.aclose()
        for speculative in self._speculative_reads.values():
            speculative.drop()

    def _open(self, version: ObjectVersion, index: int, sums: tuple[SumKind, ...]) -> Block:
        block = self._store.open_block(version, index, create=True, sums=sums)
        assert block is not None, "create=True opens or raises"
        return block

    async def _check(self, version: ObjectVersion, block: Block) -> None:
        """Check a block of an earlier run, once for all readers. A damaged one retires its segment."""
        key = (version.digest, block.index)
        check = self._checks.get(key)
        if check is None:
            check = asyncio.get_running_loop().create_task(self._threads.run(block.verify))
            self._checks[key] = check
            check.add_done_callback(lambda done: self._checks.pop(key, None))
        if not await asyncio.shield(check):
            CHECKSUM_FAILURES.labels("block").inc()
            log.warning("block %d of %s was damaged on disk; it is fetched again", block.index, version.key)


def _joined(arrival: FillProgress, *, whole: bool, below: int | None = None) -> BlockHandle:
    assert isinstance(arrival, FollowedProgress)
    arrival.interest += 1
    arrival.whole = arrival.whole or whole
    if below is not None:
        arrival.serve(below)
    return BlockHandle(arrival.block, arrival)


def _is_idle(block: Block) -> bool:
    """Return whether nobody fills a block that was begun. Inline: takes its lock and gives it back."""
    try:
        writer = block.reserve(0)
    except StoreUnavailable:
        return True
    if writer is not None:
        writer.leave()
    return writer is not None


def fill_start(offset: int) -> int:
    """Return where a fill begins for a reader at this offset of its block."""
    return 0 if offset < STEP_BYTES else offset // START_STEP_BYTES * START_STEP_BYTES


def own_bytes(start: int, end: int, length: int) -> int | None:
    """Return how many bytes a small read's fill fetches first, from `start` to the read's end; None: all."""
    return end - start if length - (end - start) > FAR_BYTES else None


def second_sums(record: ObjectRecord) -> tuple[SumKind, ...]:
    """Return the checksums to keep beside crc32c, so that the object's own can be compared at its end."""
    kinds = [kind for kind, _ in record.sums]
    if SumKind.CRC32C in kinds:
        return ()
    return tuple(kinds[:1])
