"""`/-/health`, `/-/ready`, `/-/metrics`, and the dispatcher before them."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from proxy.admin.app import AdminApp
from proxy.admin.readiness import Readiness
from proxy.composition.app import build_dialect_rules
from proxy.composition.dispatch import Dispatcher, Surface
from proxy.config.sources import Layer, check_layers
from proxy.gateway.routes import Routes
from proxy.http.dialects import Dialect


@pytest.fixture
def readiness() -> Readiness:
    return Readiness({})


@pytest.fixture
async def client(readiness: Readiness) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(AdminApp(readiness)), base_url="http://g") as client:
        yield client


async def test_health_says_that_the_process_answers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/-/health")
    assert (answer.status_code, answer.text, answer.headers["cache-control"]) == (200, "healthy\n", "no-store")


async def test_head_is_answered_like_get(client: httpx.AsyncClient) -> None:
    assert (await client.head("/-/health")).status_code == 200


async def test_ready_turns_503_with_the_reasons(client: httpx.AsyncClient, readiness: Readiness) -> None:
    assert (await client.get("/-/ready")).json() == {"ready": True}
    readiness.draining = True
    answer = await client.get("/-/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "reasons": ["the gateway is stopping"]})


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [("", "text/plain"), ("*/*", "text/plain"), ("application/openmetrics-text", "application/openmetrics-text")],
)
async def test_metrics_come_in_the_format_that_is_asked_for(
    client: httpx.AsyncClient, accept: str, content_type: str
) -> None:
    answer = await client.get("/-/metrics", headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(content_type)
    assert "warmstart_requests" in answer.text


@pytest.mark.parametrize("path", ["/-/", "/-/healthy", "/-/health/", "/-/status", "/-/../models"])
async def test_any_other_page_does_not_exist(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(httpx.URL("http://g", raw_path=path.encode()))).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(client: httpx.AsyncClient, method: str) -> None:
    answer = await client.request(method, "/-/health")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("path", "host", "authority", "expected"),
    [
        ("/-/health", "127.0.0.1:9000", None, "admin"),
        ("/-/anything", "other.host", None, "admin"),
        ("/-/health", "s3.local:9000", None, "admin"),
        ("/-/health", "bucket.s3.local:9000", None, "surface"),
        ("/-/health", "127.0.0.1", "bucket.s3.local", "surface"),
        ("/-/health", "bucket.s3.local", "127.0.0.1:9000", "admin"),
        ("/-", "127.0.0.1", None, "surface"),
        ("/-health", "127.0.0.1", None, "surface"),
        ("/models/-/health", "127.0.0.1", None, "surface"),
        ("//-/health", "127.0.0.1", None, "surface"),
        ("/%2D/health", "127.0.0.1", None, "surface"),
    ],
)
async def test_the_gateways_own_pages_lie_on_path_style_hosts_only(
    tmp_path: Path, path: str, host: str, authority: str | None, expected: str
) -> None:
    values = {"host_suffixes": ["s3.local"], "origins": {"o": {"type": "file", "root": str(tmp_path)}}}
    settings = check_layers([Layer("test", values)]).settings
    surface = Surface(PlainTextResponse("surface"), lambda method, target, fields, *, bare: None)
    surfaces = dict.fromkeys(Dialect, surface)
    dispatcher = Dispatcher(PlainTextResponse("admin"), None, surfaces, Routes({}), build_dialect_rules(settings, ()))
    raw = f"http://{authority}{path}" if authority else path
    target = {"raw": raw.encode(), "authority": authority.encode() if authority else None}
    scope = {
        "type": "http",
        "method": "GET",
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", host.encode())],
        "extensions": {"warmstart.target": target},
    }
    sent: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    await dispatcher(scope, receive, send)
    assert b"".join(sent) == expected.encode()
