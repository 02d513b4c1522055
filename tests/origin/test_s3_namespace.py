"""A store that wants a path ahead of the bucket's name, and sends unknown clients elsewhere, before a real gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.fakes.scripted import Exchange, ScriptedServer, object_of
from tests.gateways import start_gateway

CONTENT = bytes(range(256)) * 64


async def test_a_namespace_is_signed_with_the_path_and_the_store_is_told_who_asks(tmp_path: Path) -> None:
    asked: list[tuple[str, str, str]] = []

    async def store(exchange: Exchange) -> None:
        request = exchange.request
        path = request.target.decode().partition("?")[0]
        asked.append((request.method, path, request.get("user-agent") or ""))
        if "botocore" not in (request.get("user-agent") or ""):
            await exchange.respond(302, b"", [("location", "http://127.0.0.2:9/elsewhere")])
        elif not _is_signed(server.url, exchange):
            await exchange.respond(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        else:
            await object_of(CONTENT)(exchange)

    async with ScriptedServer(store) as server:
        origin = {
            "type": "s3",
            "endpoint": server.url,
            "base_path": "/my-org",
            "user_agent": "warmstart (botocore)",
            "region": "us-east-1",
            "access_key_id": "HFAK",
            "secret_access_key": "secret",
        }
        gateway = await asyncio.to_thread(start_gateway, tmp_path, origin=origin)
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
                for cache in ("MISS", "HIT"):
                    answer = await client.get(f"{gateway.url}/weights/a/b.bin")
                    assert (answer.status_code, answer.headers["x-cache"], answer.content) == (200, cache, CONTENT)
        finally:
            await asyncio.to_thread(gateway.stop)
    assert {path for _, path, _ in asked} == {"/my-org/weights/a/b.bin"}
    assert {agent for _, _, agent in asked} == {"warmstart (botocore)"}


def _is_signed(url: str, exchange: Exchange) -> bool:
    """By botocore's own signer."""
    request = exchange.request
    given = request.get("authorization") or ""
    names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    theirs = AWSRequest(request.method, url + request.target.decode())
    for name in names:
        theirs.headers[name] = request.get(name) or ""
    theirs.context["timestamp"] = request.get("x-amz-date")
    signer = S3SigV4Auth(Credentials("HFAK", "secret"), "s3", "us-east-1")
    text = signer.string_to_sign(theirs, signer.canonical_request(theirs))
    return f"Signature={signer.signature(text, theirs)}" in given
