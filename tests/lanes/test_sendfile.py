"""FileSender on a bare socket pair, and the watch over stalled clients with a clock of its own."""

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
from proxy.lanes.sendfile import BURST_BYTES, ClientGone, FileSender, PieceTooShort
from proxy.lanes.stall import StallWatch, unacknowledged_bytes
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


def make_sender(ours: socket.socket, timeout_s: float = 60) -> FileSender:
    loop = asyncio.get_running_loop()
    stall = StallWatch(loop, timeout_s, lambda: 0, lambda: None)
    return FileSender(loop, ours.fileno(), stall)


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
    assert unacknowledged_bytes(pair[0].fileno()) > 0
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
    with pytest.raises(ClientGone):
        await sending
    assert len(await receive(theirs, SIZE)) < SIZE  # and now the peer sees the end
    with pytest.raises(ClientGone):
        await sender.send(file, 0, 1)


async def test_peer_that_closes_fails_the_parked_piece(
    file: DataFile, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    sender = make_sender(ours)
    sending = asyncio.create_task(sender.send(file, 0, SIZE))
    await receive(theirs, 1)
    theirs.close()
    with pytest.raises(ClientGone):
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


async def test_piece_that_ends_while_its_pages_are_read_keeps_the_file_open(
    pair: tuple[socket.socket, socket.socket], disk: Disk, file: DataFile
) -> None:
    sender = make_sender(pair[0])
    sending = asyncio.create_task(sender.send(DataFile(os.dup(file.fd)), 0, 1000))
    await asyncio.to_thread(disk.begun.wait, 20)
    sender.close()
    with pytest.raises(ClientGone):
        await sending
    del sending
    disk.release.set()
    pair[0].close()
    assert await receive(pair[1], 1) == b""


class Clock:
    """Stands in for a loop: time moves when told."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Clock.Timer:
        entry = (self.now_s + delay_s, callback)
        self.timers.append(entry)
        return Clock.Timer(self, entry)

    def move(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while due := [entry for entry in self.timers if entry[0] <= until_s]:
            entry = min(due, key=lambda entry: entry[0])
            self.timers.remove(entry)
            self.now_s = entry[0]
            entry[1]()
        self.now_s = until_s

    class Timer:
        def __init__(self, clock: Clock, entry: tuple[float, Callable[[], None]]) -> None:
            self._clock, self._entry = clock, entry

        def cancel(self) -> None:
            if self._entry in self._clock.timers:
                self._clock.timers.remove(self._entry)


class Watched:
    def __init__(self) -> None:
        self.clock = Clock()
        self.outstanding = 1_000_000
        self.expired = 0
        self.watch = StallWatch(self.clock, 60, lambda: self.outstanding, self._expire)  # type: ignore[arg-type]

    def _expire(self) -> None:
        self.expired += 1


def test_client_that_takes_nothing_expires_once() -> None:
    watched = Watched()
    watched.watch.begin()
    watched.clock.move(59)
    assert watched.expired == 0
    watched.clock.move(1000)
    assert watched.expired == 1
    assert watched.clock.timers == []


def test_slow_reader_that_takes_a_little_never_expires() -> None:
    watched = Watched()
    watched.watch.begin()
    for _ in range(100):
        watched.clock.move(50)
        watched.outstanding -= 1
    assert watched.expired == 0
    watched.clock.move(100)
    assert watched.expired == 1


def test_sending_counts_as_progress_though_more_is_outstanding() -> None:
    watched = Watched()
    watched.watch.begin()
    for _ in range(10):
        watched.clock.move(50)
        watched.outstanding += 1000
        watched.watch.progress()
    assert watched.expired == 0


def test_watch_ends_and_begins_afresh() -> None:
    watched = Watched()
    watched.watch.begin()
    watched.clock.move(50)
    watched.watch.begin()
    watched.watch.end()
    watched.watch.end()
    watched.clock.move(1000)
    watched.watch.begin()
    watched.clock.move(59)
    assert watched.expired == 0


def test_unacknowledged_bytes_fall_as_the_peer_takes_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            accepted.setblocking(False)
            sent = 0
            try:
                while True:
                    sent += accepted.send(bytes(1 << 20))
            except BlockingIOError:
                pass
            held = unacknowledged_bytes(accepted.fileno())
            assert 0 < held <= sent
            received = 0
            while received < sent:
                received += len(client.recv(1 << 20))
            assert unacknowledged_bytes(accepted.fileno()) < held


def test_what_is_no_socket_holds_nothing(file: DataFile) -> None:
    assert unacknowledged_bytes(file.fd) == 0
