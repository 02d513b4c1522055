"""Gzip is unpacked as it leaves: pieces and bytes, several members, and what only claims to be gzip."""

from __future__ import annotations

import gzip
import os
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.blocks import DataFile, Piece
from proxy.errors import OriginUnavailable
from proxy.lanes import gunzip
from proxy.lanes.gunzip import unpacked

TEXT = b"a line that packs well\n" * 40_000
NOISE = random.Random(2).randbytes(300_000)
STEPS = 3000  # or a little more, each a visit to a thread


async def stream(*items: Piece | bytes) -> AsyncIterator[Piece | bytes]:
    for item in items:
        yield item


async def unpack(*items: Piece | bytes) -> bytes:
    return b"".join([data async for data in unpacked(stream(*items))])


@pytest.mark.parametrize("data", [b"", b"x", TEXT, NOISE], ids=["empty", "one", "text", "noise"])
@pytest.mark.parametrize("step", [1, 7, 4096, 1 << 20])
async def test_bytes_in_steps_of_any_length_are_unpacked(data: bytes, step: int) -> None:
    packed = gzip.compress(data)
    if len(packed) > STEPS * step:
        data = data[: STEPS * step]
        packed = gzip.compress(data)
    steps = [packed[i : i + step] for i in range(0, len(packed), step)]
    assert await unpack(*steps) == data


async def test_pieces_of_a_file_are_unpacked(tmp_path: Path) -> None:
    packed = gzip.compress(NOISE)
    (tmp_path / "f").write_bytes(b"junk" + packed)
    file = DataFile(os.open(tmp_path / "f", os.O_RDONLY))
    half = len(packed) // 2
    pieces = Piece(file, 4, half), Piece(file, 4 + half, len(packed) - half)
    assert await unpack(*pieces) == NOISE


async def test_a_piece_whose_file_is_too_short_breaks_off() -> None:
    with tempfile.TemporaryFile() as short:
        short.write(gzip.compress(TEXT)[:50])
        short.flush()
        file = DataFile(os.dup(short.fileno()))
        with pytest.raises(OSError, match="ends"):
            await unpack(Piece(file, 0, 100))


async def test_several_members_and_padding_are_one_body() -> None:
    packed = gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 700
    assert await unpack(packed) == b"one two"
    assert await unpack(*(packed[i : i + 1] for i in range(len(packed)))) == b"one two"


@pytest.mark.parametrize("data", [b"", b"p", b"plain text", b"\x1f"])
async def test_what_does_not_begin_like_gzip_goes_out_as_it_is(data: bytes) -> None:
    assert await unpack(data[:1], data[1:]) == data


async def test_broken_or_short_gzip_breaks_off() -> None:
    packed = gzip.compress(NOISE)
    with pytest.raises(OriginUnavailable, match="short"):
        await unpack(packed[:-20])
    with pytest.raises(OriginUnavailable, match="broken"):
        await unpack(packed[:1000] + b"\xff" * 1000 + packed[2000:])


async def test_what_unpacks_to_much_comes_in_bounded_steps() -> None:
    packed = gzip.compress(bytes(20 << 20))
    sizes = [len(data) async for data in unpacked(stream(packed))]
    assert sum(sizes) == 20 << 20
    assert max(sizes) <= gunzip.OUT_BYTES


async def test_the_body_is_closed_when_nobody_reads_on() -> None:
    closed = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal closed
        try:
            while True:
                yield gzip.compress(b"x")
        finally:
            closed = True

    reading = unpacked(body())
    assert await anext(reading) == b"x"
    await reading.aclose()
    assert closed
