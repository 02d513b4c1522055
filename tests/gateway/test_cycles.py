"""A failed read keeps nothing open: its blocks' files close with it, and no garbage collection is needed for that."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import OriginUnavailable
from proxy.gateway.body import Body
from proxy.metrics import UNCACHED_READS
from tests.gateway.engine import BLOCK_BYTES, Engine, ObjectOrigin, body_bytes

CONTENT = random.Random(5).randbytes(12 * BLOCK_BYTES)


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def bodies() -> int:
    return sum(isinstance(each, Body) for each in gc.get_objects())


async def test_a_read_past_a_full_cache_leaves_no_cycle(tmp_path: Path, uncollected: None) -> None:
    engine = Engine(tmp_path, size_bytes=8 * BLOCK_BYTES, segment_bytes=BLOCK_BYTES)
    engine.origin.put("k", CONTENT)
    past_the_cache = UNCACHED_READS.labels("store")._value.get()
    assert await engine.get("k") == CONTENT
    await engine.quiet()
    assert UNCACHED_READS.labels("store")._value.get() > past_the_cache
    assert bodies() == 0
    await engine.aclose()


async def test_a_read_of_a_failing_origin_leaves_no_cycle(tmp_path: Path, uncollected: None) -> None:
    origin = ObjectOrigin()
    engine = Engine(tmp_path, origin)
    origin.put("k", CONTENT)

    async def fail_later(number: int, sent: int) -> None:
        if number > 2:
            origin.down = True
            raise OriginUnavailable("down")

    origin.script = fail_later
    with pytest.raises(OriginUnavailable):
        await body_bytes(await engine.read("k"))
    await engine.quiet()
    await asyncio.sleep(0)
    assert bodies() == 0
    await engine.aclose()
