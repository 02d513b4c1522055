"""Responses that break off, lie about their length or make no sense."""

from __future__ import annotations

import pytest

from proxy.wire import ConnectionBroken, MalformedResponse, WireClient
from tests.fakes.scripted import Exchange, Handler, ScriptedServer, answer, in_turn, render_head
from tests.waiting import until
from tests.wire.sinks import CopyingSink, fetch, give


def say(raw: bytes, *, then_close: bool = True) -> Handler:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(raw)
        if then_close:
            exchange.close()
        else:
            await exchange.stall()

    return handler


CHUNKED = render_head(200, [("transfer-encoding", "chunked")])


@pytest.mark.parametrize(
    ("raw", "received"),
    [
        (b"", 0),
        (b"HTTP/1.1 200 OK\r\ncontent-le", 0),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 0),
        (render_head(200, (), 10), 0),
        (render_head(200, (), 10) + b"123456789", 9),
        (CHUNKED + b"5\r\n12345\r\n", 5),
        (CHUNKED + b"5\r\n123", 3),
        (CHUNKED + b"5\r\n12345\r\n0\r\n", 5),
        (CHUNKED + b"fffffffffffffff\r\n12", 2),
    ],
)
async def test_a_response_that_breaks_off_tells_how_much_of_its_body_was_delivered(
    client: WireClient, raw: bytes, received: int
) -> None:
    sink = CopyingSink()
    async with ScriptedServer(say(raw)) as server:
        with pytest.raises(ConnectionBroken) as raised:
            await client.get(server.endpoint, b"/k", [], give(sink))
    assert raised.value.received_bytes == len(sink.data) == received


async def test_a_reset_in_mid_body_is_a_broken_connection(client: WireClient) -> None:
    sink = CopyingSink()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=1 << 20)
        await exchange.send(b"x" * 1000)
        await until(lambda: len(sink.data) == 1000, "the first bytes' arrival")
        exchange.reset()

    async with ScriptedServer(handler) as server:
        with pytest.raises(ConnectionBroken) as raised:
            await client.get(server.endpoint, b"/k", [], give(sink))
    assert raised.value.received_bytes == 1000


async def test_a_reset_does_not_pass_for_the_end_of_a_body_without_a_length(client: WireClient) -> None:
    sink = CopyingSink()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head()
        await exchange.send(b"half")
        await until(lambda: len(sink.data) == 4, "the first bytes' arrival")
        exchange.reset()

    async with ScriptedServer(handler) as server:
        with pytest.raises(ConnectionBroken):
            await client.get(server.endpoint, b"/k", [], give(sink))


MALFORMED = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "nothing but an empty line": b"\r\n\r\n",
    "bad status line": b"HTTP/1.1 abc OK\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status beyond 599": b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
    "status below 100": b"HTTP/1.1 099 Odd\r\ncontent-length: 0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "unknown version": b"HTTP/1.7 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/2 by name": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "header without colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "header name with a blank": b"HTTP/1.1 200 OK\r\ncontent length: 4\r\n\r\n",
    "blank before the colon": b"HTTP/1.1 200 OK\r\ncontent-length : 4\r\n\r\nabcd",
    "folded header": b"HTTP/1.1 200 OK\r\nx-a: 1\r\n  2\r\ncontent-length: 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\ncontent-length: 4\n\r\n\r\nabcd",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nx-a: \x00\r\n\r\n",
    "length that is no number": b"HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "length with a plus": b"HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n1",
    "empty length": b"HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
    "length beyond 64 bits": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
    "two different lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcde",
    "a list of lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 4, 5\r\n\r\nabcde",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative chunk": CHUNKED + b"-5\r\n12345\r\n0\r\n\r\n",
    "chunk size that is no number": CHUNKED + b"xyz\r\n",
    "chunk size beyond 64 bits": CHUNKED + b"11111111111111111\r\n1",
    "chunk longer than its size": CHUNKED + b"3\r\n12345\r\n0\r\n\r\n",
    "bare line feed after a chunk": CHUNKED + b"3\r\n123\n0\r\n\r\n",
    "huge header": b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * (70 << 10),
    "huge header with an end": b"HTTP/1.1 200 OK\r\nx-a: " + b"a" * (70 << 10) + b"\r\n\r\n",
    "very many headers": b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * 10_000 + b"\r\n",
    "endless interim responses": b"HTTP/1.1 100 Continue\r\n\r\n" * 17,
    "endless chunk extension": CHUNKED + b"5;a=" + b"a" * (200 << 10),
    "endless trailers": CHUNKED + b"0\r\n" + b"x-a: b\r\n" * 30_000,
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_no_acceptable_response_is_malformed_and_ends_the_connection(
    client: WireClient, name: str
) -> None:
    async with ScriptedServer(say(MALFORMED[name], then_close=False)) as server:
        with pytest.raises(MalformedResponse):
            await fetch(client, server.endpoint)
        await until(lambda: server.open_connections == 0, "the connection's end")


async def test_after_trouble_the_next_request_works(client: WireClient) -> None:
    script = in_turn(say(b"garbage\r\n\r\n"), say(render_head(200, (), 10) + b"1"), answer(200, b"fine"))
    async with ScriptedServer(script) as server:
        with pytest.raises(MalformedResponse):
            await fetch(client, server.endpoint)
        with pytest.raises(ConnectionBroken):
            await fetch(client, server.endpoint)
        assert (await fetch(client, server.endpoint))[1] == b"fine"
