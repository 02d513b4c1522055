"""How much of a range is on this disk: what X-Cache says."""

from __future__ import annotations

from contextlib import suppress

from proxy.blocks import blocks_of
from proxy.cache.blockmap import BlockKind
from proxy.cache.store import Block, Store
from proxy.errors import StoreUnavailable
from proxy.objects import ObjectVersion, SumKind
from proxy.ranges import ByteRange

PEEK_BLOCKS_MAX = 64  # looked at inline; of a longer range, one by one as a body comes to them


def is_here(block: Block) -> bool:
    """Whether the disk has all of it, published or about to be."""
    state = block.state()
    return state.kind is BlockKind.PRESENT or state.progress == block.length


def peek_coverage(store: Store, version: ObjectVersion, span: ByteRange) -> tuple[int, int] | None:
    """The range's blocks that are here, and all of them; None: that takes looking at the disk. Inline."""
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
    """As `peek_coverage`. Blocking.

    For a read that comes next, `make` (with these sums) the first block's segment, where it must be made: that saves it
    a turn in a thread.
    """
    blocks = blocks_of(span, store.block_bytes)
    if make is not None:
        with suppress(StoreUnavailable):  # the read will find out by itself
            store.open_block(version, blocks.start, create=True, sums=make)
    present, index = 0, blocks.start
    while index < blocks.stop:
        block = store.open_block(version, index, create=False)
        if block is None:  # nor any other of its segment
            index += store.segment_blocks - index % store.segment_blocks
            continue
        present += is_here(block)
        index += 1
    return present, len(blocks)
