"""Methods that a dialect does not know are refused in its own words, and no origin hears of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.gateways import GatewayProcess, start_gateway
from tests.servers import S3Server, start_moto

UNKNOWN = ["TRACE", "CONNECT", "PROPFIND", "LOCK", "MKCOL", "PATCH", "PURGE"]


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    with start_moto() as server:
        server.client().create_bucket(Bucket="bucket")
        server.client().put_object(Bucket="bucket", Key="k", Body=b"content")
        yield server


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, moto: S3Server) -> Iterator[GatewayProcess]:
    with start_gateway(tmp_path_factory.mktemp("methods"), origin=moto) as gateway:
        yield gateway


def ask(gateway: GatewayProcess, method: str, target: str) -> tuple[int, bytes]:
    url = urlsplit(gateway.url)
    with socket.create_connection((url.hostname, url.port), 30) as sock:
        sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        received = b""
        while data := sock.recv(1 << 16):
            received += data
    return int(received.split()[1]), received


@pytest.mark.parametrize("method", UNKNOWN)
def test_a_method_that_s3_does_not_know_reaches_no_origin(gateway: GatewayProcess, moto: S3Server, method: str) -> None:
    for target in ("/bucket/k", "/bucket", "/", "http://h/bucket/k"):
        status, answer = ask(gateway, method, target)
        assert status == 405
        assert b"<Code>MethodNotAllowed</Code>" in answer
    assert f'"{method} ' not in moto.log()


@pytest.mark.parametrize("method", [name for name in UNKNOWN if name != "PATCH"])
def test_a_method_that_gcs_does_not_know_reaches_no_origin(
    gateway: GatewayProcess, moto: S3Server, method: str
) -> None:
    status, answer = ask(gateway, method, "/storage/v1/b/bucket/o/k")
    assert status == 405
    assert b'"methodNotAllowed"' in answer
    assert f'"{method} ' not in moto.log()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_methods_that_are_known_are_answered(gateway: GatewayProcess, method: str) -> None:
    assert ask(gateway, method, "/bucket/k")[0] != 405
