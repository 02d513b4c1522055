"""Hot answers, by the protocol on real sockets, on each event loop: order, parking, endings, counters, log lines."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.blocks import DataFile, Piece
from proxy.lanes import express, hot, sendfile
from proxy.lanes.asgi import PiecesResponse, Receive, Scope, Send
from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from proxy.lanes.hot import SMALL_BYTES, Fields, HotAnswer, HotLane, HotLine, render_lines
from proxy.metrics import REQUESTS, SENT_BYTES, flush_tallies, tally
from tests.fakes.certificates import Certificates
from tests.lanes.serving import (
    CONTENT,
    SIZE,
    Client,
    Serving,
    open_descriptors,
    open_file,
    pieces,
    wait_until,
)

BIG = 2_900_000  # parks: the buffers are smaller


class Ranges(HotLane):
    """`/START-END[,START-END...]` is hot: those bytes of the file. Everything else is the application's."""

    def __init__(self, data: Path, log: Callable[[HotLine], None] | None = None) -> None:
        super().__init__(self._answer, on_read_error=self._note_error, log=log)
        self.data = data
        self.asked: list[tuple[bytes, Fields]] = []
        self.read_errors: list[OSError] = []

    def _answer(self, method: bytes, target: bytes, fields: Fields) -> HotAnswer | None:
        self.asked.append((target, fields))
        if b"-" not in target:
            return None
        file = open_file(self.data)
        body = [Piece(file, start, end - start) for start, end in spans(target.rpartition(b"/")[2].decode())]
        length = sum(piece.length for piece in body)
        head = render_lines((("content-length", str(length)), ("x-lane", "hot")))
        assert head is not None
        if method == b"HEAD" or not length:
            return HotAnswer(200, head + b"\r\n", (), 0, tally("Test", 200, "express", "HIT"))
        return HotAnswer(200, head + b"\r\n", body, length, tally("Test", 200, "express", "HIT"))

    def _note_error(self, file: DataFile, error: OSError) -> None:
        assert file.fd >= 0
        self.read_errors.append(error)


def spans(target: str) -> list[tuple[int, int]]:
    return [(int(first), int(end)) for first, end in (span.split("-") for span in target.strip("/").split(","))]


class Application:
    """The same bytes, or for other paths the path."""

    def __init__(self, data: Path) -> None:
        self._data = data

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].encode()
        if b"-" in path:
            file = open_file(self._data)
            body = [Piece(file, start, end - start) for start, end in spans(scope["path"])]
            length = sum(piece.length for piece in body)
            await PiecesResponse(200, [("x-lane", "app")], pieces(*body), length)(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(path))]})
        await send({"type": "http.response.body", "body": path})


def serve(lane: Ranges, loop: str, limits: Limits | None = None, tls: Certificates | None = None) -> Serving:
    files = None if tls is None else (tls.server_file, tls.key_file)
    return Serving(Application(lane.data), loop, http=ExpressProtocol.limited(limits or Limits(), lane), tls=files)


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certificates: Certificates) -> Certificates | None:
    return certificates if request.param == "tls" else None


def ask(*targets: str) -> bytes:
    return b"".join(b"GET %b HTTP/1.1\r\nHost: here\r\n\r\n" % target.encode() for target in targets)


def expect(client: Client, target: str, lane: str | None = "hot") -> None:
    """The next answer is this target's, by that lane."""
    status, headers, body = client.read_response()
    assert status == 200
    if "-" not in target:
        assert body == target.encode()
        return
    assert headers["x-lane"] == lane or lane is None
    assert "date" in headers
    assert body == b"".join(CONTENT[start:end] for start, end in spans(target))


@pytest.mark.parametrize(
    "target",
    [
        "/0-0",
        "/5-6",
        f"/7-{7 + SMALL_BYTES}",
        f"/7-{8 + SMALL_BYTES}",
        "/0-300000",
        f"/0-{SIZE}",
        "/0-10,20-30",
        f"/5-{BIG},0-100,{BIG}-{SIZE}",
    ],
)
def test_body_of_any_size_arrives_whole_and_the_connection_goes_on(
    data: Path, loop: str, target: str, tls: Certificates | None
) -> None:
    lane = Ranges(data)
    with serve(lane, loop, tls=tls) as serving, serving.connect(tls=tls is not None, rcvbuf_bytes=16 << 10) as client:
        for asked in (target, target, "/app", target):
            client.send(ask(asked))
            expect(client, asked)
    assert len(lane.asked) == 4


