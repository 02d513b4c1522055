"""A gateway before origins that all fail, each in its own way: what its operator reads, in the log and the metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.scripted import Exchange, ScriptedServer, answer, object_of
from tests.gateways import GatewayProcess, start_gateway
from tests.waiting import wait_until

CONTENT = b"x" * 3000
KEYS = {"access_key_id": "AKIDCANARY", "secret_access_key": "canary-secret"}


def error(status: int, code: str, **headers: str) -> Any:
    body = f"<Error><Code>{code}</Code><Message>Because of AKIDCANARY</Message></Error>".encode()
    return answer(status, body, [("x-amz-request-id", f"id-{code}"), *headers.items()])


async def short(exchange: Exchange) -> None:
    await exchange.send_head(200, [("etag", '"v1"')], content_length=len(CONTENT))
    if exchange.request.method != "HEAD":
        await exchange.send(CONTENT[:10])
    exchange.close()


async def mislabelled(exchange: Exchange) -> None:
    label = ("content-range", f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}")
    if exchange.request.method == "HEAD":
        await exchange.send_head(200, [("etag", '"v1"')], content_length=len(CONTENT))
    else:
        await exchange.respond(206, CONTENT[7:], [("etag", '"v1"'), label])


HANDLERS = {
    "refused": error(403, "SignatureDoesNotMatch"),
    "throttled": error(429, "SlowDown", **{"retry-after": "60"}),
    "server": error(500, "InternalError"),
    "short": short,
    "mismatch": mislabelled,
}


async def by_bucket(exchange: Exchange) -> None:
    bucket = exchange.request.target.split(b"/")[1].split(b"?")[0].decode()
    await HANDLERS[bucket](exchange)


async def refuse_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a server of plain HTTP answers a TLS handshake."""
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
    writer.close()


def lines_of(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.logs().splitlines() if line.startswith("{")]


