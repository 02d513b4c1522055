"""Any operation of either of GCS's APIs goes on with our token, streaming both ways, and comes back as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.errors import AccessDenied, OriginUnavailable
from proxy.origin import ForwardRequest
from tests.fakes.scripted import Handler, Request, ScriptedServer, answer, in_turn
from tests.origin.asking import Tokens, counted, gcs_origin, read_all
from tests.origin.gcs_answers import document, said

UPLOAD = "/upload/storage/v1/b/models/o"


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def insert(**changes: Any) -> ForwardRequest:
    """A JSON API request."""
    values: dict[str, Any] = {"method": "POST", "bucket": "", "key": None, "headers": (), "path": UPLOAD}
    return ForwardRequest(**{"query": (("uploadType", "media"), ("name", "a b")), **values, **changes})


async def pass_on(
    request: ForwardRequest, handler: Handler, **settings: Any
) -> tuple[Request, int, tuple[tuple[str, str], ...], bytes]:
    async with ScriptedServer(handler) as server, gcs_origin(server.url, Tokens(), **settings) as origin:
        response = await origin.forward(request)
        body = await read_all(response)
        return server.requests[-1], response.status, response.headers, body


async def test_a_json_operation_keeps_its_path_and_streams() -> None:
    request = insert(body=chunks(b"ab", b"c"), body_bytes=3, headers=(("content-type", "x/y"),))
    sent, status, headers, body = await pass_on(request, document(name="a b"))
    assert (sent.method, sent.target) == ("POST", UPLOAD.encode() + b"?uploadType=media&name=a%20b")
    assert (sent.body, sent.get("content-length"), sent.get("content-type")) == (b"abc", "3", "x/y")
    assert sent.get("authorization") == "Bearer t1"
    assert (status, body) == (200, b'{"name": "a b"}')
    assert dict(headers)["content-type"].startswith("application/json")


async def test_an_xml_operation_is_named_by_bucket_and_key() -> None:
    request = ForwardRequest("PUT", "models", "a//b ?", (("uploads", ""),), (("x-goog-meta-a", "b"),))
    sent, *_ = await pass_on(request, answer(200))
    assert (sent.method, sent.target) == ("PUT", b"/models/a%2F%2Fb%20%3F?uploads")
    assert (sent.get("x-goog-meta-a"), sent.get("content-length")) == ("b", "0")
    for bucket, target in (("models", b"/models"), ("", b"/")):
        sent, *_ = await pass_on(ForwardRequest("GET", bucket, None, (), ()), answer(200))
        assert sent.target == target


async def test_a_resumable_session_passes_as_it_is() -> None:
    session = (("uploadType", "resumable"), ("upload_id", "x/y+z"))
    location = "https://storage.googleapis.com/upload/storage/v1/b/models/o?upload_id=x"
    _, status, headers, _ = await pass_on(insert(query=session), answer(200, b"", [("location", location)]))
    assert (status, dict(headers)["location"]) == (200, location)
    request = insert(method="PUT", query=session, headers=(("content-range", "bytes */10"),))
    sent, status, headers, _ = await pass_on(request, answer(308, b"", [("range", "bytes=0-4")]))
    assert sent.target.endswith(b"?uploadType=resumable&upload_id=x%2Fy%2Bz")
    assert sent.get("content-range") == "bytes */10"
    assert (status, dict(headers)["range"]) == (308, "bytes=0-4")


async def test_what_belongs_to_the_clients_connection_stays_there() -> None:
    headers = (("connection", "x-odd"), ("x-odd", "1"), ("host", "gateway"), ("authorization", "Bearer theirs"))
    sent, *_ = await pass_on(insert(headers=(*headers, ("x-kept", "1"))), answer(200))
    assert sent.get("x-odd") is None
    assert sent.get("x-kept") == "1"
    assert sent.get("authorization") == "Bearer t1"
    assert (sent.get("host") or "").startswith("127.0.0.1:")


async def test_who_pays_is_said_unless_the_client_says_so() -> None:
    sent, *_ = await pass_on(insert(), answer(200), user_project="payer")
    assert sent.get("x-goog-user-project") == "payer"
    sent, *_ = await pass_on(insert(headers=(("x-goog-user-project", "theirs"),)), answer(200), user_project="payer")
    assert [value for name, value in sent.headers if name == "x-goog-user-project"] == ["theirs"]
    sent, *_ = await pass_on(insert(query=(("userProject", "theirs"),)), answer(200), user_project="payer")
    assert sent.get("x-goog-user-project") is None


async def test_a_head_has_no_body() -> None:
    async def handler(exchange: Any) -> None:
        await exchange.send_head(200, [("x-goog-generation", "17")], content_length=5)

    _, status, headers, body = await pass_on(ForwardRequest("HEAD", "models", "x", (), ()), handler)
    assert (status, body) == (200, b"")
    assert dict(headers)["x-goog-generation"] == "17"


async def test_a_refused_token_is_renewed_where_the_request_can_be_sent_again() -> None:
    sent, status, _, _ = await pass_on(insert(), in_turn(said(401, "authError"), document()))
    assert (sent.get("authorization"), status) == ("Bearer t2", 200)
    with pytest.raises(OriginUnavailable, match="try again"):
        await pass_on(insert(body=chunks(b"a"), body_bytes=1), said(401, "authError"))


async def test_a_refusal_of_our_own_token_is_told_in_our_words() -> None:
    with pytest.raises(AccessDenied, match="this gateway's credentials"):
        await pass_on(insert(), in_turn(said(401, "authError"), said(401, "authError")))


async def test_refusals_pass_and_trouble_is_counted() -> None:
    async with ScriptedServer(said(429, "rateLimitExceeded")) as server, gcs_origin(server.url, Tokens()) as origin:
        response = await origin.forward(insert())
        assert response.status == 429
        assert b"rateLimitExceeded" in await read_all(response)
        assert counted("origin_errors", origin.id, reason="throttled") == 1
    _, status, _, body = await pass_on(insert(), said(403, "forbidden"))
    assert (status, b"forbidden" in body) == (403, True)
