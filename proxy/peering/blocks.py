"""Blocks for other nodes: complete blocks for every member, incomplete ones only within their fill.

How it works. A request names a fill (`proxy.fleet.fill_ids`).
1. If the block is here, it is sent, whatever the fill. Fill id 0 is no fill: the block is wanted only if it is here.
2. If this node's own directory has begun the fill, this node is the block's owner for the nodes that ask. It fetches
   the block, by a fill that waits for no node of that tree. If a fill that does is under way, the asking node must go
   elsewhere (409).
3. If this node's own fill of the block belongs to the named fill, it is followed from its first byte on. A node may be
   named as a source before it knows of its own fill, so the request waits for a moment.
The body ends with a tail (`proxy.fleet.tail`): the block's crc32c and a MAC over its keyed digest, once this node has
compared them itself. The digest was kept in the fleet state when the block came; else it is computed from the
file, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial

from proxy.blocks import ByteSink, Piece, RangeSource, block_span
from proxy.errors import OriginUnavailable
from proxy.fill.follow import FollowedProgress
from proxy.fill.handle import BlockHandle
from proxy.fill.progress import WAKE_BYTES
from proxy.fill.supply import Supply
from proxy.fleet.fill_ids import REGION, level_of
from proxy.fleet.owners import hash_block
from proxy.fleet.protocol import WantedBlock
from proxy.fleet.signing import Proofs
from proxy.fleet.state import SENT_BYTES, UPLOADS, FleetState
from proxy.fleet.tail import TAIL_BYTES, render_tail
from proxy.metrics import PEER_UPLOADS
from proxy.objects import ObjectRecord, ObjectVersion
from proxy.ranges import ByteRange
from proxy.relay.digests import derive_key, sum_and_digest

PATIENCE_S = 1.0
LOOK_FIRST_S = 0.002
LOOK_LONGEST_S = 0.05
PIECE_BYTES_MAX = 512 << 10


class NotHere(Exception):
    """The refusal of a request that must go to another node. `outcome` is its label in the metrics."""

    def __init__(self, status: int, outcome: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.outcome = outcome


class Blocks:
    """The blocks of this node, as other nodes may read them.

    `origins` by their ids. `row` is this worker's in the fleet state. `secret` is the one that its digests are made
    with.
    """

    def __init__(
        self,
        supply: Supply,
        origins: Mapping[str, RangeSource],
        fleet_state: FleetState,
        row: int,
        *,
        block_bytes: int,
        secret: bytes,
    ) -> None:
        self._supply = supply
        self._origins = origins
        self._fleet_state = fleet_state
        self._row = row
        self._block_bytes = block_bytes
        self._digests = _Digests(fleet_state, secret)

    async def open(self, wanted: WantedBlock, proofs: Proofs) -> BlockUpload:
        """Return the body once its first bytes are there. Its tail is proved to this request.

        Raise NotHere, ValueError for a request that makes no sense, and what a fill raises.
        """
        version = wanted.version
        if wanted.end > block_span(wanted.index, version.size_bytes, self._block_bytes).length:
            raise ValueError("the range lies outside of the block")
        record = ObjectRecord(version, "", None, (), 0.0, sums=wanted.sums)
        handle = await self._find(wanted, record)
        try:
            if handle.arrival is not None:
                await handle.arrival.wait(wanted.start)
                only_sum = wanted.last and wanted.end - wanted.start == 1
                if only_sum or (wanted.summed and handle.unverified):  # within a body, no signs of life can be sent
                    await handle.arrival.wait_end()
        except BaseException:
            self._supply.release(version, handle)
            raise
        return BlockUpload(
            self._supply, handle, wanted, self._fleet_state, self._row, partial(self._digests.render, proofs)
        )

    async def _find(self, wanted: WantedBlock, record: ObjectRecord) -> BlockHandle:
        block_hash = hash_block(record.version.digest, wanted.index)
        origin = self._origins.get(record.version.origin, _NOWHERE)
        level = level_of(wanted.fill_id)
        if level >= REGION and self._fleet_state.owned(block_hash + level) == wanted.fill_id:
            return await self._bring(origin, record, wanted, level)
        pause_s, loop = LOOK_FIRST_S, asyncio.get_running_loop()
        give_up_at_s = loop.time() + (PATIENCE_S if wanted.fill_id else 0.0)
        while True:
            handle = await self._supply.join(origin, record, wanted.index)
            if handle is not None:
                if handle.arrival is None:
                    return handle
                if self._fill_id(handle.arrival, block_hash) == wanted.fill_id != 0:
                    handle.arrival.serve(level)
                    return handle
                self._supply.release(record.version, handle)
            if loop.time() >= give_up_at_s:
                if handle is not None:
                    raise NotHere(409, "busy", "the block comes here by another fill")
                raise NotHere(404, "missing", "the block is not here")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LOOK_LONGEST_S)

    def _fill_id(self, arrival: FollowedProgress, block_hash: int) -> int:
        """Return the id of this process's fill, else of another process's on this node.

        A node may have two fills of one block, one of them in a segment that was retired.
        """
        return arrival.fill_id() if arrival.fill_id is not None else self._fleet_state.joined(block_hash)

    async def _bring(self, origin: RangeSource, record: ObjectRecord, wanted: WantedBlock, level: int) -> BlockHandle:
        """Fetch the block as its owner."""
        version, index = record.version, wanted.index
        if origin is _NOWHERE:
            handle = await self._supply.join(origin, record, index)
            if handle is None:
                raise NotHere(404, "missing", f"this node has no origin {version.origin}")
            return handle
        self._check_level(version, index, level)
        handle = await self._supply.obtain(origin, record, index, wanted.start, below=level)
        try:
            if handle.arrival is not None:
                self._check_level(version, index, level)
        except NotHere:
            self._supply.release(version, handle)
            raise
        return handle

    def _check_level(self, version: ObjectVersion, index: int, level: int) -> None:
        under_way = self._supply.level(version, index)
        if under_way is not None and under_way >= level:
            raise NotHere(409, "busy", "this node waits for another one's fill of the block itself")


class _Digests:
    """The tails that prove this node's bytes. `secret`: the one with which its digests in the fleet state were made."""

    def __init__(self, fleet_state: FleetState, secret: bytes) -> None:
        self._fleet_state = fleet_state
        self._secret = secret

    async def render(self, proofs: Proofs, handle: BlockHandle, wanted: WantedBlock) -> bytes:
        """Return the tail of these bytes if their own checksum is wanted, else of the whole block, which is here."""
        key = derive_key(proofs.secret)
        if wanted.summed:
            piece = handle.piece(wanted.start, wanted.end - wanted.start)
            crc32c, digest = await asyncio.to_thread(sum_and_digest, piece, key)
            return render_tail(crc32c, proofs, digest if wanted.proved else None)
        block = handle.block
        if not wanted.proved:
            return render_tail(block.crc32c(), proofs, None)
        own, block_hash = proofs.secret == self._secret, hash_block(wanted.version.digest, wanted.index)
        kept = self._fleet_state.digest(block_hash) if own else None
        if kept is None:  # from an earlier run, filled from its middle on, or while the fleet changes its secret
            crc32c, read = await asyncio.to_thread(sum_and_digest, handle.piece(0, block.length), key)
            if crc32c != block.crc32c():
                raise OriginUnavailable("the disk lost bytes of the block")
            if own:
                self._fleet_state.keep_digest(block_hash, read)
            kept = read
        return render_tail(block.crc32c(), proofs, kept)


