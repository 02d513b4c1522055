"""The relay of one block: from another node that has it or will have it, else from the origin, once for the fleet.

How it works. `bring` replaces a request to the origin: it delivers a span of the block to the sink, in order.
1. The level (`proxy.fleet.fill_ids`) decides which node to ask. ZONE: the zone's owner names a source. REGION: the
   region's owner does; zone owners begin here. ORIGIN: this node asks the origin; the region's owner begins here.
2. A source that fails (gone, silent, busy with another fill, wrong) is reported to the owner. The owner names another
   source: itself, or a node that should have the whole block. If the owner is gone, the next in the hash order is
   asked. If none is left, the level goes down, never up. What was received still counts.
3. At ORIGIN, the next nodes in the hash order are asked first for the whole block: they owned it before this node
   joined, so a growing fleet keeps what it has. Then the fleet's lease is taken. If another node has it, the bytes are
   read from that node.
4. Before the block is published, `settle` compares it with the last source's tail: its crc32c and, unless
   TLS vouches for the source, its keyed digest. A source that had gone before it sent its tail is replaced like any
   other, for the tail alone. If no node is left to give it, the nodes' bytes are read again from the origin and
   compared. (The object's own checksum would come too late for readers of ranges, and for other nodes, which would take
   wrong bytes with the checksum that is right for these bytes.)
5. The digest is computed as the bytes arrive, from whatever source, and kept in the fleet state: it is this node's own
   proof to others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from proxy.blocks import BlockWriter, ByteSink, RangeSource
from proxy.errors import BytesWrong, OriginUnavailable
from proxy.fleet.fill_ids import LEASED, ORIGIN, REGION, ZONE, level_of, may_be_unverified, new_fill_id
from proxy.fleet.owners import hash_block
from proxy.fleet.protocol import Ask, NamedSource, WantedBlock
from proxy.fleet.roster import Member
from proxy.fleet.state import RECEIVED_BYTES, UPLOADS
from proxy.fleet.tail import Tail
from proxy.fleet.view import FleetView
from proxy.metrics import CHECKSUM_FAILURES, RELAYED_FILLS, REREAD_BYTES, UNLEASED_FILLS
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.ranges import ByteRange
from proxy.relay.digests import Digest
from proxy.relay.errors import PeerFailed
from proxy.relay.lease import LEASE_S, Lease, LeasedByAnother, Leases
from proxy.relay.sinks import Dropped, Rest, Watched
from proxy.upstream.deliver import deliver
from proxy.upstream.retry import RetryPolicy

log = logging.getLogger(__name__)

SOURCES_MAX = 6  # named by one owner, in one fill
SILENCES_MAX = 3  # of one source that sent some bytes before each
OWNERS_MAX = 3  # of one level
FORMER_MAX = 2  # nodes behind this one in the hash order, one for each that may have joined since
HOLDER_PAUSE_S = 0.1
HOLDER_PATIENCE_S = 2 * LEASE_S  # with a holder that keeps its lease and sends nothing
STEP_MAX_S = 120.0  # for one answer of another node, whatever signs of life it gives


class BlockPeers(Protocol):
    """The client for other nodes: `proxy.relay.client.PeerClient`."""

    async def ask(self, owner: Member, ask: Ask) -> NamedSource: ...

    async def read_block(self, source: Member, wanted: WantedBlock, sink: ByteSink) -> Tail: ...


@dataclass(frozen=True, slots=True)
class Relays:
    """What the relays of one worker share. `row`: the worker's in the fleet state; `private`: this node's own origins.

    `digest_key`: the fleet's (`proxy.relay.digests`). `prove` returns whether a MAC is wanted from this source.
    `digested`: other nodes will want this node's digests, so they are computed as bytes arrive.
    """

    view: FleetView
    peers: BlockPeers
    leases: Leases
    row: int
    private: frozenset[str] = field(default_factory=frozenset)
    digest_key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    prove: Callable[[Member], bool] = lambda source: False
    digested: bool = True

    def open(
        self, origin: RangeSource, record: ObjectRecord, index: int, block: ByteRange, below: int | None = None
    ) -> Relay | None:
        """Return the relay of a block, which is these bytes of its object. Return None if the fleet does not share the
        origin.

        `below`: another node waits for this fill, within a tree of that level.
        """
        if record.version.origin in self.private:
            return None
        block_hash = hash_block(record.version.digest, index)
        level = self.level(block_hash) if below is None else self._level_below(block_hash, below)
        return Relay(self, origin, record, index, block, level)

    def level(self, block_hash: int) -> int:
        """Return the level at which a fill for this node's own readers begins."""
        view = self.view
        me = view.me()
        if view.alone or me is None:
            return ORIGIN
        return self.level_above(block_hash) if self._owns(view.order(block_hash, me.zone)) else ZONE

    def level_above(self, block_hash: int) -> int:
        """Return the level at which a fill begins, or continues, above its zone."""
        return ORIGIN if self._owns(self.view.order(block_hash)) else REGION

    def _level_below(self, block_hash: int, below: int) -> int:
        return ORIGIN if below <= REGION or self.view.alone else self.level_above(block_hash)

    def _owns(self, order: Sequence[Member]) -> bool:
        return not order or order[0].node_id == self.view.node_id


