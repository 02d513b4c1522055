"""Request heads, well-formed and not: the pure rules, and what the protocol does about them on a socket."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.lanes.connection import Limits
from proxy.lanes.heads import HeadTarget, parse_target
from tests.lanes.serving import HOST, LOOPS, OK, Echo, Serving
from tests.waiting import wait_until

LIMITS = Limits(head_bytes=8 << 10)


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(params=LOOPS)
def serving(request: pytest.FixtureRequest, echo: Echo) -> Iterator[Serving]:
    with Serving(echo, str(request.param), limits=LIMITS) as serving:
        yield serving


REFUSED = {
    b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n": 400,
    b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n": 400,
    b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n": 501,
    b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc": 400,
    b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc": 400,
    b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999\r\n\r\nabc": 400,
    b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length : 3\r\n\r\nabc": 400,
    b"PUT /h2c HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc": 501,
    b"GET / HTTP/1.1\r\n" + HOST + b" folded: x\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n": 400,
    b"GET / HTTP/1.0\r\n" + HOST + HOST + b"\r\n": 400,
    b"GET / HTTP/2.0\r\n" + HOST + b"\r\n": 505,
    b"GET / HTTP/0.9\r\n" + HOST + b"\r\n": 505,
    b"GET /\r\n\r\n": 505,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 400,
    b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n": 400,
    b"CONNECT a:443 HTTP/1.1\r\n" + HOST + b"\r\n": 400,
    b"GET no-slash HTTP/1.1\r\n" + HOST + b"\r\n": 400,
    b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n": 400,
    b"GET /a\x01 HTTP/1.1\r\n" + HOST + b"\r\n": 400,
    b"GET /" + b"k" * (8 << 10) + b" HTTP/1.1\r\n" + HOST + b"\r\n": 431,
    b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * (8 << 10) + b"\r\n\r\n": 431,
    b"GET / HTTP/1.1\r\n" + HOST + b"x: y\r\n" * 5000 + b"\r\n": 431,
    b"\x16\x03\x01\x02\x00\x01": 400,
}


@pytest.mark.parametrize("place", ["alone", "pipelined"])
def test_bad_requests_are_refused_and_the_connection_closed(serving: Serving, echo: Echo, place: str) -> None:
    for request, status in REFUSED.items():
        echo.scopes.clear()
        with serving.connect() as client:
            if place == "pipelined":
                client.send(OK + OK + request)
                assert [client.read_response()[0] for _ in range(2)] == [200, 200]
            else:
                client.send(request)
            answer, headers, _ = client.read_response()
            assert (request, answer) == (request, status)
            assert headers["connection"] == "close"
            assert client.read_to_end() == b""
        assert len(echo.scopes) == (2 if place == "pipelined" else 0)


def test_nothing_after_a_refused_request_is_answered(serving: Serving, echo: Echo) -> None:
    with serving.connect() as client:
        client.send(b"GET no-slash HTTP/1.1\r\n" + HOST + b"\r\n" + OK)
        assert client.read_response()[0] == 400
        client.send(OK)
        assert client.read_to_end() == b""
    assert echo.scopes == []


def test_endless_head_is_refused_while_the_client_still_sends(serving: Serving) -> None:
    with serving.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(50):
            client.send(b"y" * 1000)
        assert client.read_response()[0] == 431


def test_large_head_within_the_limit_is_served_in_one_segment_or_many(serving: Serving, echo: Echo) -> None:
    head = b"GET / HTTP/1.1\r\n" + HOST + b"".join(b"x-%d: %s\r\n" % (n, b"v" * 90) for n in range(70)) + b"\r\n"
    for step in (len(head), 500):
        with serving.connect() as client:
            for start in range(0, len(head), step):
                client.send(head[start : start + step])
            assert client.read_response()[0] == 200
    assert [len(scope["headers"]) for scope in echo.scopes] == [71, 71]


def test_broken_chunk_ends_the_request_that_waits_for_it(serving: Serving, echo: Echo) -> None:
    put = b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with serving.connect() as client:
        client.send(put + b"3\r\nabc\r\n")
        client.send(b"zz\r\n")
        assert client.read_response()[0] == 400
        assert client.read_to_end() == b""
    with serving.connect() as client:  # behind others
        client.send(OK + put + b"3\r\nabc\r\nzz\r\n")
        assert client.read_response()[0] == 200
        assert client.read_response()[0] == 400
        assert client.read_to_end() == b""
    assert echo.bodies == [b""]


def test_trailers_are_not_taken_for_headers(serving: Serving, echo: Echo) -> None:
    with serving.connect() as client:
        client.send(b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        client.send(b"3\r\nabc\r\n0\r\nRange: bytes=0-1\r\nExpect: 100-continue\r\n\r\n" + OK)
        assert client.read_response()[2] == b"abc"
        assert client.read_response()[0] == 200
    assert [name for name, _ in echo.scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


def test_upgrade_that_nobody_asked_for_is_ignored(serving: Serving) -> None:
    with serving.connect() as client:
        for _ in range(2):
            client.get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM")
            assert client.read_response()[0] == 200


def test_body_is_asked_for_when_the_client_waits_to_send_it(serving: Serving) -> None:
    with serving.connect() as client:
        client.get("/", "Expect: 100-continue", "Content-Length: 3", method="PUT")
        assert client.read_head()[0] == 100
        client.send(b"abc")
        status, headers, body = client.read_response()
        assert (status, body) == (200, b"abc")
        assert "connection" not in headers


def test_connection_closes_when_a_body_that_was_not_asked_for_may_still_come(serving: Serving) -> None:
    with serving.connect() as client:
        client.get("/unread", "Expect: 100-continue", "Content-Length: 3", method="PUT")
        status, headers, _ = client.read_response()
        assert (status, headers["connection"]) == (200, "close")
        assert client.read_to_end() == b""


def test_unread_body_does_not_disturb_the_next_request(serving: Serving) -> None:
    with serving.connect() as client:
        client.send(b"PUT /unread HTTP/1.1\r\n" + HOST + b"Content-Length: 200000\r\n\r\n" + bytes(200_000) + OK)
        assert client.read_response()[0] == 200
        assert client.read_response()[0] == 200


def test_old_clients_need_no_host(serving: Serving) -> None:
    with serving.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.read_response()[0] == 200
        assert client.read_to_end() == b""


@pytest.mark.parametrize("loop", LOOPS)
def test_heads_that_take_too_long_are_given_up(echo: Echo, loop: str) -> None:
    with Serving(echo, loop, limits=Limits(head_timeout_s=0.2)) as serving:
        with serving.connect() as silent, serving.connect() as slow:
            slow.send(b"GET / HT")
            assert slow.read_response()[0] == 408
            assert slow.read_to_end() == b""
            assert silent.read_to_end() == b""
        with serving.connect() as client:  # while an earlier request is being answered there is no hurry
            client.send(b"GET /held HTTP/1.1\r\n" + HOST + b"\r\nGET / HT")
            passed_s = time.monotonic() + 0.5
            wait_until(lambda: time.monotonic() > passed_s)
            echo.release.set()
            assert client.read_response()[0] == 200
            client.send(b"TP/1.1\r\n" + HOST + b"\r\n")
            assert client.read_response()[0] == 200


@given(st.binary(max_size=60))
def test_targets_are_cut_and_never_changed(rest: bytes) -> None:
    path, _, query = rest.partition(b"?")
    assert parse_target(b"/" + rest) == HeadTarget(b"/" + path, query)
    assert parse_target(b"https://[::1]:9/" + rest) == HeadTarget(b"/" + path, query, b"[::1]:9")


@pytest.mark.parametrize("raw", [b"", b"a:443", b"key", b"?q", b"://h/", b"http:/h"])
def test_other_forms_of_target_mean_nothing(raw: bytes) -> None:
    assert parse_target(raw) is None


def test_authority_ends_where_path_or_query_begins() -> None:
    assert parse_target(b"http://h:1?a=/b") == HeadTarget(b"/", b"a=/b", b"h:1")
    assert parse_target(b"*") == HeadTarget(b"*", b"")
