"""How hot answers end before their time, and what is counted and logged of them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from proxy.lanes.connection import Limits
from proxy.lanes.express import ExpressProtocol
from proxy.lanes.hot import HotLine, render_lines
from proxy.metrics import REQUESTS, SENT_BYTES, flush_tallies
from tests.fakes.certificates import Certificates
from tests.lanes.ranges import Application, Ranges, ask, expect, serve
from tests.lanes.serving import (
    CONTENT,
    SIZE,
    Serving,
    open_descriptors,
)
from tests.waiting import wait_until


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
