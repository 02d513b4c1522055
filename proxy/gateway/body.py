"""A response's body: the pieces of a range, in order, each as soon as it is there.

How it works.
1. The window: while a reader takes bytes, the blocks ahead of it (inside its range, never beyond) are asked for too.
   The window starts at the reader's own block and grows with what the reader has taken, so a reader that goes away
   early leaves little behind and one that keeps up gets as many fills side by side as the limits allow.
2. A block that the store can't hold is streamed through memory from the offset reached.
3. The hold-back: when this body sends the object's last byte and the origin announced the object's checksum (or may
   still do so), the last 64 KiB leave only after the blocks' combined checksum agrees. On a mismatch the body ends
   short, and so does every other body of the version that was under way: what the disk holds by then is not what they
   have sent. An origin that has not told the checksum `sums_wait_s` after the body began is not waited for: the bytes
   leave, and the disk's copy is compared when it does.
4. The same for a block whose bytes come from other nodes: the last 64 KiB of what this body takes from it leave when
   the block's checksum has been compared. Where it does not agree, a body that has sent none of it asks again. Where it
   will never be known (the disk has failed meanwhile), what was sent is compared with the same bytes read again.
5. Of a block that the disk may not have yet, no zero leaves where its bytes were lost: see `unstored`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from proxy.admission import Admission, Room
from proxy.blocks import Piece, block_span, blocks_of
from proxy.errors import BytesWrong, OriginUnavailable, StoreUnavailable
from proxy.fill.handle import SMALL_READ_BYTES, BlockHandle
from proxy.fill.progress import WAKE_BYTES, FillPaused
from proxy.fill.supply import Supply, own_bytes
from proxy.fill.uncached import stream_span
from proxy.gateway.continuation import stream_behind
from proxy.gateway.lookup import Resolved
from proxy.gateway.unstored import Unstored, read_piece
from proxy.gateway.verify import ObjectVerifier
from proxy.metrics import ASIDE_READS, UNCACHED_READS
from proxy.objects import ObjectRecord
from proxy.origin import Origin
from proxy.ranges import ByteRange
from proxy.rate_limited_log import RateLimitedLog
from proxy.relay.pooled import Pooled
from proxy.upstream.retry import RetryPolicy

_uncached = RateLimitedLog(logging.getLogger(__name__))

HOLD_BACK_BYTES = 64 << 10
PIECE_BYTES_MAX = 512 << 10
GROWTH_BYTES = 512 << 10  # the window grows by a block for so many bytes taken


@dataclass(frozen=True, slots=True)
class BodyParts:
    """What every body of this process needs.

    `window_blocks_max`: most blocks asked for side by side by one reader.
    `sums_wait_s`: how long after its begin a body's end is held back for a checksum that the origin has not told yet.
    `uncached`: room for reads past the cache.
    """

    supply: Supply
    verifier: ObjectVerifier
    policy: RetryPolicy
    block_bytes: int
    window_blocks_max: int
    sums_wait_s: float = 5.0
    uncached: Room = field(default_factory=lambda: Admission().uncached_reads)


class Body:
    """One read's bytes. Iterate `pieces()` once and aclose it."""

    def __init__(
        self,
        parts: BodyParts,
        origin: Origin,
        record: ObjectRecord,
        span: ByteRange,
        later: asyncio.Task[Resolved] | None = None,
        *,
        kept: bool = True,
    ) -> None:
        """`later` will tell the checksums that the record lacks. `kept` False: only a block's owner keeps a copy."""
        self._kept = kept
        self._parts = parts
        self._origin = origin
        self._record = record
        self._span = span
        self._later = later
        self._later_until_s = time.monotonic() + parts.sums_wait_s
        self._taken_bytes = 0
        self._ahead: dict[int, asyncio.Task[BlockHandle]] = {}
        self._unchecked_end = span.end == record.size_bytes and span.length > 0
        self._mismatches = parts.verifier.mismatches(record)
        self._unstored = Unstored()

    async def pieces(self) -> AsyncGenerator[Piece | bytes, None]:
        blocks = blocks_of(self._span, self._parts.block_bytes)
        try:
            for index in blocks:
                async with aclosing(self._block(index, blocks)) as block:
                    async for piece in block:
                        length = _length(piece)
                        if self._unstored and self._taken_bytes + length == self._span.length:
                            async for part in self._last(piece):
                                yield part
                        else:
                            yield piece
                        self._taken_bytes += length
        finally:
            await self._release_ahead()

    async def _last(self, piece: Piece | bytes) -> AsyncGenerator[Piece | bytes, None]:
        """The body's last piece; what is not right by then ends it short."""
        if isinstance(piece, Piece):
            first_bytes = max(0, piece.length - HOLD_BACK_BYTES)
            if first_bytes:
                yield piece._replace(length=first_bytes)
            piece = await read_piece(Piece(piece.file, piece.offset + first_bytes, piece.length - first_bytes))
        if not await self._unstored.was_right():
            raise OriginUnavailable(f"{self._record.version.key!r}: the disk lost bytes that were being sent")
        yield piece

    async def _block(self, index: int, blocks: range) -> AsyncGenerator[Piece | bytes, None]:
        block = block_span(index, self._record.size_bytes, self._parts.block_bytes)
        offset = max(self._span.start, block.start) - block.start
        end = min(self._span.end, block.end) - block.start
        pooled = self._pooled(index, offset, end, block.length)
        sent: Piece | None = None  # unchecked
        while offset < end and pooled is None:
            handle: BlockHandle | None = None
            began = offset
            try:
                handle = await self._obtain(index, blocks, offset, end)
                if handle.arrival is not None:
                    self._parts.verifier.doubt(self._record)
                    if handle.is_far(offset, end):
                        ASIDE_READS.inc()
                        break
                while offset < end:
                    at_least = 1 if self._taken_bytes == 0 else min(WAKE_BYTES, end - offset)
                    available = await self._wait(handle, index, offset, end, at_least)
                    if handle.block.at_risk:
                        if handle.block.is_lost():
                            raise StoreUnavailable("the disk has lost bytes that it had taken")
                        self._unstored.note(handle.block)
                    piece = handle.piece(offset, min(available, end - offset, PIECE_BYTES_MAX))
                    self._look_ahead(index, blocks)
                    offset += piece.length
                    yield piece
            except FillPaused:  # ask for the block again
                sent = _unchecked(handle, began, offset)
                if sent is not None:
                    break
            except BytesWrong as error:
                if offset > began:
                    raise OriginUnavailable(str(error)) from error
            except StoreUnavailable as error:
                sent = _unchecked(handle, began, offset)
                UNCACHED_READS.labels("store").inc()
                _uncached.say(f"reading past the cache: {error}")
                break
            finally:
                if handle is not None:
                    self._parts.supply.release(self._record.version, handle)
        if offset == end:
            return
        rest = ByteRange(block.start + (offset if sent is None else began), block.start + end)
        source = pooled or self._parts.supply.beside(self._origin, self._record, index) or self._origin
        stream = stream_span(
            source, self._record.version, rest, self._parts.policy, self._parts.uncached, begun=self._taken_bytes > 0
        )
        if sent is not None:
            stream = stream_behind(sent, stream)
        async with aclosing(stream):
            async for chunk in stream:
                if sent is not None:  # and agrees with the stream
                    self._unstored.forget(index)
                yield chunk

    def _pooled(self, index: int, offset: int, end: int, length: int) -> Pooled | None:
        """Where a block's bytes come from that no copy of it here shall bring."""
        supply = self._parts.supply
        if not self._kept:
            return supply.pooled(self._origin, self._record, index)
        small = self._span.length <= SMALL_READ_BYTES and own_bytes(offset, end, length) is not None
        return supply.aside(self._origin, self._record, index) if small else None

    async def _obtain(self, index: int, blocks: range, offset: int, end: int) -> BlockHandle:
        self._learn()
        self._look_ahead(index, blocks)
        task = self._ahead.pop(index, None)
        if task is None:
            small = self._span.length <= SMALL_READ_BYTES
            return await self._parts.supply.obtain(self._origin, self._record, index, offset, end if small else None)
        try:
            return await task
        except asyncio.CancelledError:
            self._ahead[index] = task  # ours was cancelled, perhaps: the release looks at it again
            raise
        finally:
            del task  # else its error, the traceback and this frame hold each other, and the blocks that were sent

    async def _wait(self, handle: BlockHandle, index: int, offset: int, end: int, at_least: int) -> int:
        """How many bytes may be sent from `offset`, at least one; the read takes the block's bytes to `end`."""
        if handle.available(offset) < at_least and handle.arrival is not None:
            if isinstance(handle.arrival.error, OriginUnavailable):
                raise FillPaused  # it failed before this reader came to it, which says nothing of now
            await handle.arrival.wait(offset, at_least)
        if handle.unverified and handle.arrival is not None:
            held_from = end - HOLD_BACK_BYTES
            if offset < held_from:
                return min(handle.available(offset), held_from - offset)
            await handle.arrival.wait_end()
        last_block = index == (self._record.size_bytes - 1) // self._parts.block_bytes
        if not (last_block and self._unchecked_end and self._doubtful()):
            return handle.available(offset)
        held_from = max(0, handle.block.length - HOLD_BACK_BYTES)
        if offset < held_from:
            return min(handle.available(offset), held_from - offset)
        await self._check(handle)
        return handle.available(offset)

    async def _check(self, handle: BlockHandle) -> None:
        """Lets the object's last bytes go, or ends the body short."""
        if self._later is not None:
            await asyncio.wait({self._later}, timeout=max(0.0, self._later_until_s - time.monotonic()))
            self._learn()
        if handle.arrival is not None:
            await handle.arrival.wait_end()
            await self._parts.supply.settle(self._record.version)
        agrees = await self._parts.verifier.check(self._record)
        if agrees is False or self._mismatched():
            raise OriginUnavailable(f"{self._record.version.key!r} failed its checksum")
        self._unchecked_end = False

    def _learn(self) -> None:
        """Takes the checksums that nobody had told when the body began; without any, its bytes are all there is."""
        later = self._later
        if later is None or not later.done():
            return
        self._later = None
        if not later.cancelled() and later.exception() is None:
            record = later.result().record
            if record.version == self._record.version:
                self._record = record

    def _doubtful(self) -> bool:
        return self._later is not None or self._parts.verifier.checkable(self._record) or self._mismatched()

    def _mismatched(self) -> bool:
        """Whether the version failed its checksum since this body began."""
        return self._parts.verifier.mismatches(self._record) != self._mismatches

    def _look_ahead(self, index: int, blocks: range) -> None:
        window = min(1 + self._taken_bytes // GROWTH_BYTES, self._parts.window_blocks_max)
        for ahead in range(index + 1, min(index + window, blocks.stop)):
            if ahead not in self._ahead and (
                self._kept or self._parts.supply.pooled(self._origin, self._record, ahead) is None
            ):
                obtain = self._parts.supply.obtain(self._origin, self._record, ahead, 0)
                self._ahead[ahead] = asyncio.get_running_loop().create_task(obtain)

    async def _release_ahead(self) -> None:
        """Takes back this reader's interest in the blocks it asked for and did not come to."""
        while self._ahead:
            _, task = self._ahead.popitem()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled() and task.exception() is None:
                self._parts.supply.release(self._record.version, task.result())


def _unchecked(handle: BlockHandle | None, began: int, offset: int) -> Piece | None:
    """What was sent of a block, [began, offset), where it is of other nodes and was never compared, or may be lost."""
    if handle is None or offset == began:
        return None
    doubtful = handle.unverified or (handle.block.at_risk and handle.block.is_lost())
    return handle.piece(began, offset - began) if doubtful else None


def _length(piece: Piece | bytes) -> int:
    return piece.length if isinstance(piece, Piece) else len(piece)
