"""`forward`: any operation goes on as the client sent it, signed anew, streaming both ways."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from proxy.errors import InvalidRequest, OriginUnavailable
from proxy.origin import ForwardRequest
from tests.fakes.scripted import Exchange, ScriptedServer, answer, in_turn
from tests.origin.asking import counted, read_all, s3_origin
from tests.waiting import until


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def get(**changes: object) -> ForwardRequest:
    fields = {"method": "GET", "bucket": "models", "key": None, "query": (), "headers": (), **changes}
    return ForwardRequest(**fields)  # type: ignore[arg-type]


async def test_query_and_headers_go_on_as_they_came() -> None:
    async with ScriptedServer(answer(200, b"<xml/>", [("Content-Type", "application/xml")])) as server:
        request = get(
            query=(("list-type", "2"), ("prefix", "a b/ü+"), ("delimiter", ""), ("x-id", "List")),
            headers=(("x-amz-request-payer", "requester"), ("accept-encoding", "gzip"), ("x-amz-meta-a", "caf\xe9")),
        )
        async with s3_origin(server.url) as origin:
            response = await origin.forward(request)
            assert (response.status, await read_all(response)) == (200, b"<xml/>")
            assert counted("origin_requests", origin.id, kind="forward") == 1
    sent = server.requests[0]
    assert sent.target == b"/models?list-type=2&prefix=a%20b%2F%C3%BC%2B&delimiter&x-id=List"
    assert b"x-amz-meta-a: caf\xe9\r\n" in sent.raw_head.lower()
    assert sent.get("accept-encoding") == "gzip"
    assert "x-amz-request-payer" in (sent.get("authorization") or "")
    assert sent.get("content-length") is None
    assert sent.get("transfer-encoding") is None


async def test_the_connections_own_headers_and_the_clients_signature_stay_behind() -> None:
    mine = (
        ("host", "gateway"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("expect", "100-continue"),
        ("authorization", "AWS4-HMAC-SHA256 theirs"),
        ("x-amz-date", "20200101T000000Z"),
        ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        ("x-amz-security-token", "theirs"),
        ("content-length", "5"),
    )
    theirs = [("Connection", "X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "3"), ("ETag", '"e"'), ("x-amz-request-id", "r")]
    async with ScriptedServer(answer(200, b"", theirs)) as server, s3_origin(server.url) as origin:
        response = await origin.forward(get(headers=mine))
        await read_all(response)
    names = [name for name, _ in server.requests[0].headers]
    assert sorted(names) == ["authorization", "host", "x-amz-content-sha256", "x-amz-date"]
    assert "theirs" not in str(server.requests[0].headers)
    assert response.headers == (("etag", '"e"'), ("x-amz-request-id", "r"), ("content-length", "0"))


@pytest.mark.parametrize(
    ("digest", "payload"),
    [(None, "UNSIGNED-PAYLOAD"), (hashlib.sha256(b"hello world").hexdigest(),) * 2],
)
async def test_an_upload_of_known_length_streams_with_that_length(digest: str | None, payload: str) -> None:
    async with ScriptedServer(answer(200, b"", [("ETag", '"e"')])) as server, s3_origin(server.url) as origin:
        request = get(
            method="PUT", key="a//b", body=chunks(b"hello ", b"", b"world"), body_bytes=11, payload_hash=digest
        )
        await read_all(await origin.forward(request))
    sent = server.requests[0]
    assert (sent.method, sent.target, sent.body) == ("PUT", b"/models/a//b", b"hello world")
    assert sent.get("content-length") == "11"
    assert sent.get("x-amz-content-sha256") == payload


async def test_a_body_of_unknown_length_goes_chunked() -> None:
    async def handler(exchange: Exchange) -> None:
        received.append(exchange.request.get("transfer-encoding"))
        received.append(await exchange._reader.readuntil(b"0\r\n\r\n"))
        await exchange.respond(200, b"")

    received: list[object] = []
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        await read_all(await origin.forward(get(method="PUT", key="k", body=chunks(b"abc", b"", b"de"))))
    assert received == ["chunked", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"]


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_write_without_a_body_says_that_its_length_is_zero(method: str) -> None:
    async with ScriptedServer(answer(200)) as server, s3_origin(server.url) as origin:
        await read_all(await origin.forward(get(method=method, key="k", body=chunks(), body_bytes=0)))
    assert server.requests[0].get("content-length") == "0"
    assert server.requests[0].get("x-amz-content-sha256") == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("parts", [(b"abc",), (b"abc", b"def")], ids=["shorter", "longer"])
async def test_a_body_of_another_length_than_announced_is_the_clients_fault(parts: tuple[bytes, ...]) -> None:
    async with ScriptedServer(answer(200)) as server, s3_origin(server.url) as origin:
        with pytest.raises(InvalidRequest) as caught:
            await origin.forward(get(method="PUT", key="k", body=chunks(*parts), body_bytes=5))
        assert caught.value.code == "IncompleteBody"


async def test_an_error_of_the_clients_body_comes_through_as_it_is() -> None:
    class Gone(Exception):
        pass

    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        raise Gone

    async with ScriptedServer(answer(200)) as server, s3_origin(server.url) as origin:
        with pytest.raises(Gone):
            await origin.forward(get(method="PUT", key="k", body=body(), body_bytes=5))


async def test_an_upload_is_never_gathered_before_it_is_sent() -> None:
    arrived = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        assert await exchange._reader.readuntil(b"abc\r\n") == b"3\r\nabc\r\n"
        arrived.set()
        assert await exchange._reader.readuntil(b"0\r\n\r\n") == b"3\r\ndef\r\n0\r\n\r\n"
        await exchange.respond(200, b"stored")

    async def body() -> AsyncIterator[bytes]:
        yield b"abc"
        await arrived.wait()
        yield b"def"

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        assert await read_all(await origin.forward(get(method="PUT", key="k", body=body()))) == b"stored"


async def test_a_final_answer_in_mid_upload_reaches_the_client() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(403, b"<Error><Code>AccessDenied</Code></Error>", [("connection", "close")])
        while not (await exchange._reader.read(1 << 20)).endswith(b"0\r\n\r\n"):
            pass  # as servers do, lest a reset should overtake the answer
        exchange.close()

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        response = await origin.forward(get(method="PUT", key="k", body=chunks(*[bytes(1 << 20)] * 8)))
        assert response.status == 403
        assert b"AccessDenied" in await read_all(response)


async def test_a_download_streams_and_stays_encoded() -> None:
    halfway = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, [("content-encoding", "gzip")], content_length=6)
        await exchange.send(b"not")
        await halfway.wait()
        await exchange.send(b"gz!")

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        response = await origin.forward(get(key="k"))
        body = response.body
        assert await anext(body) == b"not"
        halfway.set()
        assert [chunk async for chunk in body] == [b"gz!"]
        await response.close()
    assert ("content-encoding", "gzip") in response.headers
    assert ("content-length", "6") in response.headers


async def test_a_download_that_breaks_off_raises() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=6)
        await exchange.send(b"not")
        exchange.close()

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        response = await origin.forward(get(key="k"))
        with pytest.raises(OriginUnavailable, match="reset"):
            await read_all(response)


@pytest.mark.parametrize(("status", "reason"), [(503, "throttled"), (429, "throttled"), (500, "server")])
async def test_errors_pass_through_and_are_counted(status: int, reason: str) -> None:
    handler = answer(status, b"why", [("retry-after", "3")])
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        response = await origin.forward(get())
        assert (response.status, await read_all(response)) == (status, b"why")
        assert ("retry-after", "3") in response.headers
        assert counted("origin_errors", origin.id, reason=reason) == 1


async def test_a_head_keeps_its_length_and_its_connection() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, [("x-amz-bucket-region", "eu-west-1")], content_length=77)

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        for _ in range(3):
            response = await origin.forward(get(method="HEAD"))
            assert await read_all(response) == b""
            assert ("content-length", "77") in response.headers
        assert server.accepted == 1


async def test_a_redirect_is_followed_when_nothing_was_consumed() -> None:
    elsewhere = answer(301, b"<Error/>", [("x-amz-bucket-region", "eu-west-3")])
    async with ScriptedServer(in_turn(elsewhere, answer(200, b"ok"))) as server, s3_origin(server.url) as origin:
        assert await read_all(await origin.forward(get())) == b"ok"
    assert "/eu-west-3/s3/" in (server.requests[1].get("authorization") or "")


async def test_a_redirect_never_sends_half_an_upload_and_never_reaches_the_client() -> None:
    elsewhere = answer(307, b"<Error/>", [("x-amz-bucket-region", "eu-west-3")])
    async with ScriptedServer(in_turn(elsewhere, answer(200, b"ok"))) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match="try again"):
            await origin.forward(get(method="PUT", key="k", body=chunks(b"abc"), body_bytes=3))
        again = get(method="PUT", key="k", body=chunks(b"abc"), body_bytes=3)
        assert await read_all(await origin.forward(again)) == b"ok"
    assert "/eu-west-3/s3/" in (server.requests[1].get("authorization") or "")


async def test_a_400_of_the_origins_own_reaches_the_client_whole() -> None:
    body = b"<Error><Code>InvalidArgument</Code></Error>" + bytes(200_000)
    async with ScriptedServer(answer(400, body)) as server, s3_origin(server.url) as origin:
        response = await origin.forward(get())
        assert (response.status, await read_all(response)) == (400, body)


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
async def test_a_header_that_can_not_be_sent_is_refused(value: str) -> None:
    async with ScriptedServer(answer(200)) as server, s3_origin(server.url) as origin:
        with pytest.raises(InvalidRequest):
            await origin.forward(get(headers=(("x-amz-meta-a", value),)))
    assert server.requests == []


async def test_a_closed_download_leaves_nothing_open() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=1 << 30)
        await exchange.send(b"abc")
        await exchange.stall()

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        response = await origin.forward(get(key="k"))
        await response.close()
        await until(lambda: not server.open_connections)
