"""Coverage: how much of a range is on this disk. `X-Cache` reports it."""

from __future__ import annotations

from contextlib import suppress

from proxy.blocks import blocks_of
from proxy.cache.blockmap import BlockKind
from proxy.cache.store import Block, Store
from proxy.errors import StoreUnavailable
from proxy.objects import ObjectVersion, SumKind
from proxy.ranges import ByteRange

PEEK_BLOCKS_MAX = 64  # checked inline; a longer range's blocks are checked one by one as a body reaches them


def is_here(block: Block) -> bool:
    """Return whether the disk has the whole block, published or about to be."""
    state = block.state()
    return state.kind is BlockKind.PRESENT or state.progress == block.length


def peek_coverage(store: Store, version: ObjectVersion, span: ByteRange) -> tuple[int, int] | None:
    """Return how many of the range's blocks are here, and how many it has. Inline.

    Return None if the disk must be read for that.
    """
    blocks = blocks_of(span, store.block_bytes)
    if len(blocks) > PEEK_BLOCKS_MAX:
        return None
    present = 0
    for index in blocks:
        block = store.peek_block(version, index)
        if block is None:
            return None
        present += is_here(block)
    return present, len(blocks)


def read_coverage(
    store: Store, version: ObjectVersion, span: ByteRange, make: tuple[SumKind, ...] | None = None
) -> tuple[int, int]:
    """Return the same as `peek_coverage`. Blocking.

    `make`: a read follows. If its first block's segment is missing, create it with these sums, which saves the read a
    trip through a thread.
    """
    blocks = blocks_of(span, store.block_bytes)
    if make is not None:
        with suppress(StoreUnavailable):  # the read will find out by itself
            store.open_block(version, blocks.start, create=True, sums=make)
    present, index = 0, blocks.start
    while index < blocks.stop:
        block = store.open_block(version, index, create=False)
        if block is None:  # nor is any other block of its segment here
            index += store.segment_blocks - index % store.segment_blocks
            continue
        present += is_here(block)
        index += 1
    return present, len(blocks)
