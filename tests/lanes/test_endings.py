"""How responses end before their time, and connections in good order."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import pytest

from proxy.blocks import Piece
from proxy.lanes import sendfile
from proxy.lanes.asgi import ZEROCOPY, Receive, Scope, Send
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from tests.lanes.serving import (
    CONTENT,
    SIZE,
    Bodies,
    Client,
    Serving,
    open_descriptors,
    open_file,
    pieces,
    spans,
    whole,
)
from tests.waiting import wait_until


def test_bare_descriptor_goes_from_its_position_to_its_end_in_chunks(data: Path, loop: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        fd = os.open(data, os.O_RDONLY)
        try:
            os.lseek(fd, SIZE - 1000, os.SEEK_SET)
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await send({"type": ZEROCOPY, "file": fd})
        finally:
            os.close(fd)

    with Serving(app, loop) as serving, serving.connect() as client:
        client.get("/", "Connection: close")
        assert client.read_head()[1]["transfer-encoding"] == "chunked"
        assert client.read_to_end() == b"5\r\nfirst\r\n3e8\r\n" + CONTENT[-1000:] + b"\r\n0\r\n\r\n"


def test_less_than_declared_closes_the_connection(data: Path, loop: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": ZEROCOPY, "file": open_file(data), "offset": 0, "count": 60, "more_body": False})

    with Serving(app, loop) as serving, serving.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        client.read_head()
        assert client.read_to_end() == CONTENT[:60]


def test_file_shorter_than_its_piece_closes_the_connection_short(data: Path, loop: str) -> None:
    app = spans(data, (SIZE - 200_000, SIZE + 1))
    with Serving(app, loop) as serving, serving.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        client.read_head()
        assert client.read_to_end() == CONTENT[-200_000:]
    assert (app.started, app.closed) == (1, 1)


def test_file_truncated_under_way_closes_the_connection_short(
    data: Path, parked: tuple[Serving, Bodies, Client]
) -> None:
    _, app, client = parked
    os.truncate(data, SIZE - 1)
    assert client.read_to_end() == CONTENT[:-1]
    wait_until(lambda: app.closed == 1)


@pytest.mark.parametrize("lane", ["zerocopy", "chunks"])
def test_failure_in_mid_body_closes_the_connection_short(data: Path, loop: str, lane: str) -> None:
    def make(scope: Scope) -> Any:
        if lane == "chunks":
            del scope["extensions"][ZEROCOPY]
        return pieces(Piece(open_file(data), 0, 400_000), ValueError("broken")), 400_001

    app = Bodies(make)
    with Serving(app, loop) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        client.read_head()
        assert client.read_to_end() == CONTENT[:400_000]
    assert (app.started, app.closed) == (1, 1)


@pytest.mark.parametrize("pipelined", [1, 2])
@pytest.mark.parametrize("manner", ["close", "reset"])
def test_client_that_goes_in_mid_body_leaves_nothing_behind(data: Path, loop: str, manner: str, pipelined: int) -> None:
    app = whole(data)
    with Serving(app, loop) as serving:
        gc.collect()  # what earlier tests left
        before = open_descriptors()
        for count in range(1, 4):
            client = serving.connect(rcvbuf_bytes=16 << 10)
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * pipelined)
            client.read_head()
            if manner == "close":
                client.sock.close()
            else:
                client.reset()
            wait_until(lambda: app.closed == count)  # noqa: B023 - called before `count` moves on
        wait_until(lambda: open_descriptors() <= before)
        assert app.started == 3


@pytest.mark.parametrize("lane", ["zerocopy", "chunks"])
def test_client_that_goes_while_the_body_waits_ends_the_read(data: Path, loop: str, lane: str) -> None:
    async def slow(piece: Piece) -> Any:
        yield piece
        await asyncio.Event().wait()

    def make(scope: Scope) -> Any:
        if lane == "chunks":
            del scope["extensions"][ZEROCOPY]
        return slow(Piece(open_file(data), 0, 10)), SIZE

    app = Bodies(make)
    with Serving(app, loop, limits=Limits(half_close_s=0)) as serving, serving.connect() as client:
        client.get()
        client.read_head()
        assert client.read_bytes(10) == CONTENT[:10]
        client.sock.close()
        wait_until(lambda: app.closed == 1)


def test_reader_that_takes_nothing_is_given_up(data: Path, loop: str) -> None:
    app = whole(data)
    limits = Limits(send_timeout_s=0.2)
    with Serving(app, loop, limits=limits) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.get()
        client.read_head()
        wait_until(lambda: app.closed == 1)
        assert len(client.read_to_end()) < SIZE


def test_reader_that_takes_nothing_of_a_chunked_body_is_given_up(loop: str) -> None:
    app = Bodies(lambda scope: (pieces(*[bytes(100_000)] * 100), 10_000_000))
    limits = Limits(send_timeout_s=0.2)
    with Serving(app, loop, limits=limits) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.get()
        client.read_head()
        wait_until(lambda: app.closed == 1)
        assert len(client.read_to_end()) < 10_000_000


def test_connection_ends_with_the_response_that_says_so(data: Path, loop: str) -> None:
    with Serving(whole(data), loop) as serving, serving.connect() as client:
        client.get("/", "Connection: close")
        assert client.read_head()[1]["connection"] == "close"
        assert client.read_to_end() == CONTENT


def test_idle_connection_is_closed_at_the_end_of_keep_alive(data: Path, loop: str) -> None:
    class Hasty(ExpressProtocol):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.timeout_keep_alive = 0

    with Serving(whole(data), loop, http=Hasty) as serving, serving.connect() as client:
        client.get()
        assert client.read_response()[2] == CONTENT
        assert client.read_to_end() == b""


def test_termination_drains_the_parked_body_and_closes(parked: tuple[Serving, Bodies, Client]) -> None:
    serving, app, client = parked
    with serving.connect() as idle:
        idle.get("/", "Connection: keep-alive", method="HEAD")
        idle.read_response(head_only=True)
        serving.terminate()
        assert idle.read_to_end() == b""
    assert client.read_to_end() == CONTENT
    wait_until(lambda: serving.ended)
    assert app.closed == app.started == 1


def test_termination_answers_what_is_pipelined_already(data: Path, loop: str) -> None:
    with Serving(whole(data), loop) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        client.read_head()
        serving.terminate()
        assert client.read_bytes(SIZE) == CONTENT
        assert client.read_response()[2] == CONTENT
        assert client.read_to_end() == b""


def test_disk_error_while_pages_are_read_closes_the_connection_short(
    data: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int, offset: int, length: int, ahead_bytes: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sendfile, "is_resident", lambda fd, offset, length: offset + length <= 1 << 20)
    monkeypatch.setattr(sendfile, "read_ahead", broken)
    app = whole(data)
    with Serving(app, loop) as serving, serving.connect() as client:
        client.get()
        client.read_head()
        received = client.read_to_end()
    assert 0 < len(received) <= 1 << 20
    assert CONTENT.startswith(received)
    assert app.closed == 1


@pytest.mark.parametrize("bad", [b"BREW / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 400_000])
def test_refusal_waits_for_the_body_under_way(parked: tuple[Serving, Bodies, Client], bad: bytes) -> None:
    _, _, client = parked
    client.send(bad)
    assert client.read_bytes(SIZE) == CONTENT
    assert client.read_response()[0] in (400, 431)
    assert client.read_to_end() == b""


def test_client_that_takes_nothing_of_a_closing_connection_is_given_up(loop: str) -> None:
    app = Bodies(lambda scope: (pieces(bytes(10_000_000)), 10_000_000))
    limits = Limits(send_timeout_s=0.2)
    with Serving(app, loop, limits=limits) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.get("/", "Connection: close")
        client.read_head()
        wait_until(lambda: not serving.server.server_state.connections)