@asynccontextmanager
async def failing(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    """One origin for each way to fail, under the bucket of that name."""
    async with (
        ScriptedServer(by_bucket) as server,
        ScriptedServer(by_bucket) as other,  # limits are an endpoint's: its pause must not hold the others
        await asyncio.start_server(refuse_tls, "127.0.0.1", 0) as plain,
    ):
        at_server = {"type": "s3", "endpoint": server.url, "region": "us-east-1", "addressing": "path", **KEYS}
        origins: dict[str, Any] = {f"o-{name}": at_server for name in HANDLERS}
        origins["o-throttled"] = {**at_server, "endpoint": other.url}
        origins["o-down"] = {"type": "s3", "endpoint": "http://127.0.0.1:1", "anonymous": True}
        origins["o-nameless"] = {"type": "s3", "endpoint": "http://no-such-host.invalid", "anonymous": True}
        origins["o-tls"] = {"type": "s3", "endpoint": f"https://127.0.0.1:{plain.sockets[0].getsockname()[1]}"}
        origins["o-tls"]["anonymous"] = True
        origins["o-keyless"] = {"type": "s3", "endpoint": server.url}
        origins["o-google"] = {"type": "gcs", "endpoint": server.url}
        buckets = {name.removeprefix("o-"): {"origin": name} for name in origins}
        config = {"origins": origins, "buckets": buckets, "limits": {"retry_deadline": "500ms"}}
        nowhere = str(tmp_path / "nothing")
        environment = {
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            "AWS_CONFIG_FILE": nowhere,
            "NO_GCE_CHECK": "true",
            "CLOUDSDK_CONFIG": nowhere,
            "HOME": nowhere,
        }
        gateway = await asyncio.to_thread(start_gateway, tmp_path, config=config, environment=environment)
        try:
            yield gateway
        finally:
            await asyncio.to_thread(gateway.stop)


EXPECTED = {
    "refused": ("refused", "403 SignatureDoesNotMatch: Because of …"),
    "throttled": ("throttled", "429 SlowDown: Because of …"),
    "server": ("server", "500 InternalError: Because of …"),
    "short": ("short", None),
    "mismatch": ("mismatch", None),
    "down": ("connect", None),
    "nameless": ("connect", None),
    "tls": ("connect", None),
    "keyless": ("credentials", None),
    "google": ("credentials", None),
}


async def ask(client: httpx.AsyncClient, gateway: GatewayProcess, name: str) -> tuple[str, str]:
    """The gateway's own id of a read that fails; "" where the failure comes after the head."""
    try:
        answer = await client.get(f"{gateway.url}/{name}/some/key")
    except httpx.RemoteProtocolError:
        return name, ""
    assert answer.status_code >= 400, name
    return name, answer.headers.get("x-amz-request-id", "")


async def test_every_failure_at_an_origin_is_a_line_of_the_log_and_a_row_of_the_metrics(tmp_path: Path) -> None:
    async with failing(tmp_path) as gateway, httpx.AsyncClient(trust_env=False, timeout=60) as client:
        before = await asyncio.to_thread(gateway.metrics)
        for name, (reason, _) in EXPECTED.items():
            assert before[f'warmstart_origin_errors_total{{origin="o-{name}",reason="{reason}"}}'] == 0
        request_ids = dict(await asyncio.gather(*(ask(client, gateway, name) for name in EXPECTED)))
        after = await asyncio.to_thread(gateway.metrics)
        lines = lines_of(gateway)
    for name, (reason, said) in EXPECTED.items():
        assert after[f'warmstart_origin_errors_total{{origin="o-{name}",reason="{reason}"}}'] >= 1, name
        own = [line for line in lines if line.get("origin") == f"o-{name}" and line.get("reason") == reason]
        assert own, name
        assert own[0]["logger"] == "warmstart.origin"
        assert (own[0]["bucket"], own[0]["key"]) == (name, "some/key")
        assert own[0].get("said") == said
        assert name == "short" or "warning" in {line["level"] for line in own}, name  # the next try fails otherwise
        if said is not None:
            assert own[0]["origin_request_id"] == f"id-{said.split()[1].rstrip(':')}"
            assert request_ids[name] in (own[0]["request_id"], own[0]["origin_request_id"])
    assert "canary" not in str(lines).lower()
    assert any("does not speak TLS" in line["message"] for line in lines if line.get("origin") == "o-tls")


async def test_origins_at_one_endpoint_have_rows_of_their_own(tmp_path: Path) -> None:
    async with ScriptedServer(object_of(CONTENT)) as server:
        plain = {"type": "s3", "endpoint": server.url, "region": "us-east-1", "addressing": "path"}
        origins = {"one": {**plain, "anonymous": True}, "two": {**plain, **KEYS}}
        buckets = {name: {"origin": name} for name in origins}
        config = {"origins": origins, "buckets": buckets}
        gateway = await asyncio.to_thread(start_gateway, tmp_path, config=config)
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                assert (await client.get(f"{gateway.url}/one/k")).content == CONTENT
                assert (await client.get(f"{gateway.url}/two/k")).content == CONTENT
                assert (await client.get(f"{gateway.url}/two/l")).content == CONTENT
            received = [await asyncio.to_thread(gateway.metric, RECEIVED, origin=name) for name in ("one", "two")]
        finally:
            await asyncio.to_thread(gateway.stop)
    assert received == [len(CONTENT), 2 * len(CONTENT)]


RECEIVED = "warmstart_origin_bytes_total"


async def test_recovery_is_logged_with_how_long_the_trouble_lasted(tmp_path: Path) -> None:
    broken = True

    async def handler(exchange: Exchange) -> None:
        await (error(403, "AccessDenied") if broken else object_of(CONTENT))(exchange)

    async with ScriptedServer(handler) as server:
        gateway = await asyncio.to_thread(start_gateway, tmp_path, origin=server.url)
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                assert (await client.get(f"{gateway.url}/b/k")).status_code == 403
                broken = False
                assert (await client.get(f"{gateway.url}/b/k")).content == CONTENT

            def recovered() -> list[dict[str, Any]]:
                return [line for line in lines_of(gateway) if line["message"] == "origin origin answers again"]

            await asyncio.to_thread(wait_until, lambda: bool(recovered()), "no line says that it is over")
            [line] = recovered()
        finally:
            await asyncio.to_thread(gateway.stop)
    assert (line["reason"], line["failures"]) == ("refused", 1)
    assert 0 <= line["lasted_s"] < 60


async def test_a_clients_own_fault_is_no_failure_of_the_origin(tmp_path: Path) -> None:
    async def handler(exchange: Exchange) -> None:
        missing = exchange.request.target.endswith(b"missing")
        await (error(404, "NoSuchKey") if missing else object_of(CONTENT))(exchange)

    async with ScriptedServer(handler) as server:
        gateway = await asyncio.to_thread(start_gateway, tmp_path, origin=server.url)
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                assert (await client.get(f"{gateway.url}/b/missing")).status_code == 404
                assert (await client.get(f"{gateway.url}/b/k", headers={"if-match": '"other"'})).status_code == 412
                assert (await client.get(f"{gateway.url}/b/k", headers={"range": "bytes=9999-"})).status_code == 416
            failures = await asyncio.to_thread(gateway.metric, "warmstart_origin_errors_total")
            lines = [line for line in lines_of(gateway) if line["logger"] == "warmstart.origin"]
        finally:
            await asyncio.to_thread(gateway.stop)
    assert failures == 0
    assert not lines
