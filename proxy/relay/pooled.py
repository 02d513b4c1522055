"""Pooled reads: bytes of a block that this node does not keep, from the node that does. The fleet's disks act as one.

How it works. The zone's owner of the block keeps it, and fetches it if necessary. A reader here asks for a megabyte at
a time, with a few such requests side by side. Each answer has a checksum of its own, and only bytes that match it are
passed on. A pooled read takes no part in relays: no node ever reads from it. An owner that is there but slow to answer
is asked again. If no node can help, the origin is asked for just these bytes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass

from proxy.blocks import ByteSink, RangeSource, update_sum
from proxy.fleet.fill_ids import ZONE
from proxy.fleet.owners import hash_block
from proxy.fleet.protocol import Ask, WantedBlock
from proxy.fleet.roster import Member
from proxy.fleet.state import RECEIVED_BYTES
from proxy.metrics import CHECKSUM_FAILURES
from proxy.objects import ObjectRecord, SumKind
from proxy.ranges import ByteRange
from proxy.relay.digests import digest_bytes
from proxy.relay.errors import PeerFailed
from proxy.relay.relay import OWNERS_MAX, SOURCES_MAX, STEP_MAX_S, Relays
from proxy.upstream.deliver import deliver
from proxy.upstream.retry import RetryPolicy

STEP_BYTES = 1 << 20
STEPS_AHEAD = 4
PASSING = frozenset({"busy", "silent"})  # failures of a node that is alive
PATIENCE_S = 10.0  # with such a node: a read that bypasses it costs an extra copy from the origin
PAUSE_S = 0.1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pooled:
    """A pooled read of one block. `block` is the block's range in the object."""

    relays: Relays
    origin: RangeSource
    record: ObjectRecord
    index: int
    block: ByteRange

    async def bring(self, span: ByteRange, sink: ByteSink, policy: RetryPolicy, *, urgent: bool) -> None:
        """Deliver a span of the block, in order, all of it verified. Raise what `deliver` raises."""
        steps = deque(
            ByteRange(start, min(start + STEP_BYTES, span.end)) for start in range(span.start, span.end, STEP_BYTES)
        )
        under_way: deque[tuple[ByteRange, asyncio.Task[bytes | None]]] = deque()
        try:
            while steps or under_way:
                while steps and len(under_way) < STEPS_AHEAD:
                    step = steps.popleft()
                    under_way.append((step, asyncio.get_running_loop().create_task(self._read(step))))
                step = under_way[0][0]
                data = await under_way[0][1]
                under_way.popleft()
                if data is None:
                    version = self.record.version
                    rest = ByteRange(step.start, span.end)
                    await deliver(self.origin, version.origin, version, rest, sink, policy, urgent=urgent)
                    return
                pending = sink.write(memoryview(data))
                if pending is not None:
                    await pending
        finally:
            await _end(under_way)

    async def _read(self, step: ByteRange) -> bytes | None:
        """Return the step's bytes; None: no other node has them, or can fetch them."""
        view = self.relays.view
        for owner in view.order(hash_block(self.record.version.digest, self.index), view.zone)[:OWNERS_MAX]:
            if owner.node_id == view.node_id:
                return None
            data = await self._read_within(owner, step)
            if data is not None:
                return data
        return None

    async def _read_within(self, owner: Member, step: ByteRange) -> bytes | None:
        """Read from the nodes that this owner names. Ask a busy or briefly silent one again for PATIENCE_S."""
        view, tried = self.relays.view, list[str]()
        give_up_at_s = time.monotonic() + PATIENCE_S
        while len(tried) < SOURCES_MAX:
            ask = Ask(self.record.version.digest, self.index, ZONE, slow=True, tried=tuple(tried))
            source_id: str | None = None
            try:
                named = await self.relays.peers.ask(owner, ask)
                source_id = named.source
                if source_id is None:
                    return None
                source = view.roster.by_id.get(source_id)
                if source is not None and source_id != view.node_id:
                    data = await self._read_from(source, named.fill_id, step)
                    if data is not None:
                        return data
            except (PeerFailed, TimeoutError) as error:
                if isinstance(error, PeerFailed):
                    if error.reason in PASSING and time.monotonic() < give_up_at_s:
                        await asyncio.sleep(PAUSE_S)
                        continue
                    if error.faulty:
                        view.avoid(error.node_id)
                if source_id is None:
                    return None  # the owner itself does not answer
            tried.append(source_id)
        return None

    async def _read_from(self, source: Member, fill_id: int, step: ByteRange) -> bytes | None:
        start, end = step.start - self.block.start, step.end - self.block.start
        kept = _Kept()
        wanted = WantedBlock(
            self.record.version,
            self.index,
            start,
            end,
            fill_id,
            last=False,
            sums=self.record.sums,
            summed=True,
            proved=self.relays.prove(source),
        )
        async with asyncio.timeout(STEP_MAX_S):
            tail = await self.relays.peers.read_block(source, wanted, kept)
        data = memoryview(kept.data)
        digest = digest_bytes(self.relays.digest_key, data) if tail.proved else None
        if not tail.fits(update_sum(SumKind.CRC32C, data), digest):
            CHECKSUM_FAILURES.labels("peer").inc()
            log.warning(
                "%s gave wrong bytes of block %d of %s", source.node_id[:8], self.index, self.record.version.key
            )
            self.relays.view.avoid(source.node_id)
            return None
        self.relays.view.fleet_state.add(self.relays.row, RECEIVED_BYTES, len(data))
        return bytes(data)


class _Kept:
    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        self.data += data


async def _end(under_way: deque[tuple[ByteRange, asyncio.Task[bytes | None]]]) -> None:
    """Cancel what is under way and drop it: a failed task and the frames of its error would keep each other alive."""
    tasks = [task for _, task in under_way]
    under_way.clear()
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
