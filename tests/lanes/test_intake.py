"""What one connection may make the server take in: trailers, pipelined requests, upgrades, a half-closed side."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from proxy.blocks import Piece
from proxy.lanes.asgi import PiecesResponse, Receive, Scope, Send
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from tests.lanes.ranges import Ranges, ask, serve
from tests.lanes.serving import CONTENT, DEADLINE_S, HOST, OK, SIZE, Echo, Serving, open_file, pieces, whole
from tests.waiting import wait_until

LIMITS = Limits(head_bytes=8 << 10)
PUT = b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
SMALLEST = b"GET / HTTP/1.1\r\nHost:a\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\n" + HOST + b"\r\n"


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def serving(loop: str, echo: Echo) -> Iterator[Serving]:
    with Serving(echo, loop, limits=LIMITS) as serving:
        yield serving


def connection(serving: Serving) -> ExpressProtocol:
    wait_until(lambda: serving.server.server_state.connections)
    [only] = serving.server.server_state.connections
    return cast(ExpressProtocol, only)


# Trailers


@pytest.mark.parametrize("line", [b"y" * 1000, b"x: y\r\n" * 150], ids=["one line", "many lines"])
def test_endless_trailers_are_refused(serving: Serving, echo: Echo, line: bytes) -> None:
    with serving.connect() as client:
        client.send(PUT + b"3\r\nabc\r\n0\r\nX: ")
        for _ in range(50):
            client.send(line)
        assert client.read_response()[0] == 431
        assert client.read_to_end() == b""
    assert echo.bodies == []


def test_endless_lines_of_a_chunk_are_refused(serving: Serving) -> None:
    with serving.connect() as client:
        client.send(PUT + b"3;x=")
        for _ in range(50):
            client.send(b"y" * 1000)
        assert client.read_response()[0] == 431


def test_endless_trailers_of_an_answered_request_end_its_connection(serving: Serving) -> None:
    with serving.connect() as client:
        client.send(b"PUT /unread HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ")
        assert client.read_response()[0] == 200
        for _ in range(50):
            client.send(b"y" * 1000)
        assert client.read_to_end() == b""


def test_trailers_within_the_limit_are_dropped_in_one_segment_or_many(serving: Serving, echo: Echo) -> None:
    request = PUT + b"3\r\nabc\r\n0\r\n" + b"x-trailer: some value\r\n" * 300 + b"\r\n"
    for step in (len(request), 700):
        with serving.connect() as client:
            for start in range(0, len(request), step):
                client.send(request[start : start + step])
            client.send(OK)
            assert client.read_response()[2] == b"abc"
            assert client.read_response()[0] == 200


def test_trailers_that_take_too_long_are_given_up(echo: Echo, loop: str) -> None:
    with (
        Serving(echo, loop, limits=Limits(head_timeout_s=0.2)) as serving,
        serving.connect() as client,
    ):
        client.send(PUT + b"3\r\nabc\r\n0\r\nX: y")
        wait_until(lambda: connection(serving)._segment_bytes)
        client.send(b"y")
        assert client.read_response()[0] == 408
        assert client.read_to_end() == b""


def test_a_body_that_comes_in_small_chunks_is_no_trailer(serving: Serving, echo: Echo) -> None:
    with serving.connect() as client:
        client.send(PUT + b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n")
        assert client.read_response()[2] == b"a" * 20_000


# Pipelined requests


def test_pipelined_requests_wait_outside_when_many_wait_already(serving: Serving, echo: Echo) -> None:
    count = 60_000
    with serving.connect() as client:
        client.send(HELD)
        wait_until(lambda: echo.scopes)
        sender = threading.Thread(target=client.send, args=(SMALLEST * count,))
        sender.start()
        wait_until(lambda: len(connection(serving).pipeline) >= LIMITS.pipelined_requests)
        queued = len(connection(serving).pipeline)
        assert queued <= LIMITS.pipelined_requests + 8192 // len(SMALLEST) + 1
        echo.release.set()
        assert [client.read_response()[0] for _ in range(2000)] == [200] * 2000
        assert len(connection(serving).pipeline) <= LIMITS.pipelined_requests + 8192 // len(SMALLEST) + 1
        client.sock.shutdown(socket.SHUT_RDWR)
        sender.join(DEADLINE_S)


def test_all_pipelined_requests_are_answered_in_their_order(loop: str) -> None:
    async def name(scope: Scope, receive: Receive, send: Send) -> None:
        await PiecesResponse(200, [], pieces(scope["raw_path"]), len(scope["raw_path"]))(scope, receive, send)

    targets = [b"/%d" % number for number in range(3000)]
    requests = b"".join(b"GET %s HTTP/1.1\r\nHost:a\r\n\r\n" % target for target in targets)
    with Serving(name, loop) as serving, serving.connect() as client:
        sender = threading.Thread(target=client.send, args=(requests,))
        sender.start()
        assert [client.read_response()[2] for _ in targets] == targets
        sender.join(DEADLINE_S)


def test_a_body_behind_many_pipelined_requests_arrives_whole(serving: Serving, echo: Echo) -> None:
    body = bytes(range(256)) * 2000
    put = b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body)
    with serving.connect() as client:
        sender = threading.Thread(target=client.send, args=(OK * 500 + put + body + OK,))
        sender.start()
        answers = [client.read_response() for _ in range(502)]
        sender.join(DEADLINE_S)
    assert answers[500][2] == body
    assert {status for status, _, _ in answers} == {200}


# Requests to upgrade


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_requests_behind_one_to_upgrade_are_answered_in_their_order(serving: Serving, protocol: str) -> None:
    upgrade = f"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode()
    put = b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\n"
    with serving.connect() as client:
        client.send(upgrade + put + b"two" + upgrade + upgrade + put + b"fi")
        client.send(b"v" + OK)
        assert [client.read_response()[2] for _ in range(6)] == [b"", b"two", b"", b"", b"fiv", b""]


# A side that has ended


@pytest.mark.parametrize("behind", [b"", OK])
def test_client_that_half_closes_gets_its_whole_answer(serving: Serving, echo: Echo, behind: bytes) -> None:
    with serving.connect() as client:
        client.send(HELD + behind)
        client.sock.shutdown(socket.SHUT_WR)
        wait_until(lambda: connection(serving)._half_closed)
        echo.release.set()
        assert client.read_response()[0] == 200
        if behind:
            assert client.read_response()[0] == 200
        assert client.read_to_end() == b""


@pytest.mark.parametrize("lane", ["hot", "application"])
def test_client_that_half_closes_gets_a_large_body_to_its_end(data: Path, loop: str, lane: str) -> None:
    answering = serve(Ranges(data), loop) if lane == "hot" else Serving(whole(data), loop)
    with answering as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.send(ask(f"/0-{SIZE}"))
        client.sock.shutdown(socket.SHUT_WR)
        client.read_head()
        assert client.read_to_end() == CONTENT


def test_client_that_ends_its_side_long_after_its_request_has_given_up(echo: Echo, loop: str) -> None:
    with (
        Serving(echo, loop, limits=Limits(half_close_s=0)) as serving,
        serving.connect() as client,
    ):
        client.send(HELD)
        wait_until(lambda: echo.scopes)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.read_to_end() == b""
        echo.release.set()


def test_clients_that_go_away_are_no_errors(data: Path, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    app = whole(data)
    with Serving(app, loop) as serving:
        for count in range(1, 6):
            client = serving.connect(rcvbuf_bytes=16 << 10)
            client.get()
            client.read_head()
            client.reset()
            wait_until(lambda: app.closed == count)  # noqa: B023 - called before `count` moves on
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_body_that_breaks_off_is_an_error_still(data: Path, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PiecesResponse(200, [], pieces(Piece(open_file(data), 0, 10), ValueError("broken")), 20)(
            scope, receive, send
        )

    with Serving(app, loop) as serving, serving.connect() as client:
        client.get()
        client.read_head()
        assert client.read_to_end() == CONTENT[:10]
    assert any(record.levelno >= logging.ERROR for record in caplog.records)
