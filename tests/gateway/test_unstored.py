"""Bodies of blocks that the disk may not have yet: whole and right, or short, never wrong."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.blocks import Piece
from proxy.cache import writeback
from proxy.cache.writeback import SyncBy
from proxy.errors import OriginUnavailable
from proxy.gateway.body import HOLD_BACK_BYTES, PIECE_BYTES_MAX
from proxy.objects import SumKind
from proxy.ranges import ByteRange
from tests.gateway.engine import BLOCK_BYTES, Engine, ObjectOrigin, piece_bytes

CONTENT = os.urandom(4 * BLOCK_BYTES)


class Losing:
    """A worker whose disk has stored nothing yet, and may lose it."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.origin = ObjectOrigin()
        self.record = self.origin.put("k", CONTENT)
        self.engine = self.worker("w0")
        self.lost = False
        monkeypatch.setattr(writeback, "failure", self._failure)

    def worker(self, writer_id: str) -> Engine:
        tables = self.engine.tables if writer_id != "w0" else None
        engine = Engine(self.path, self.origin, tables=tables, writer_id=writer_id, segment_bytes=len(CONTENT))
        disk = engine.store.disks[0]
        disk.syncer.by = SyncBy.RANGE
        disk.syncer.add = lambda segment, local_index: segment.unstored.add(local_index)  # type: ignore[method-assign]
        return engine

    def _failure(self, fd: int) -> OSError | None:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) if self.lost else None

    def zero(self, start: int, length: int) -> None:
        """These bytes of the first data file leave memory, unstored."""
        (path,) = self.path.glob("v1/objects/*/*.data")
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(length))


@pytest.fixture
async def losing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Losing]:
    made = Losing(tmp_path, monkeypatch)
    yield made
    await made.engine.aclose()


async def take(body: Any, length: int) -> bytes:
    got = bytearray()
    while len(got) < length:
        got += piece_bytes(await anext(body))
    return bytes(got)


async def rest_of(body: Any) -> bytes:
    return b"".join([piece_bytes(piece) async for piece in body])


async def test_a_written_object_is_read_from_memory_and_its_last_bytes_are_copied(losing: Losing) -> None:
    assert await losing.engine.get("k") == CONTENT
    answer = await losing.engine.read("k")
    assert answer.cache.value == "HIT"
    pieces = [piece async for piece in answer.body]  # type: ignore[union-attr]
    assert b"".join(map(piece_bytes, pieces)) == CONTENT
    assert isinstance(pieces[-1], bytes)
    assert len(pieces[-1]) == HOLD_BACK_BYTES
    assert all(isinstance(piece, Piece) for piece in pieces[:-1])
    assert len(losing.origin.reads) == len(CONTENT) // BLOCK_BYTES


async def test_what_the_disk_has_is_sent_from_the_file_to_its_end(losing: Losing) -> None:
    losing.engine.store.disks[0].syncer.by = SyncBy.NOTHING
    assert await losing.engine.get("k") == CONTENT
    answer = await losing.engine.read("k")
    assert all([isinstance(piece, Piece) async for piece in answer.body])  # type: ignore[union-attr]


async def test_a_read_that_begins_after_a_loss_has_the_origins_bytes(losing: Losing) -> None:
    assert await losing.engine.get("k") == CONTENT
    losing.zero(0, len(CONTENT))
    losing.lost = True
    assert await losing.engine.get("k") == CONTENT
    assert await losing.engine.get("k", 5, 99) == CONTENT[5:100]


async def test_a_body_that_meets_a_loss_goes_on_past_the_cache(losing: Losing) -> None:
    await losing.engine.get("k")
    body = (await losing.engine.read("k")).body
    begun = await take(body, BLOCK_BYTES + 1)
    losing.lost = True
    losing.zero(2 * BLOCK_BYTES, 2 * BLOCK_BYTES)
    assert begun + await rest_of(body) == CONTENT


async def test_a_body_that_may_have_sent_zeros_ends_short(losing: Losing) -> None:
    await losing.engine.get("k")
    body = (await losing.engine.read("k")).body
    begun = await take(body, BLOCK_BYTES + 1)
    losing.lost = True
    losing.zero(0, 1)
    with pytest.raises(OriginUnavailable, match="lost bytes"):
        begun += await rest_of(body)
    assert len(begun) < len(CONTENT)


async def test_zeros_sent_of_the_block_under_way_end_the_body_short(losing: Losing) -> None:
    engine = Engine(losing.path / "large", losing.origin, block_bytes=4 * PIECE_BYTES_MAX)
    engine.store.disks[0].syncer.by = SyncBy.RANGE
    engine.store.disks[0].syncer.add = lambda segment, local_index: segment.unstored.add(local_index)  # type: ignore[method-assign]
    await engine.get("k")
    body = (await engine.read("k")).body
    begun = await take(body, PIECE_BYTES_MAX)
    assert begun == CONTENT[:PIECE_BYTES_MAX]
    (path,) = (losing.path / "large").glob("v1/objects/*/*.data")
    path.write_bytes(bytes(len(CONTENT)))
    losing.lost = True
    with pytest.raises(OriginUnavailable):
        await rest_of(body)
    await engine.aclose()


async def test_a_loss_between_the_last_piece_and_the_end_is_noticed(losing: Losing) -> None:
    await losing.engine.get("k")
    body = (await losing.engine.read("k")).body
    begun = await take(body, len(CONTENT) - HOLD_BACK_BYTES)
    losing.zero(3 * BLOCK_BYTES, BLOCK_BYTES)
    losing.lost = True
    with pytest.raises(OriginUnavailable, match="lost bytes"):
        begun += await rest_of(body)
    assert len(begun) == len(CONTENT) - HOLD_BACK_BYTES


async def test_a_small_read_is_never_zeros(losing: Losing) -> None:
    await losing.engine.get("k")
    answer = await losing.engine.read("k", 100, 199)  # its first piece is there, in memory
    losing.zero(0, BLOCK_BYTES)
    losing.lost = True
    assert await rest_of(answer.body) == CONTENT[100:200]


async def test_another_worker_reads_written_blocks_too_and_hears_of_their_loss(losing: Losing) -> None:
    await losing.engine.get("k")
    other = losing.worker("w1")
    assert await other.get("k") == CONTENT
    assert len(losing.origin.reads) == 4
    losing.lost = True
    losing.zero(0, len(CONTENT))
    assert await other.get("k") == CONTENT
    await other.aclose()


async def test_a_verdict_on_an_object_says_nothing_of_a_segment_that_was_made_after_it(tmp_path: Path) -> None:
    origin = ObjectOrigin()
    record = origin.put("k", CONTENT, sums=(SumKind.CRC32C,))
    first = Engine(tmp_path, origin)
    second = Engine(tmp_path, origin, tables=first.tables, writer_id="w1")
    assert await first.get("k") == CONTENT
    assert not first.verifier.checkable(record)
    second.store.discard(record.version)
    assert await second.get("k") == CONTENT
    await first.supply.coverage(record, ByteRange(0, record.size_bytes))
    assert first.verifier.checkable(record), "what another worker has fetched anew is compared here as well"
    assert await first.get("k") == CONTENT
    assert not first.verifier.checkable(record)
    await first.aclose()
    await second.aclose()
