"""ChunkSender's buffer, and its steps on a transport that a test plays."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.blocks import Piece
from proxy.lanes import chunksend
from proxy.lanes.chunksend import ChunkSender, ReusedBuffer
from proxy.lanes.sendfile import ConnectionGone, PieceTooShort
from tests.lanes.serving import CONTENT, SIZE, open_file


class Played(asyncio.Transport):
    """Takes bytes and says "full" after each `room` of them. Keeps the very objects, as OpenSSL may make it."""

    def __init__(self, room: int, *, keeps: bool = False) -> None:
        super().__init__()
        self.sender: ChunkSender
        self._room = room
        self._taken = 0
        self._keeps = keeps
        self._closing = False
        self.kept: list[Any] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.kept.append(data if self._keeps else bytes(data))
        self._taken += len(data)
        if self._taken >= self._room:
            self._taken = 0
            self.sender.pause()
            asyncio.get_running_loop().call_soon(self.sender.resume)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True


def make(room: int, *, keeps: bool = False) -> tuple[Played, ChunkSender]:
    transport = Played(room, keeps=keeps)
    transport.sender = ChunkSender(asyncio.get_running_loop(), transport)
    return transport, transport.sender


def test_buffer_is_used_again_unless_somebody_keeps_a_part_of_it() -> None:
    buffer = ReusedBuffer(100)
    view = buffer.lend(10)
    view[:] = b"0123456789"
    buffer.take_back(view)
    view = buffer.lend(10)
    assert bytes(view) == b"0123456789"
    kept = view[2:4]
    buffer.take_back(view)
    again = buffer.lend(100)
    again[:] = bytes(100)
    assert bytes(kept) == b"23"


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("room", [1, 100_000, 700_000, 1 << 40])
async def test_pieces_leave_whole_whatever_room_there_is(data: Path, room: int, keeps: bool) -> None:
    transport, sender = make(room, keeps=keeps)
    file = open_file(data)
    done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    pieces = (Piece(file, 5, SIZE - 5), Piece(file, 0, 5), Piece(file, 7, 300_000))
    if not sender.start_answer(b"head", pieces, done.set_result):
        assert await done is None
    assert b"".join(transport.kept) == b"head" + CONTENT[5:] + CONTENT[:5] + CONTENT[7:300_007]


async def test_burst_ends_though_there_is_room(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.lanes.sendfile.BURST_BYTES", 1 << 20)
    transport, sender = make(1 << 40)
    done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    assert not sender.start(open_file(data), 0, SIZE, done.set_result)
    assert sum(map(len, transport.kept)) < SIZE
    assert await done is None


async def test_close_ends_the_piece_that_waits(data: Path) -> None:
    _, sender = make(1)
    sending = asyncio.create_task(sender.send(open_file(data), 0, SIZE))
    await asyncio.sleep(0)
    sender.close()
    with pytest.raises(ConnectionGone):
        await sending
    sender.resume()
    with pytest.raises(ConnectionGone):
        await sender.send(open_file(data), 0, 1)


async def test_closing_transport_is_a_client_that_went(data: Path) -> None:
    transport, sender = make(1 << 40)
    transport.close()
    with pytest.raises(ConnectionGone):
        await sender.send(open_file(data), 0, 10)
    with pytest.raises(ConnectionGone):
        sender.write(b"head", memoryview(b""))


async def test_file_shorter_than_its_piece_is_an_error(data: Path) -> None:
    _, sender = make(1 << 40)
    with pytest.raises(PieceTooShort):
        await sender.send(open_file(data), SIZE - 10, 11)


def test_chunk_is_no_larger_than_a_step() -> None:
    from proxy.lanes.sendfile import STEP_BYTES

    assert chunksend.CHUNK_BYTES <= STEP_BYTES
