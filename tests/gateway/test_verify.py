"""The whole object's checksum, where several bodies of one version are under way."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from proxy.errors import OriginUnavailable
from proxy.gateway import read
from proxy.objects import SumKind
from tests.gateway.engine import BLOCK_BYTES, Engine, piece_bytes
from tests.waiting import until

CONTENT = random.Random(11).randbytes(3 * BLOCK_BYTES + 1234)


async def test_a_body_under_way_while_its_version_is_found_wrong_never_comes_complete(engine: Engine) -> None:
    engine.origin.put("k", CONTENT, sums=(SumKind.CRC32C,))
    engine.origin.corrupt = True
    answer = await engine.read("k")
    assert answer.body is not None
    got = piece_bytes(await anext(answer.body))
    with pytest.raises(OriginUnavailable):
        await engine.get("k")
    engine.origin.corrupt = False
    assert await engine.get("k") == CONTENT  # by now the disk holds the right bytes
    with pytest.raises(OriginUnavailable):
        async for piece in answer.body:
            got += piece_bytes(piece)
    assert got != CONTENT[: len(got)]
    assert len(got) < len(CONTENT)


async def test_reads_that_need_no_fill_do_not_keep_other_objects_from_being_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "CHECKED_RECORDS_MAX", 2)
    engine = Engine(tmp_path)
    for key in ("a", "b"):
        engine.origin.put(key, CONTENT, sums=(SumKind.CRC32C,))
        for _ in range(2):  # the second time, the object's last block is there and no fill begins
            await engine.get(key, 3 * BLOCK_BYTES, None)
            await engine.quiet()
    engine.origin.corrupt = True
    record = engine.origin.put("k", CONTENT, sums=(SumKind.CRC32C,))
    await engine.get("k", 3 * BLOCK_BYTES, None)
    await engine.get("k", 0, 3 * BLOCK_BYTES - 1)
    await engine.quiet()
    await until(lambda: engine.verifier.mismatches(record))
    await engine.aclose()


@pytest.mark.parametrize("first", [0, BLOCK_BYTES])
async def test_a_version_found_sound_is_checked_again_when_it_is_fetched_again(engine: Engine, first: int) -> None:
    record = engine.origin.put("k", CONTENT, sums=(SumKind.CRC32C,))
    assert await engine.get("k") == CONTENT
    await asyncio.to_thread(engine.store.discard, record.version)
    engine.origin.corrupt = True
    if first:  # a read of other blocks begins: the one of the object's end must know
        await engine.get("k", 0, first - 1)
        await engine.quiet()
        engine.origin.corrupt = False
    with pytest.raises(OriginUnavailable):
        await engine.get("k", first, None)
