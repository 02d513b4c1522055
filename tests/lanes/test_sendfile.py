"""FileSender on a bare socket pair."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.blocks import DataFile
from proxy.lanes import sendfile
from proxy.lanes.sendfile import BURST_BYTES, ConnectionGone, FileSender, PieceTooShort
from tests.lanes.serving import open_file

SIZE = 10_000_000
CONTENT = bytes(range(250)) * (SIZE // 250)


@pytest.fixture
def file(tmp_path: Path) -> DataFile:
    (tmp_path / "data").write_bytes(CONTENT)
    return open_file(tmp_path / "data")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def make_sender(ours: socket.socket) -> FileSender:
    return FileSender(asyncio.get_running_loop(), ours.fileno())


async def receive(theirs: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        data = await asyncio.get_running_loop().sock_recv(theirs, 1 << 16)
        if not data:
            break
        received += data
    return bytes(received)


async def test_small_piece_leaves_at_once_without_a_callback(
    file: DataFile, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    sender = make_sender(ours)
    assert sender.start(file, 7, 5000, lambda error: pytest.fail("it has left already"))
    assert not sender.busy
    assert await receive(theirs, 5000) == CONTENT[7:5007]
    sender.close()


async def test_large_piece_parks_and_goes_on(file: DataFile, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sender = make_sender(ours)
    assert SIZE > 2 * BURST_BYTES
    sending = asyncio.create_task(sender.send(file, 0, SIZE))
    assert await receive(theirs, SIZE) == CONTENT
    await sending
    assert not sender.busy
    sender.close()


async def test_burst_ends_though_the_socket_has_room(
    file: DataFile, pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sendfile, "BURST_BYTES", 1000)
    monkeypatch.setattr(sendfile, "STEP_BYTES", 300)
    sender = make_sender(pair[0])
    done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    assert not sender.start(file, 0, 5000, done.set_result)
    assert await done is None
    assert await receive(pair[1], 5000) == CONTENT[:5000]
    sender.close()


async def test_close_fails_the_parked_piece_and_frees_the_descriptor(
    file: DataFile, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    sender = make_sender(ours)
    sending = asyncio.create_task(sender.send(file, 0, SIZE))
    await receive(theirs, 1)
    ours.close()  # the dup keeps the socket open
    sender.close()
    sender.close()
    with pytest.raises(ConnectionGone):
        await sending
    assert len(await receive(theirs, SIZE)) < SIZE  # and now the peer sees the end
    with pytest.raises(ConnectionGone):
        await sender.send(file, 0, 1)


async def test_peer_that_closes_fails_the_parked_piece(
    file: DataFile, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    sender = make_sender(ours)
    sending = asyncio.create_task(sender.send(file, 0, SIZE))
    await receive(theirs, 1)
    theirs.close()
    with pytest.raises(ConnectionGone):
        await sending
    assert not sender.busy
    sender.close()


async def test_cancelled_send_leaves_the_socket_alone(
    file: DataFile, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    sender = make_sender(ours)
    sending = asyncio.create_task(sender.send(file, 0, SIZE))
    await receive(theirs, 1)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert not sender.busy
    sender.close()


async def test_file_shorter_than_its_piece_is_an_error(
    file: DataFile, pair: tuple[socket.socket, socket.socket]
) -> None:
    sender = make_sender(pair[0])
    with pytest.raises(PieceTooShort, match="1 bytes"):
        await sender.send(file, SIZE - 10, 11)
    assert not sender.busy
    sender.close()


class Disk:
    """Pages are missing until `release`d reads bring them."""

    def __init__(self, patch: Callable[[str, Any], None]) -> None:
        self.reads: list[tuple[int, int, int]] = []
        self.begun = threading.Event()
        self.release = threading.Event()
        patch("is_resident", lambda fd, offset, length: False)
        patch("read_ahead", self._read)

    def _read(self, fd: int, offset: int, length: int, ahead_bytes: int) -> None:
        self.reads.append((offset, length, ahead_bytes))
        self.begun.set()
        assert self.release.wait(20)
        os.fstat(fd)  # still open


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(lambda name, value: monkeypatch.setattr(sendfile, name, value))
    yield disk
    disk.release.set()


async def test_missing_pages_are_read_step_by_step(
    file: DataFile, pair: tuple[socket.socket, socket.socket], disk: Disk
) -> None:
    disk.release.set()
    sender = make_sender(pair[0])
    count = 100_000
    await sender.send(file, 100, count)
    assert await receive(pair[1], count) == CONTENT[100 : 100 + count]
    assert disk.reads == [(100, count, count)]
    sender.close()


async def test_pieces_in_order_have_the_disk_asked_for_the_next_one_in_a_thread(
    file: DataFile, pair: tuple[socket.socket, socket.socket], disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[range, int]] = []

    def ask(fd: int, offset: int, length: int) -> bool:
        asked.append((range(offset, offset + length), threading.get_ident()))
        return False

    count = 4096
    monkeypatch.setattr(sendfile, "ask", ask)
    monkeypatch.setattr(sendfile, "is_resident", lambda fd, offset, length: offset >= 2 * count)
    disk.release.set()
    sender = make_sender(pair[0])
    for number in range(6):  # the pages of the first two are missing, those of the others have come meanwhile
        await sender.send(file, number * count, count)
    assert await receive(pair[1], 6 * count) == CONTENT[: 6 * count]
    await asyncio.get_running_loop().shutdown_default_executor()
    assert [(offset, length) for offset, length, _ in disk.reads] == [(0, count), (count, count)]
    assert threading.get_ident() not in {thread for _, thread in asked}
    assert max(span.stop for span, _ in asked) > 6 * count, "beyond what has been asked of us"
    sender.close()


async def test_piece_that_ends_while_its_pages_are_read_keeps_the_file_open(
    pair: tuple[socket.socket, socket.socket], disk: Disk, file: DataFile
) -> None:
    sender = make_sender(pair[0])
    sending = asyncio.create_task(sender.send(DataFile(os.dup(file.fd)), 0, 1000))
    await asyncio.to_thread(disk.begun.wait, 20)
    sender.close()
    with pytest.raises(ConnectionGone):
        await sending
    del sending
    disk.release.set()
    pair[0].close()
    assert await receive(pair[1], 1) == b""
