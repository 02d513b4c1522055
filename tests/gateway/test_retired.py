"""Segments that are given up while a fill is under way in them: readers get the bytes of the file being filled."""

from __future__ import annotations

import asyncio
import os
import random

from tests.gateway.engine import BLOCK_BYTES, Engine, ObjectOrigin

CONTENT = random.Random(9).randbytes(4 * BLOCK_BYTES)


def hold_first_read(origin: ObjectOrigin, after_bytes: int) -> tuple[asyncio.Event, asyncio.Event]:
    """The origin's first read stops after so many bytes; returns what says so, and what lets it go on."""
    held, go_on = asyncio.Event(), asyncio.Event()

    async def script(number: int, sent: int) -> None:
        if number == 1 and sent >= after_bytes:
            held.set()
            await go_on.wait()

    origin.script = script
    return held, go_on


async def test_whoever_joins_a_fill_in_a_retired_segment_reads_from_its_file_and_not_from_the_successors(
    engine: Engine,
) -> None:
    record = engine.origin.put("k", CONTENT)
    held, go_on = hold_first_read(engine.origin, 128 << 10)
    first = asyncio.ensure_future(engine.get("k", 0, BLOCK_BYTES - 1))
    await held.wait()
    block = engine.store.peek_block(record.version, 0)
    assert block is not None
    block._segment.retire("damage")
    # A block of the successor, so that the place of the first one is a hole there.
    assert await engine.get("k", BLOCK_BYTES, 2 * BLOCK_BYTES - 1) == CONTENT[BLOCK_BYTES : 2 * BLOCK_BYTES]
    second = asyncio.ensure_future(engine.get("k", 0, BLOCK_BYTES - 1))
    await asyncio.sleep(0.02)
    go_on.set()
    assert await first == CONTENT[:BLOCK_BYTES]
    assert await second == CONTENT[:BLOCK_BYTES]


async def test_a_fill_does_not_go_on_in_a_file_that_was_cut_and_whose_beginning_would_be_a_hole(engine: Engine) -> None:
    record = engine.origin.put("k", CONTENT)
    first_hold, second_hold = asyncio.Event(), asyncio.Event()
    first_go, second_go = asyncio.Event(), asyncio.Event()

    async def script(number: int, sent: int) -> None:
        if number == 1 and sent == 128 << 10:
            first_hold.set()
            await first_go.wait()
        if number == 1 and sent == 192 << 10:
            second_hold.set()
            await second_go.wait()

    engine.origin.script = script
    first = asyncio.ensure_future(engine.get("k", 0, BLOCK_BYTES - 1))
    await first_hold.wait()
    block = engine.store.peek_block(record.version, 0)
    assert block is not None
    os.truncate(block.piece(0, 1).file.fd, 0)
    assert engine.store.peek_block(record.version, 0) is None  # seen, and the segment condemned
    first_go.set()
    held = asyncio.ensure_future(second_hold.wait())
    await asyncio.wait({held, first}, return_when=asyncio.FIRST_COMPLETED)
    second = asyncio.ensure_future(engine.get("k", 0, BLOCK_BYTES - 1))
    await asyncio.sleep(0.02)
    second_go.set()
    assert await second == CONTENT[:BLOCK_BYTES]
    assert await first == CONTENT[:BLOCK_BYTES]
    held.cancel()