def test_head_request_sends_no_body_and_keeps_the_connection(data: Path, loop: str) -> None:
    with serve(Ranges(data), loop) as serving, serving.connect() as client:
        client.get("/0-100000", method="HEAD")
        assert client.read_response(head_only=True)[1]["content-length"] == "100000"
        client.send(ask("/3-4"))
        expect(client, "/3-4")


def test_pipelined_requests_of_both_lanes_are_answered_in_order(
    data: Path, loop: str, tls: Certificates | None
) -> None:
    targets = ["/0-10", "/app", "/1-5", f"/0-{BIG}", "/2-3", "/other", f"/9-{BIG}", "/0-0", f"/4-{SIZE}"] * 2
    with (
        serve(Ranges(data), loop, tls=tls) as serving,
        serving.connect(tls=tls is not None, rcvbuf_bytes=16 << 10) as client,
    ):
        client.send(ask(*targets))
        for target in targets:  # what queues is the application's
            expect(client, target, lane=None)


def test_requests_that_come_while_an_answer_is_parked_queue_behind_it(
    data: Path, loop: str, tls: Certificates | None
) -> None:
    lane = Ranges(data)
    with serve(lane, loop, tls=tls) as serving, serving.connect(tls=tls is not None, rcvbuf_bytes=16 << 10) as client:
        client.send(ask(f"/0-{SIZE}"))
        client.read_head()
        for target in ("/1-2", "/app", "/3-5"):
            client.send(ask(target))
        assert client.read_bytes(SIZE) == CONTENT
        for target in ("/1-2", "/app", "/3-5"):
            expect(client, target, "app")
        client.send(ask("/1-2"))
        expect(client, "/1-2")


def test_head_in_many_segments_is_answered_hot(data: Path, loop: str) -> None:
    lane = Ranges(data)
    with serve(lane, loop) as serving, serving.connect() as client:
        for byte in ask("/10-20"):
            client.send(bytes([byte]))
        expect(client, "/10-20")
    [(target, fields)] = lane.asked
    assert (target, dict(fields)) == (b"/10-20", {b"host": b"here"})


@pytest.mark.parametrize(
    "lines",
    [
        "Host: here\r\nConnection: close",
        "Host: here\r\nContent-Length: 3",
        "Host: here\r\nTransfer-Encoding: chunked",
        "Host: here\r\nExpect: 100-continue\r\nContent-Length: 3",
        "Host: here\r\nUpgrade: websocket\r\nConnection: upgrade",
        "Host: here\r\nX-Twice: 1\r\nx-twice: 2",
        "X-Host: here",
        "Host: here\r\nHost: there",
    ],
)
def test_request_that_needs_thought_is_not_even_asked_about(data: Path, loop: str, lines: str) -> None:
    lane = Ranges(data)
    with serve(lane, loop) as serving, serving.connect() as client:
        client.send(f"GET /0-10 HTTP/1.1\r\n{lines}\r\n\r\n".encode())
        if "chunked" in lines:
            client.send(b"3\r\nabc\r\n0\r\n\r\n")
        elif "Content-Length" in lines:
            client.send(b"abc")
        assert client.read_response()[0] in (200, 400)
    assert not lane.asked


@pytest.mark.parametrize("version", ["HTTP/1.0\r\nConnection: keep-alive", "HTTP/1.0"])
def test_older_protocol_is_the_applications(data: Path, loop: str, version: str) -> None:
    lane = Ranges(data)
    with serve(lane, loop) as serving, serving.connect() as client:
        client.send(f"GET /0-10 {version}\r\nHost: here\r\n\r\n".encode())
        expect(client, "/0-10", "app")
    assert not lane.asked


def test_words_for_what_is_the_rule_do_no_harm(data: Path, loop: str) -> None:
    with serve(Ranges(data), loop) as serving, serving.connect() as client:
        client.get("/0-10", "Connection: Keep-Alive", "Content-Length: 0")
        expect(client, "/0-10")


def test_lane_that_fails_leaves_the_request_to_the_application(data: Path, loop: str) -> None:
    def fail(method: bytes, target: bytes, fields: Fields) -> HotAnswer | None:
        raise ValueError("a bug")

    lane = Ranges(data)
    lane.answer = fail
    with serve(lane, loop) as serving, serving.connect() as client:
        client.send(ask("/0-10"))
        expect(client, "/0-10", "app")


