"""Every mistake that was ever made with a secret: no message of the start shows it, nor a part of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from proxy.cli.commands import run_command
from proxy.composition.app import build_origin
from proxy.config.sources import Shorthands, load_configuration
from proxy.errors import ConfigInvalid
from proxy.fleet.redis import open_configured
from tests.fakes.scripted import ScriptedServer, object_of
from tests.gateways import start_gateway

CANARY = "canarycanary"
ORIGIN = "origins: {lab: {type: s3, endpoint: 'http://h:1', access_key_id: a, secret_access_key: b}}\n"


def with_redis(url: str) -> str:
    return f"{ORIGIN}cluster: {{redis: '{url}', secret: sixteen-characters-long}}\n"


MISTAKES = [
    ORIGIN + "cluster: {redis: 'redis://h', secert: CANARY}",
    ORIGIN + "cluster: {redis: 'redis://h', secret: CANARY}",
    ORIGIN + "cluster: {redis: 'redis://h', secret: [CANARY]}",
    ORIGIN + "cluster: {redis: 'redis://h', secret: [[CANARY]]}",
    ORIGIN + "cluster: {redis: 'redis://h', secret: {value: CANARY}}",
    ORIGIN + "cluster: {redis: 'redis://h', secret_file: CANARY}",
    ORIGIN + "cluster: {redis: 'redis://h', secret_file: /CANARY}",
    ORIGIN + 'cluster: {redis: "redis://h", secret: "CANARY\\u0007CANARY"}',
    ORIGIN + "cluster: {redis: CANARY}",
    with_redis("redis://:CANARY"),
    with_redis("redis://:CANARY-h:6379/0"),
    with_redis("redis://:CANARY/CANARY@h"),
    with_redis("redis://:CANARY#CANARY@h"),
    with_redis("redis://:CANARY?CANARY@h"),
    with_redis("redis://me:CANARY@h:port"),
    with_redis("redis://me:CANARY@h:99999"),
    with_redis("redis://h:x?password=CANARY"),
    with_redis("redis://h?password=CANARY&db=x"),
    with_redis("redis://h?socket_timeout=CANARY"),
    with_redis("http://:CANARY@h"),
    with_redis("http://h?password=CANARY"),
    with_redis("redis+sentinel://me:CANARY@h"),
    with_redis("redis+sentinel://h:x/master?sentinel_password=CANARY"),
    "tls: {certificate: /x, key: /y, passphrase: CANARY}\n" + ORIGIN,
    'tls: {certificate: /dev/null, key: "-----BEGIN PRIVATE KEY-----\\nCANARY"}\n' + ORIGIN,
    "auth: {mode: none, psk: CANARY}\n" + ORIGIN,
    "auth: {mode: none, keys: {a: CANARY}}\n" + ORIGIN,
    "origins: {lab: {type: s3, access_key_id: 'CANARY CANARY', secret_access_key: b}}",
    'origins: {lab: {type: s3, access_key_id: "CANARY\\nCANARY", secret_access_key: b}}',
    'origins: {lab: {type: s3, access_key_id: a, secret_access_key: "CANARY\\rCANARY"}}',
    'origins: {lab: {type: s3, access_key_id: a, secret_access_key: b, session_token: "CANARY\\0"}}',
    "origins: {lab: {type: s3, access_key_id: CANARY}}",
    "origins: {lab: {type: s3, acess_key_id: CANARY}}",
    "origins: {lab: {type: s3, access_key_id: a, secret_access_key: *CANARY}}",
    "origins: {lab: {type: s3, access_key_id: a, secret_access_key: !CANARY}}",
    "origins: {lab: {type: s3, access_key_id: a, secret_access_key: %CANARY}}",
    "origins: {lab: {type: s3, access_key_id: a, secret_access_key: `CANARY}}",
    "origins: {lab: {type: s3, access_key_id: a, secret_access_key: @CANARY}}",
    "origins: {lab: {type: s3, endpoint: 'https://me:CANARY@h'}}",
    "origins: {lab: {type: s3, endpoint: 'https://me:CANARY/CANARY@h'}}",
    "origins: {lab: {type: s3, endpoint: 'https://h/?X-Amz-Signature=CANARY'}}",
    "origins: {lab: {type: s3, endpoint: 'https://me:CANARY'}}",
    'origins: {lab: {type: gcs, credentials: {service_account_file: \'{"private_key": "CANARY"}\'}}}',
    "origins: {lab: {type: gcs, credentials: CANARY}}",
    "origins: {lab: {type: gcs, hmac_secret: CANARY}}",
    "origins: {lab: CANARY}",
    "origins: CANARY",
    "CANARY",
]


def message_of(path: Path, environment: Mapping[str, str] | None = None) -> str:
    """What the start says of these settings; empty where it finds nothing wrong with them."""
    try:
        settings = load_configuration(path, environment or {}).settings
        if settings.cluster is not None and settings.cluster.redis is not None:
            open_configured(settings.cluster.redis.get_secret_value())
        for name, rule in settings.origins.items():
            build_origin(name, rule, settings.limits)
    except ConfigInvalid as error:
        return str(error)
    return ""


@pytest.mark.parametrize("text", MISTAKES)
async def test_no_mistake_in_a_file_shows_a_secret(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "warmstart.yaml"
    path.write_text(text.replace("CANARY", CANARY), "utf-8")
    said = message_of(path)
    run_command(["config", "check", str(path)])
    captured = capsys.readouterr()
    assert CANARY not in said + captured.out + captured.err
    assert said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WARMSTART_CLUSTER__SECERT", CANARY),
        ("WARMSTART_SECRET", CANARY),
        ("WARMSTART_CLUSTER__REDIS", f"redis://:{CANARY}/x@h:p"),
        ("WARMSTART_ORIGINS__LAB__SESSION_TOKEN", f"{CANARY} {CANARY}"),
        ("WARMSTART_ORIGINS__LAB__ACCESS_KEY", CANARY),
        ("WARMSTART_CLUSTER", f"{{secret: {CANARY}"),
        ("WARMSTART_ORIGIN", f"https://me:{CANARY}/x@h"),
        ("WARMSTART_ORIGIN", f"ftp://h?token={CANARY}"),
    ],
)
async def test_no_mistake_in_a_variable_shows_a_secret(tmp_path: Path, name: str, value: str) -> None:
    path = tmp_path / "warmstart.yaml"
    path.write_text(ORIGIN, "utf-8")
    said = message_of(path, {name: value})
    assert said
    assert CANARY not in said


@pytest.mark.parametrize("proxy", [f"socks5://me:{CANARY}@h:1", f"http://me:{CANARY}/x@h:1"])
async def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    settings = load_configuration(None, {}, None, Shorthands(origin="http://store:1", anonymous=True)).settings
    with pytest.raises(ConfigInvalid, match="the proxy") as caught:
        build_origin("o", settings.origins["command-line"], settings.limits)
    assert CANARY not in str(caught.value)


async def test_credentials_from_files_with_a_final_line_break_sign_as_without(tmp_path: Path) -> None:
    """Also where the whole origin refuses: neither the answer nor a line of the log at debug level shows them."""
    variables = {
        "WARMSTART_ORIGINS__ORIGIN__ACCESS_KEY_ID": f"AK{CANARY}\n",
        "WARMSTART_ORIGINS__ORIGIN__SECRET_ACCESS_KEY": f"SK{CANARY}\n",
        "WARMSTART_ORIGINS__ORIGIN__SESSION_TOKEN": f"ST{CANARY}\r\n",
    }
    async with ScriptedServer(object_of(b"content")) as server:
        origin = {"type": "s3", "endpoint": server.url, "region": "us-east-1"}
        gateway = await asyncio.to_thread(start_gateway, tmp_path, origin=origin, environment=variables)
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                assert (await client.get(f"{gateway.url}/b/k")).content == b"content"
                # A client's own header that can't be sent on: the others must not show with it.
                answer = await client.put(f"{gateway.url}/b/k", content=b"x", headers={"x-amz-meta-a": "b"})
        finally:
            await asyncio.to_thread(gateway.stop)
    assert CANARY not in answer.text + gateway.logs()
    authorization = server.requests[0].get("authorization") or ""
    assert authorization.startswith(f"AWS4-HMAC-SHA256 Credential=AK{CANARY}/")
    assert server.requests[0].get("x-amz-security-token") == f"ST{CANARY}"
