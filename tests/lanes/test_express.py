"""The protocol on real sockets, on each event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.blocks import Piece
from proxy.lanes import residency, sendfile
from proxy.lanes.asgi import ZEROCOPY, Receive, Scope, Send
from proxy.lanes.express import TARGET, ExpressProtocol, Limits
from tests.fakes.certificates import Certificates, make_certificates
from tests.lanes.serving import LOOPS, Bodies, Client, Serving, open_descriptors, open_file, pieces, wait_until

SIZE = 3_000_001
CONTENT = random.Random(3).randbytes(SIZE)


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(CONTENT)
    return path


def whole(data: Path) -> Bodies:
    return Bodies(lambda scope: (pieces(Piece(open_file(data), 0, SIZE)), SIZE))


def spans(data: Path, *bounds: tuple[int, int], declared: int | None = None) -> Bodies:
    """Pieces [start, end) of the file, in a row."""
    total = sum(end - start for start, end in bounds)

    def make(scope: Scope) -> Any:
        file = open_file(data)
        return pieces(*(Piece(file, start, end - start) for start, end in bounds)), declared or total

    return Bodies(make)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def parked(data: Path, loop: str) -> Iterator[tuple[Serving, Bodies, Client]]:
    """A client that has read its head and takes nothing of its body."""
    app = whole(data)
    with Serving(app, loop) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.get()
        client.read_head()
        yield serving, app, client


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
    with Serving(app, loop) as serving, serving.connect() as client:
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


@pytest.mark.parametrize("bad", [b"BREW / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 400_000])
def test_refusal_waits_for_the_body_under_way(parked: tuple[Serving, Bodies, Client], bad: bytes) -> None:
    _, _, client = parked
    client.send(bad)
    assert client.read_bytes(SIZE) == CONTENT
    assert client.read_response()[0] in (400, 431)
    assert client.read_to_end() == b""


def test_bodies_go_as_chunks_under_tls(data: Path, loop: str, certificates: Certificates) -> None:
    app = spans(data, (5, 1_000_000), (0, 5), (SIZE - 1, SIZE))
    tls = (certificates.server_file, certificates.key_file)
    with Serving(app, loop, tls=tls) as serving, serving.connect(tls=True) as client:
        for _ in range(2):
            client.get()
            assert client.read_response()[2] == CONTENT[5:1_000_000] + CONTENT[:5] + CONTENT[-1:]
    assert ZEROCOPY not in app.scopes[0]["extensions"]
    assert app.scopes[0]["extensions"][TARGET]["raw"] == b"/"


def test_tls_client_that_goes_in_mid_body_ends_the_read(data: Path, loop: str, certificates: Certificates) -> None:
    app = Bodies(lambda scope: (pieces(*[Piece(open_file(data), 0, SIZE)] * 1000), SIZE * 1000))
    tls = (certificates.server_file, certificates.key_file)
    with Serving(app, loop, tls=tls) as serving, serving.connect(tls=True) as client:
        client.get()
        client.read_head()
        client.reset()
        wait_until(lambda: app.closed == 1)


def test_tls_body_that_fails_is_cut_short(data: Path, loop: str, certificates: Certificates) -> None:
    app = Bodies(lambda scope: (pieces(Piece(open_file(data), 0, 500_000), ValueError("broken")), 500_001))
    tls = (certificates.server_file, certificates.key_file)
    with Serving(app, loop, tls=tls) as serving, serving.connect(tls=True) as client:
        client.get()
        client.read_head()
        assert client.read_to_end() == CONTENT[:500_000]


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