@pytest.mark.parametrize("target", ["/0-1000", "/0-1000000"])
def test_pages_that_are_not_in_memory_leave_the_request_to_the_application(
    data: Path, loop: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise BlockingIOError
        return os.preadv(fd, buffers, offset)

    class System:
        preadv = staticmethod(absent)
        RWF_NOWAIT = os.RWF_NOWAIT

    monkeypatch.setattr(hot, "os", System)
    monkeypatch.setattr(express, "is_resident", lambda fd, offset, length: False)
    with serve(Ranges(data), loop) as serving, serving.connect() as client:
        client.send(ask(target))
        expect(client, target, "app")


def test_missing_pages_in_mid_body_are_read_in_a_thread(
    data: Path, loop: str, monkeypatch: pytest.MonkeyPatch, tls: Certificates | None
) -> None:
    threads: set[int] = set()

    def read(fd: int, offset: int, length: int, ahead_bytes: int) -> None:
        threads.add(threading.get_ident())

    monkeypatch.setattr(sendfile, "is_resident", lambda fd, offset, length: offset == 0)
    monkeypatch.setattr(sendfile, "read_ahead", read)
    with (
        serve(Ranges(data), loop, tls=tls) as serving,
        serving.connect(tls=tls is not None, rcvbuf_bytes=16 << 10) as client,
    ):
        client.send(ask(f"/0-{SIZE}"))
        expect(client, f"/0-{SIZE}")
        assert threads
        assert threads.isdisjoint({thread.ident for thread in threading.enumerate() if thread is serving._thread})


def test_disk_error_in_mid_body_closes_the_connection_short_and_is_told(
    data: Path, loop: str, monkeypatch: pytest.MonkeyPatch, tls: Certificates | None
) -> None:
    def broken(fd: int, offset: int, length: int, ahead_bytes: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sendfile, "is_resident", lambda fd, offset, length: offset + length <= 1 << 20)
    monkeypatch.setattr(sendfile, "read_ahead", broken)
    lane = Ranges(data)
    with serve(lane, loop, tls=tls) as serving, serving.connect(tls=tls is not None) as client:
        client.send(ask(f"/0-{SIZE}", "/app"))
        client.read_head()
        received = client.read_to_end()
    assert CONTENT.startswith(received)
    assert 0 < len(received) <= 1 << 20
    assert [error.errno for error in lane.read_errors] == [5]


@pytest.mark.parametrize("beyond", [10, 100_000])
def test_file_shorter_than_its_piece_never_makes_a_whole_body(
    data: Path, loop: str, beyond: int, tls: Certificates | None
) -> None:
    with serve(Ranges(data), loop, tls=tls) as serving, serving.connect(tls=tls is not None) as client:
        target = f"/{SIZE - 20}-{SIZE + beyond}"
        client.send(ask(target))
        client.read_head()
        assert client.read_to_end() == CONTENT[-20:]


@pytest.mark.parametrize("manner", ["close", "reset"])
def test_client_that_goes_while_its_answer_is_parked_leaves_nothing_behind(
    data: Path, loop: str, manner: str, tls: Certificates | None
) -> None:
    with serve(Ranges(data), loop, tls=tls) as serving:
        with serving.connect(tls=tls is not None) as client:
            client.send(ask("/0-10"))
            expect(client, "/0-10")
        wait_until(lambda: not serving.server.server_state.connections)
        gc.collect()
        before = open_descriptors()
        for _ in range(3):
            client = serving.connect(tls=tls is not None, rcvbuf_bytes=16 << 10)
            client.send(ask(f"/0-{SIZE}", "/app", "/0-5"))
            client.read_head()
            if manner == "close":
                client.sock.close()
            else:
                client.reset()
            wait_until(lambda: not serving.server.server_state.connections)
        wait_until(lambda: open_descriptors() <= before)


def test_reader_that_takes_nothing_is_given_up(data: Path, loop: str, tls: Certificates | None) -> None:
    limits = Limits(send_timeout_s=0.2)
    with (
        serve(Ranges(data), loop, limits, tls) as serving,
        serving.connect(tls=tls is not None, rcvbuf_bytes=16 << 10) as client,
    ):
        client.send(ask(f"/0-{SIZE}"))
        client.read_head()
        wait_until(lambda: not serving.server.server_state.connections)
        assert len(client.read_to_end()) < SIZE


def test_termination_drains_the_parked_answer_and_closes(data: Path, loop: str, tls: Certificates | None) -> None:
    with (
        serve(Ranges(data), loop, tls=tls) as serving,
        serving.connect(tls=tls is not None, rcvbuf_bytes=16 << 10) as client,
    ):
        with serving.connect(tls=tls is not None) as idle:
            idle.send(ask("/0-10"))
            expect(idle, "/0-10")
            client.send(ask(f"/0-{SIZE}"))
            client.read_head()
            serving.terminate()
            assert idle.read_to_end() == b""
        assert client.read_to_end() == CONTENT


def test_termination_answers_what_is_queued_already(data: Path, loop: str, tls: Certificates | None) -> None:
    with (
        serve(Ranges(data), loop, tls=tls) as serving,
        serving.connect(tls=tls is not None, rcvbuf_bytes=16 << 10) as client,
    ):
        client.send(ask(f"/0-{SIZE}", "/app"))
        client.read_head()
        serving.terminate()
        assert client.read_bytes(SIZE) == CONTENT
        expect(client, "/app")
        assert client.read_to_end() == b""


@pytest.mark.parametrize("target", ["/0-10", "/app", f"/0-{SIZE}"])
def test_idle_connection_is_closed_at_the_end_of_keep_alive(data: Path, loop: str, target: str) -> None:
    class Hasty(ExpressProtocol):
        lane = Ranges(data)

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.timeout_keep_alive = 0

    with Serving(Application(data), loop, http=Hasty) as serving, serving.connect() as client:
        client.send(ask(target))
        expect(client, target)
        assert client.read_to_end() == b""


@pytest.mark.parametrize("bad", [b"BREW / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 400_000])
def test_refusal_waits_for_the_parked_answer(data: Path, loop: str, bad: bytes, tls: Certificates | None) -> None:
    with (
        serve(Ranges(data), loop, tls=tls) as serving,
        serving.connect(tls=tls is not None, rcvbuf_bytes=16 << 10) as client,
    ):
        client.send(ask(f"/0-{SIZE}"))
        client.read_head()
        client.send(bad)
        assert client.read_bytes(SIZE) == CONTENT
        assert client.read_response()[0] in (400, 431)
        assert client.read_to_end() == b""


def test_broken_body_behind_a_parked_answer_is_refused_in_its_turn(data: Path, loop: str) -> None:
    with serve(Ranges(data), loop) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.send(ask(f"/0-{SIZE}"))
        client.read_head()
        client.send(b"PUT /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n")
        assert client.read_bytes(SIZE) == CONTENT
        assert client.read_response()[0] == 400
        assert client.read_to_end() == b""


def test_counters_are_exact_in_the_end(data: Path, loop: str) -> None:
    def counted() -> tuple[float, float]:
        flush_tallies()
        requests = REQUESTS.labels("Test", "200", "express", "HIT")
        return requests._value.get(), SENT_BYTES.labels("disk")._value.get()

    targets = ["/0-10", "/app", f"/0-{SIZE}", "/0-0", "/0-100000"]
    requests, sent_bytes = counted()
    with serve(Ranges(data), loop) as serving, serving.connect() as client:
        for target in targets:
            client.send(ask(target))
            expect(client, target)
        client.get("/0-10", method="HEAD")
        client.read_response(head_only=True)
    assert counted() == (requests + 5, sent_bytes + 10 + SIZE + 100_000)


def test_counters_are_brought_up_to_date_soon(data: Path, loop: str) -> None:
    value = REQUESTS.labels("Test", "200", "express", "HIT")._value
    before = value.get()
    with serve(Ranges(data), loop) as serving, serving.connect() as client:
        for count in range(1, 4):
            client.send(ask("/0-10"))
            expect(client, "/0-10")
            wait_until(lambda: value.get() == before + count)  # noqa: B023 - called before `count` moves on


def test_each_answer_has_its_line_in_the_log(data: Path, loop: str) -> None:
    lines: list[HotLine] = []
    with serve(Ranges(data, lines.append), loop) as serving, serving.connect(rcvbuf_bytes=16 << 10) as client:
        client.send(b"GET http://other/0-10?secret=1 HTTP/1.1\r\nHost: here\r\n\r\n")
        client.read_response()
        client.send(ask(f"/0-{SIZE}", "/app"))
        expect(client, f"/0-{SIZE}")
        expect(client, "/app")
        wait_until(lambda: len(lines) == 1)
    [line] = lines
    assert (line.method, line.path, line.status, line.cache) == ("GET", f"/0-{SIZE}", 200, "HIT")
    assert (line.sent_bytes, line.client) == (SIZE, "127.0.0.1")
    assert 0 <= line.took_s < 60


def test_names_and_values_that_no_header_may_have_are_not_rendered() -> None:
    assert render_lines((("A", "b c"), ("d", "é"))) == b"a: b c\r\nd: \xe9\r\n"
    for pair in (("a b", "c"), ("a", "b\nc"), ("a", "\x7f"), ("a", "✓")):
        assert render_lines((pair,)) is None
