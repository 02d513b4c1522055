"""What a worker is configured to do, seen from outside: TLS, the access log, either event loop, limits on requests."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fakes.certificates import Certificates, make_certificates
from tests.gateways import GatewayProcess, log_lines, start_gateway
from tests.waiting import wait_until

BODY = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a directory origin in `shelf`."""
    folder = tmp_path_factory.mktemp("worker")
    (folder / "shelf" / "models").mkdir(parents=True)
    (folder / "shelf" / "models" / "a.bin").write_bytes(BODY)
    return folder


@pytest.fixture(scope="module")
def certificates(folder: Path) -> Certificates:
    return make_certificates(folder)


@pytest.fixture(scope="module")
def gateway(folder: Path, certificates: Certificates) -> Iterator[GatewayProcess]:
    """Everything that is not the default: HTTPS, asyncio, an access log, small limits."""
    config = {
        "tls": {"certificate": str(certificates.server_file), "key": str(certificates.key_file)},
        "event_loop": "asyncio",
        "log": {"access": True},
        "limits": {"request_head": "8KiB"},
    }
    with start_gateway(folder, origin=f"file://{folder / 'shelf'}", config=config) as started:
        yield started


@pytest.fixture
def client(gateway: GatewayProcess, certificates: Certificates) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(certificates.ca_file))
    with httpx.Client(base_url=gateway.url, verify=context, trust_env=False) as client:
        yield client


def test_https_serves_the_same_bytes_cold_and_hot(gateway: GatewayProcess, client: httpx.Client) -> None:
    assert gateway.url.startswith("https://")
    for _ in range(3):
        assert client.get("/models/a.bin").content == BODY
    ranged = client.get("/models/a.bin", headers={"range": "bytes=1000-2000999"})
    assert (ranged.status_code, ranged.content) == (206, BODY[1000:2001000])
    assert ranged.headers["x-cache"] == "HIT"


def test_answers_have_one_date_and_name_no_server_software(client: httpx.Client) -> None:
    headers = client.get("/models/a.bin").headers
    assert len(headers.get_list("date")) == 1
    assert "server" not in headers


def test_the_access_log_has_a_line_for_each_request_without_its_query(
    gateway: GatewayProcess, client: httpx.Client
) -> None:
    client.get("/models/a.bin?X-Amz-Signature=hush-hush", headers={"range": "bytes=0-99"})
    wait_until(lambda: any(line.get("bytes") == 100 for line in log_lines(gateway.logs())), "no line")
    [line] = [line for line in log_lines(gateway.logs()) if line.get("bytes") == 100]
    assert line["logger"] == "warmstart.access"
    assert (line["message"], line["status"], line["client"]) == ("GET /models/a.bin", 206, "127.0.0.1")
    assert "hush" not in gateway.logs()


def test_a_request_head_beyond_the_limit_is_refused(client: httpx.Client) -> None:
    assert client.get("/models/a.bin", headers={"x-long": "x" * 10_000}).status_code == 431


def test_plain_http_at_an_https_listener_is_not_answered(gateway: GatewayProcess) -> None:
    address = ("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"GET /models/a.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" not in connection.recv(100)


def test_what_only_a_child_can_find_out_stops_the_start_with_one_line(tmp_path: Path) -> None:
    environment = {"HTTP_PROXY": "nonsense://proxy", "http_proxy": "nonsense://proxy"}
    origin = "http://store.example.com"
    with start_gateway(tmp_path, origin=origin, workers=2, environment=environment, wait=False) as gateway:
        wait_until(lambda: gateway._process.poll() is not None, "it goes on")
        assert gateway.stop() == 2
        lines = [line for line in gateway.logs().splitlines() if not line.startswith("{")]
    assert len(lines) == 1
    assert lines[0].startswith("warmstart: ")
    assert "proxy" in lines[0]
