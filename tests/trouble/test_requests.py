"""Malformed and hostile requests over raw sockets: the right error, the connection handled safely."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways import GatewayProcess, start_gateway

CONTENT = b"0123456789" * 1000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("requests")
    (folder / "root" / "models").mkdir(parents=True)
    (folder / "root" / "models" / "k").write_bytes(CONTENT)
    (folder / "root" / "secret").write_bytes(b"outside of every bucket")
    with start_gateway(folder, origin=f"file://{folder / 'root'}", workers=1) as gateway:
        yield gateway
        assert gateway.metric("warmstart_worker_restarts_total") == 0


def converse(gateway: GatewayProcess, data: bytes) -> bytes:
    """All that comes back until the server closes or falls silent; `data` should ask to close."""
    host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
    got = b""
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(data)
        try:
            while piece := client.recv(65536):
                got += piece
        except ConnectionResetError:
            pass
    return got


def status_of(answer: bytes) -> int:
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert match is not None, answer[:200]
    return int(match[1])


def request(target: str, *headers: str, method: str = "GET") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def test_a_plain_request_is_answered(gateway: GatewayProcess) -> None:
    answer = converse(gateway, request("/models/k"))
    assert status_of(answer) == 200
    assert answer.endswith(CONTENT)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/models/%", 400),
        ("/models/%zz", 400),
        ("/models/%ff%fe", 400),
        ("/models/" + "k" * 1025, 400),
        ("/models/../secret", 404),
        ("/models/%2e%2e/secret", 404),
        ("/models/..%2fsecret", 404),
        ("/models/a/../../secret", 404),
        ("/../secret", 404),
        ("/%2e%2e/secret", 404),
        ("/models//etc/passwd", 404),
        ("/models/%00", 404),
        ("/models/k%00", 404),
        ("/models/k/", 404),
    ],
)
def test_no_target_leaves_its_bucket_and_bad_ones_are_named(gateway: GatewayProcess, target: str, status: int) -> None:
    answer = converse(gateway, request(target))
    assert status_of(answer) in ({status, 400} if status == 404 else {status}), answer[:500]
    assert b"outside of every bucket" not in answer
    assert b"<Error><Code>" in re.sub(rb">\s+<", b"><", answer)
    assert b"<RequestId>" in answer


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"GARBAGE\r\n\r\n", {400}),
        (b"GET /models/k HTTP/1.1\r\n\r\n", {400}),  # no Host
        (b"GET /models/k HTTP/9.9\r\nHost: a\r\n\r\n", {400, 505}),
        (b"GET /models/k HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", {400, 431}),
        (b"GET /models/k HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n", {400}),
        (b"PUT /models/k HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", {400}),
        (b"PUT /models/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", {400}),
        (
            b"PUT /models/k HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            {400},
        ),
        (b"PUT /models/k HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", {400, 405}),
    ],
)
def test_what_is_no_request_gets_an_error_and_its_connection_is_closed(
    gateway: GatewayProcess, data: bytes, statuses: set[int]
) -> None:
    smuggled = b"GET /models/k HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    answer = converse(gateway, data + smuggled)
    assert status_of(answer) in statuses
    assert answer.count(b"HTTP/1.1 ") == 1, "a request behind a broken one was answered"


@pytest.mark.parametrize("method", ["BREW", "PATCH", "TRACE", "OPTIONS"])
def test_odd_methods_are_refused_clearly(gateway: GatewayProcess, method: str) -> None:
    assert 400 <= status_of(converse(gateway, request("/models/k", method=method))) <= 501


@pytest.mark.parametrize(
    "header",
    [
        "bytes=5-2",
        "bytes=a-b",
        "bytes=0-1,3-4",
        "lines=0-3",
        "bytes=",
        "bytes=-",
        "bytes 0-3",
        "bytes=--5",
        "bytes=1-x",
    ],
)
def test_a_range_that_is_none_gives_the_whole_object(gateway: GatewayProcess, header: str) -> None:
    answer = converse(gateway, request("/models/k", f"Range: {header}"))
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\n" + CONTENT)


@pytest.mark.parametrize("header", ["bytes=10000-", "bytes=99999999999999999999999-", "bytes=-0"])
def test_a_range_beyond_the_end_is_416_with_the_size(gateway: GatewayProcess, header: str) -> None:
    answer = converse(gateway, request("/models/k", f"Range: {header}"))
    assert status_of(answer) == 416
    assert b"content-range: bytes */10000" in answer.lower()
    assert b"<Code>InvalidRange</Code>" in answer


def test_a_range_end_beyond_64_bits_is_clamped(gateway: GatewayProcess) -> None:
    answer = converse(gateway, request("/models/k", "Range: bytes=9990-99999999999999999999999"))
    assert status_of(answer) == 206
    assert answer.endswith(b"\r\n\r\n0123456789")


def test_pipelined_requests_are_answered_in_order(gateway: GatewayProcess) -> None:
    first = b"GET /models/k HTTP/1.1\r\nHost: a\r\nRange: bytes=%d-%d\r\n\r\n"
    data = b"".join(first % (n, n) for n in range(10)) + request("/models/k", "Range: bytes=0-0")
    answers = converse(gateway, data).split(b"HTTP/1.1 206")
    assert [answer[-1:] for answer in answers[1:]] == [b"%d" % n for n in range(10)] + [b"0"]


def test_a_write_to_a_directory_is_refused_and_changes_nothing(gateway: GatewayProcess) -> None:
    answer = converse(gateway, request("/models/new", "Content-Length: 0", method="PUT"))
    assert status_of(answer) in {403, 405}
    assert not (Path(gateway.config).parent / "root" / "models" / "new").exists()
