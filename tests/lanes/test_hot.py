"""Hot answers, by the protocol on real sockets, on each event loop: sizes, order, parking, what is not hot."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from proxy.lanes import express, hot, sendfile
from proxy.lanes.hot import SMALL_BYTES, Fields, HotAnswer
from tests.fakes.certificates import Certificates
from tests.lanes.ranges import BIG, Ranges, ask, expect, serve
from tests.lanes.serving import (
    CONTENT,
    SIZE,
)


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