class Relay:
    """The source of one fill within a fleet; see the module. `unverified`: it has bytes of other nodes, or will have.

    `read_digest` returns the digest of bytes [start, end) of the block as they are in its file. Blocking.
    """

    def __init__(
        self, relays: Relays, origin: RangeSource, record: ObjectRecord, index: int, block: ByteRange, level: int
    ) -> None:
        self._relays = relays
        self._origin = origin
        self._record = record
        self._index = index
        self._block = block
        self._block_hash = hash_block(record.version.digest, index)
        self.level = level
        self.unverified = level > ORIGIN
        self._lease: Lease | None = None
        self.fill_id = 0
        self.read_digest: Callable[[int, int], bytes] = _no_file
        self._tail: Tail | None = None
        self._digest: Digest | None = None  # of all bytes so far; None: of only some
        self._last_source = ""
        self._used: set[str] = set()
        self._givers: dict[str, None] = {}  # nodes that sent bytes, in order
        self._unchecked: int | None = None  # peers' bytes are all among this many first bytes of the fill
        self._writer: BlockWriter | None = None

    def begin(self, writer: BlockWriter) -> None:
        """Begin the fill, once it has its block's writer. What a predecessor left may be bytes of other nodes."""
        self._writer = writer
        if writer.progress and may_be_unverified(self._relays.view.fleet_state.joined(self._block_hash)):
            self.unverified = True
        if self._relays.digested and writer.start == writer.progress == 0:
            self._digest = Digest(self._relays.digest_key)
        self._join(new_fill_id(self.level, unverified=self.unverified))

    async def bring(
        self, version: ObjectVersion, span: ByteRange, sink: ByteSink, policy: RetryPolicy, *, urgent: bool, last: bool
    ) -> None:
        """Deliver the span. `last`: the block is complete with it. Raise what `deliver` raises."""
        rest = Rest(span, sink if self._digest is None else Watched(sink, self._digest), last)
        self._tail = None
        with self._discarding():
            while self.level >= REGION and self._owed(rest):
                for owner in self._owners():
                    if owner.node_id == self._relays.view.node_id or await self._read_within(owner, rest):
                        break
                if self._owed(rest):
                    self._go_down()
            if rest.left:
                await self._bring_from_origin(rest, policy, urgent=urgent)

    def _owed(self, rest: Rest) -> bool:
        """Return whether other nodes still have to give bytes, or the whole block's checksum after them."""
        return rest.left > 0 or (rest.last and (self._tail is None or self._tail.crc32c is None))

    @contextlib.contextmanager
    def _discarding(self) -> Iterator[None]:
        """Record a fill that fails for another reason than its source: it starts over, and its followers must know."""
        try:
            yield
        except (OriginUnavailable, asyncio.CancelledError):
            raise
        except BaseException:
            if self.unverified:
                self._relays.view.fleet_state.discard(self._block_hash)
            raise

    async def settle(self, policy: RetryPolicy) -> None:
        """Check the bytes of the complete block. Raise BytesWrong, and what `deliver` raises."""
        writer = self._writer
        assert writer is not None
        RELAYED_FILLS.labels("mixed" if len(self._used) > 1 else next(iter(self._used), "origin")).inc()
        with self._discarding():
            own = await self._own_digest()
            if self._tail is not None and self._tail.crc32c is not None:
                if not self._tail.fits(writer.block_crc32c, own):
                    # with several sources, the last one's checksum decides
                    for node_id in [name for name in self._givers if name != self._last_source] or [self._last_source]:
                        self._relays.view.avoid(node_id)
                    raise self._wrong(f"what came is not what {self._last_source[:8]} has")
                self._relays.view.trust(self._last_source)
            elif self.unverified:
                await self._reread(policy)
        if own is not None:
            self._relays.view.fleet_state.keep_digest(self._block_hash, own)

    async def _own_digest(self) -> bytes | None:
        """Return this node's digest of the block as it came; None: nobody will ask for it."""
        if self._digest is not None and self._digest.length == self._block.length:
            return self._digest.finish()
        if self._tail is not None and self._tail.proved:
            return await asyncio.to_thread(self.read_digest, 0, self._block.length)
        return None

    def end(self, *, done: bool) -> None:
        """End the relay with its fill; `done`: the block is there."""
        if self._lease is not None:
            self._relays.leases.end(self._lease, done=done)
            self._lease = None

    def _owners(self) -> list[Member]:
        view = self._relays.view
        return view.order(self._block_hash, view.zone if self.level == ZONE else None)[:OWNERS_MAX]

    def _go_down(self) -> None:
        self.level = self._relays.level_above(self._block_hash) if self.level == ZONE else ORIGIN
        self._join(new_fill_id(self.level, unverified=self.unverified))

    def _join(self, fill_id: int) -> None:
        self.fill_id = fill_id
        self._relays.view.fleet_state.join(self._block_hash, fill_id)

    async def _read_within(self, owner: Member, rest: Rest) -> bool:
        """Read from the nodes that this owner names. Return whether all is there; False: the owner can't help."""
        view = self._relays.view
        tried: list[str] = []
        me = view.me()
        for _ in range(SOURCES_MAX):
            uploads = view.fleet_state.total(UPLOADS)
            slow = me is not None and me.slow
            ask = Ask(self._record.version.digest, self._index, self.level, uploads, slow, tuple(tried))
            try:
                named = await self._relays.peers.ask(owner, ask)
            except PeerFailed as error:
                self._note(error)
                return False
            if named.source is None or named.source in tried or level_of(named.fill_id) != self.level:
                return False
            source = view.roster.by_id.get(named.source)
            if source is not None and source.node_id != view.node_id:
                self._join(named.fill_id)
                used = "zone" if self.level == ZONE else "region"
                if await self._read(source, named.fill_id, rest, used):
                    return True
            tried.append(named.source)
        return False

    async def _read(self, source: Member, fill_id: int, rest: Rest, used: str) -> bool:
        """Read what is owed from this node. Return False if another one must give the rest.

        A source that goes silent within a body is asked again, since it may be waiting itself, but not SILENCES_MAX
        times.
        """
        self.unverified = True
        silences = 0
        while True:
            taken_bytes = rest.taken_bytes
            try:
                async with asyncio.timeout(STEP_MAX_S):
                    self._tail = await self._relays.peers.read_block(
                        source, self._wanted(source, fill_id, rest), rest if rest.left else Dropped()
                    )
            except (PeerFailed, TimeoutError) as error:
                self._count(used, source, rest.taken_bytes - taken_bytes)
                silent = isinstance(error, PeerFailed) and error.reason == "silent"
                silences += silent
                if silent and silences < SILENCES_MAX and rest.taken_bytes > taken_bytes and self._owed(rest):
                    continue
                if isinstance(error, PeerFailed):
                    self._note(error)
                return not self._owed(rest)
            self._count(used, source, rest.taken_bytes - taken_bytes)
            self._last_source = source.node_id
            return not self._owed(rest)

    def _wanted(self, source: Member, fill_id: int, rest: Rest) -> WantedBlock:
        """Return the request for the rest.

        If only the tail is owed, the last byte is requested again: that answer waits until the block is whole.
        """
        return WantedBlock(
            self._record.version,
            self._index,
            min(rest.start, rest.end - 1) - self._block.start,
            rest.end - self._block.start,
            fill_id,
            rest.last,
            self._record.sums,
            proved=self._relays.prove(source),
        )

    def _count(self, used: str, source: Member, taken_bytes: int) -> None:
        if taken_bytes:
            self._used.add(used)
            self._givers[source.node_id] = None
            self._unchecked = None  # peers' bytes now also follow the origin's
            self._relays.view.fleet_state.add(self._relays.row, RECEIVED_BYTES, taken_bytes)

    def _note(self, error: PeerFailed) -> None:
        log.debug("block %d of %s: %s", self._index, self._record.version.key, error)
        if error.faulty:
            self._relays.view.avoid(error.node_id)

    async def _bring_from_origin(self, rest: Rest, policy: RetryPolicy, *, urgent: bool) -> None:
        if self._lease is None and (await self._read_at_former(rest) or await self._read_at_holder(rest)):
            return
        if self.unverified and self._unchecked is None and self._writer is not None:
            self._unchecked = self._writer.progress
        self._tail = None
        span, version = ByteRange(rest.start, rest.end), self._record.version
        try:
            await deliver(self._origin, version.origin, version, span, rest, policy, urgent=urgent)
        finally:
            if rest.start > span.start:
                self._used.add("origin")

    async def _read_at_former(self, rest: Rest) -> bool:
        """Read the whole block from a node that owned it before this one joined. Return False if none has it."""
        view, writer = self._relays.view, self._writer
        if self.unverified or writer is None or writer.progress:
            return False
        for member in view.order(self._block_hash)[1 : 1 + FORMER_MAX]:
            if member.node_id == view.node_id:
                continue
            self._join(new_fill_id(ORIGIN, unverified=True))
            if await self._read(member, 0, rest, "former") or self._givers:
                return not rest.left
        if self.unverified:
            self.unverified = False
            self._join(new_fill_id(ORIGIN))
        return False

    async def _read_at_holder(self, rest: Rest) -> bool:
        """Take the lease, or read from its holder. Return False if this node must ask the origin."""
        view, leases = self._relays.view, self._relays.leases
        digest = self._record.version.digest
        instead: LeasedByAnother | None = None
        began_s, taken_bytes = time.monotonic(), rest.taken_bytes
        while True:
            if level_of(self.fill_id) != ORIGIN:
                self._join(new_fill_id(ORIGIN, unverified=self.unverified))
            got = await leases.take(digest, self._index, self.fill_id, instead)
            if isinstance(got, Lease):
                if not got.real and leases.expected:
                    UNLEASED_FILLS.labels("redis").inc()
                self._lease = got
                return False
            holder = view.roster.by_id.get(got.node_id) or Member(got.node_id, got.url, got.url)
            if holder.url:
                self._join(new_fill_id(LEASED, unverified=True))
                if await self._read(holder, got.fill_id, rest, "lease") or not rest.left:
                    return True
            if got.done:
                instead = got
                continue
            if rest.taken_bytes > taken_bytes:
                began_s, taken_bytes = time.monotonic(), rest.taken_bytes
            elif time.monotonic() - began_s > HOLDER_PATIENCE_S:
                UNLEASED_FILLS.labels("holder").inc()
                self._join(new_fill_id(ORIGIN, unverified=self.unverified))
                return False
            await asyncio.sleep(HOLDER_PAUSE_S)

    async def _reread(self, policy: RetryPolicy) -> None:
        """Compare peers' bytes that no checksum covers with the origin's."""
        writer, version = self._writer, self._record.version
        assert writer is not None
        count = writer.length if self._unchecked is None else self._unchecked
        first = ByteRange(writer.start, min(writer.start + count, writer.length))
        for span in (first, ByteRange(0, max(0, writer.start + count - writer.length))):
            if not span.length:
                continue
            found, start = Digest(self._relays.digest_key), self._block.start
            there = ByteRange(start + span.start, start + span.end)
            await deliver(self._origin, version.origin, version, there, found, policy)
            REREAD_BYTES.inc(span.length)
            if found.finish() != await asyncio.to_thread(self.read_digest, span.start, span.end):
                for node_id in self._givers:
                    self._relays.view.avoid(node_id)
                raise self._wrong("what other nodes gave is not what the origin has")

    def _wrong(self, why: str) -> BytesWrong:
        CHECKSUM_FAILURES.labels("peer").inc()
        log.warning("block %d of %s: %s; it is fetched again", self._index, self._record.version.key, why)
        return BytesWrong(f"block {self._index} of {self._record.version.key!r}: {why}")


def _no_file(start: int, end: int) -> bytes:
    raise AssertionError("a relay that has begun knows its block's file")