RenderTail = Callable[[BlockHandle, WantedBlock], Awaitable[bytes]]


class BlockUpload:
    """A body being sent: iterate it once, then call `aclose`. `length` is in bytes and includes the tail."""

    def __init__(
        self,
        supply: Supply,
        handle: BlockHandle,
        wanted: WantedBlock,
        fleet_state: FleetState,
        row: int,
        render_tail: RenderTail,
    ) -> None:
        self._render_tail = render_tail
        self.length = wanted.end - wanted.start + TAIL_BYTES
        self._supply = supply
        self._handle = handle
        self._wanted = wanted
        self._fleet_state = fleet_state
        self._row = row
        self._open = True
        self._done = False
        self._items = self._pieces()
        fleet_state.add(row, UPLOADS, 1)

    def __aiter__(self) -> BlockUpload:
        return self

    async def __anext__(self) -> Piece | bytes:
        return await anext(self._items)

    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            await self._items.aclose()
        finally:
            self._fleet_state.add(self._row, UPLOADS, -1)
            self._supply.release(self._wanted.version, self._handle)
            PEER_UPLOADS.labels("done" if self._done else "broken").inc()

    async def _pieces(self) -> AsyncGenerator[Piece | bytes, None]:
        handle, wanted = self._handle, self._wanted
        arrival, offset, end = handle.arrival, wanted.start, wanted.end
        while offset < end:
            if arrival is not None:
                await arrival.wait(offset, min(WAKE_BYTES, end - offset))
            length = min(handle.available(offset), end - offset, PIECE_BYTES_MAX)
            yield handle.piece(offset, length)
            offset += length
            self._fleet_state.add(self._row, SENT_BYTES, length)
        if wanted.summed:
            if handle.unverified and arrival is not None:
                await arrival.wait_end()
        elif not wanted.last:
            self._done = True
            yield bytes(TAIL_BYTES)  # nothing is known about the whole block
            return
        elif arrival is not None:
            await arrival.wait_end()
        tail = await self._render_tail(handle, wanted)
        if wanted.summed and handle.block.at_risk and handle.block.is_lost():  # the same zeros may have been sent
            raise OriginUnavailable("the disk lost bytes that were being sent")
        self._done = True
        yield tail


class _Nowhere:
    """The origin of a node that has none of the requested name."""

    name = "none"

    async def read_range(self, version: ObjectVersion, span: ByteRange, sink: ByteSink) -> None:
        raise OriginUnavailable(f"this node has no origin {version.origin}")


_NOWHERE = _Nowhere()
