"""Bodies, by the protocol on real sockets, on each event loop."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.blocks import Piece
from proxy.lanes import residency, sendfile
from proxy.lanes.asgi import ZEROCOPY, Receive, Scope, Send
from proxy.lanes.connection import TARGET
from tests.lanes.serving import (
    CONTENT,
    SIZE,
    Bodies,
    Client,
    Serving,
    open_file,
    pieces,
    whole,
)
from tests.waiting import wait_until


def test_body_larger_than_all_buffers_reaches_a_slow_reader_whole(parked: tuple[Serving, Bodies, Client]) -> None:
    _, app, client = parked
    assert client.read_bytes(SIZE) == CONTENT
    wait_until(lambda: app.closed == 1)


def test_pieces_and_bytes_arrive_in_order_on_one_connection(data: Path, loop: str) -> None:
    def make(scope: Scope) -> Any:
        file = open_file(data)
        items = (Piece(file, 7, 900_000), b"between", Piece(file, SIZE - 5, 5), Piece(file, 0, 100_000), b"end")
        return pieces(*items), 900_000 + 7 + 5 + 100_000 + 3

    with Serving(Bodies(make), loop) as serving, serving.connect() as client:
        for _ in range(3):
            client.get()
            _, _, body = client.read_response()
            assert body == CONTENT[7:900_007] + b"between" + CONTENT[-5:] + CONTENT[:100_000] + b"end"


def test_pipelined_requests_are_answered_in_order(data: Path, loop: str) -> None:
    def make(scope: Scope) -> Any:
        start = int(scope["path"][1:])
        return pieces(Piece(open_file(data), start, 700_000)), 700_000

    with Serving(Bodies(make), loop) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % start for start in (0, 5, 90_000, 1)))
        for start in (0, 5, 90_000, 1):
            assert client.read_response()[2] == CONTENT[start : start + 700_000]


def test_head_request_sends_the_length_and_keeps_the_connection(data: Path, loop: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        file = open_file(data)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": ZEROCOPY, "file": file, "offset": 0, "count": 10, "more_body": False})

    with Serving(app, loop) as serving, serving.connect() as client:
        client.get(method="HEAD")
        assert client.read_response(head_only=True)[1]["content-length"] == "10"
        client.get()
        assert client.read_response()[2] == CONTENT[:10]


def test_more_than_declared_is_never_sent(data: Path, loop: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        file = open_file(data)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": ZEROCOPY, "file": file, "offset": 0, "count": 60, "more_body": True})
        await send({"type": ZEROCOPY, "file": file, "offset": 60, "count": 41, "more_body": False})

    with Serving(app, loop) as serving, serving.connect() as client:
        client.get()
        client.read_head()
        assert client.read_to_end() == CONTENT[:60]


def test_connection_without_a_descriptor_to_spare_sends_chunks(
    data: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int) -> int:
        raise OSError(24, "Too many open files")

    app = whole(data)
    with Serving(app, loop) as serving, monkeypatch.context() as patch:
        patch.setattr("proxy.lanes.sendfile.os.dup", refuse)
        with serving.connect() as client:
            client.get()
            assert client.read_response()[2] == CONTENT
    assert ZEROCOPY not in app.scopes[0]["extensions"]


def test_missing_pages_are_read_in_a_thread(data: Path, loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()

    def noted(fd: int, offset: int, length: int, ahead_bytes: int) -> None:
        threads.add(threading.get_ident())
        residency.read_ahead(fd, offset, length, ahead_bytes)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        threads.clear()
        await whole(data)(scope, receive, send)
        assert threads
        assert threading.get_ident() not in threads

    monkeypatch.setattr(sendfile, "is_resident", lambda fd, offset, length: False)
    monkeypatch.setattr(sendfile, "read_ahead", noted)
    with Serving(app, loop) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.get("/", "Connection: close")
        client.read_head()
        assert client.read_to_end() == CONTENT


def test_file_message_out_of_turn_is_refused(data: Path, loop: str) -> None:
    errors: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = {"type": ZEROCOPY, "file": open_file(data), "offset": 0, "count": 10}
        start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]}
        for step in (message, start, message, message):
            try:
                await send(step)
            except RuntimeError as error:
                errors.append(str(error))

    with Serving(app, loop) as serving, serving.connect() as client:
        client.get("/", "Connection: close")
        assert client.read_response()[2] == CONTENT[:10]
    assert len(errors) == 2


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query", "authority"),
    [
        (b"/b/%C3%BC%2F+?x=%20&y", "/b/\u00fc/+", b"/b/%C3%BC%2F+", b"x=%20&y", None),
        (b"//b//../k?a?b", "//b//../k", b"//b//../k", b"a?b", None),
        (b"http://h:1/b//k?q", "/b//k", b"/b//k", b"q", b"h:1"),
        (b"http://h/%zz%ff", "/%zz\ufffd", b"/%zz%ff", b"", b"h"),
        (b"/b/[a]{b}|#c", "/b/[a]{b}|#c", b"/b/[a]{b}|#c", b"", None),
    ],
)
def test_target_is_passed_on_as_it_was_received(
    loop: str, target: bytes, path: str, raw_path: bytes, query: bytes, authority: bytes | None
) -> None:
    app = Bodies(lambda scope: (None, 0))
    with Serving(app, loop) as serving, serving.connect() as client:
        client.send(b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response()[0] == 200
    [scope] = app.scopes
    assert scope["extensions"][TARGET] == {"raw": target, "authority": authority}
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (path, raw_path, query)


def test_many_clients_of_a_usual_library_get_their_ranges(data: Path, loop: str) -> None:
    def make(scope: Scope) -> Any:
        start, end = map(int, scope["query_string"].decode().split("-"))
        return pieces(Piece(open_file(data), start, end - start)), end - start

    async def ask(client: httpx.AsyncClient, url: str, start: int, end: int) -> None:
        response = await client.get(f"{url}?{start}-{end}")
        assert response.content == CONTENT[start:end]

    async def ask_many(url: str) -> None:
        chance = random.Random(1)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client, asyncio.TaskGroup() as tasks:
            for _ in range(60):
                start, end = sorted(chance.sample(range(SIZE), 2))
                tasks.create_task(ask(client, url, start, end))

    with Serving(Bodies(make), loop) as serving:
        asyncio.run(ask_many(f"http://127.0.0.1:{serving.port}/"))
