"""A response in good order, connections kept and replaced, and what `get` promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from proxy.blocks import ByteSink
from proxy.wire import ConnectFailed, ConnectionBroken, Endpoint, ResponseHead, WireClient
from tests.fakes.scripted import Exchange, Handler, ScriptedServer, answer, in_turn, object_of, render_head
from tests.waiting import until
from tests.wire.sinks import CopyingSink, fetch, give


async def test_a_body_with_a_content_length_arrives_whole(client: WireClient, blob: bytes) -> None:
    async with ScriptedServer(object_of(blob)) as server:
        response, body = await fetch(client, server.endpoint)
    assert (response.status, response.head.content_length) == (200, len(blob))
    assert body == blob
    assert response.body == b""
    assert not response.truncated


async def test_a_chunked_body_arrives_whole(client: WireClient, blob: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, [("transfer-encoding", "chunked")])
        for start in range(0, len(blob), 70_001):
            await exchange.send_chunk(blob[start : start + 70_001])
        await exchange.send_chunk(b"")

    async with ScriptedServer(handler) as server:
        response, body = await fetch(client, server.endpoint)
        assert response.head.content_length is None
        assert body == blob
        await fetch(client, server.endpoint)
    assert server.accepted == 1


async def test_a_body_without_a_length_ends_where_the_server_closes(client: WireClient, blob: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head()
        await exchange.send(blob)
        exchange.close()

    async with ScriptedServer(handler) as server:
        _, body = await fetch(client, server.endpoint)
        assert body == blob
        await fetch(client, server.endpoint)
    assert server.accepted == 2


async def test_an_old_http_1_0_server_is_understood_and_its_connection_not_kept(client: WireClient) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nold")

    async with ScriptedServer(handler) as server:
        assert (await fetch(client, server.endpoint))[1] == b"old"
        assert (await fetch(client, server.endpoint))[1] == b"old"
    assert server.accepted == 2


async def test_a_response_that_drips_byte_by_byte_is_the_same(client: WireClient) -> None:
    raw = render_head(206, [("content-range", "bytes 5-9/20"), ("etag", '"x"')], 5) + b"fghij"

    async def handler(exchange: Exchange) -> None:
        await exchange.drip(raw)

    async with ScriptedServer(handler) as server:
        response, body = await fetch(client, server.endpoint)
    assert response.status == 206
    assert response.head.get("content-range") == "bytes 5-9/20"
    assert body == b"fghij"


async def test_interim_responses_are_skipped(client: WireClient) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
        await exchange.respond(200, b"final")

    async with ScriptedServer(handler) as server:
        response, body = await fetch(client, server.endpoint)
    assert (response.status, body) == (200, b"final")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_body_ends_with_its_head_whatever_length_it_names(
    client: WireClient, status: int
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(status, content_length=1000)

    async with ScriptedServer(handler) as server:
        response, body = await fetch(client, server.endpoint)
        assert (response.status, response.head.content_length, body) == (status, 0, b"")
        await fetch(client, server.endpoint)
    assert server.accepted == 1


async def test_the_target_and_headers_go_out_byte_for_byte(client: WireClient) -> None:
    target = b"/b/%7Ea//..%2f/\xc3\xa4?x-id=GetObject&a=%20+b&c"
    async with ScriptedServer(answer(200, b"")) as server:
        port = server.port
        await client.get(server.endpoint, target, [("Range", "bytes=0-7"), ("x-amz-meta-a", "\xe4 b")], give(None))
    assert server.requests[0].raw_head == (
        b"GET %b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nRange: bytes=0-7\r\nx-amz-meta-a: \xe4 b\r\n\r\n" % (target, port)
    )


async def test_a_host_header_of_the_callers_is_kept(client: WireClient) -> None:
    async with ScriptedServer(answer(200, b"")) as server:
        await client.get(server.endpoint, b"/", [("Host", "bucket.example.com")], give(None))
    assert [pair for pair in server.requests[0].headers if pair[0] == "host"] == [("host", "bucket.example.com")]


async def test_connections_are_kept_and_the_one_used_last_is_used_next(client: WireClient) -> None:
    async with ScriptedServer(answer(200, b"x")) as server:
        await asyncio.gather(*(fetch(client, server.endpoint) for _ in range(3)))
        opened = server.accepted
        for _ in range(5):
            await fetch(client, server.endpoint)
        assert server.accepted == opened
        assert len({request.connection for request in server.requests[-5:]}) == 1


async def test_a_connection_that_the_server_announces_to_close_is_not_used_again(client: WireClient) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, b"bye", [("Connection", "Keep-Alive, Close")])

    async with ScriptedServer(handler) as server:
        await fetch(client, server.endpoint)
        await fetch(client, server.endpoint)
    assert server.accepted == 2


async def test_a_connection_closed_while_idle_is_noticed_before_the_next_request(client: WireClient) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, b"x")
        exchange.close()

    async with ScriptedServer(handler) as server:
        await fetch(client, server.endpoint)
        await until(lambda: server.open_connections == 0, "the connection's end")
        await fetch(client, server.endpoint)
    assert len(server.requests) == 2


def hang_up(exchange: Exchange) -> None:
    exchange.close()


def reset(exchange: Exchange) -> None:
    exchange.reset()


@pytest.mark.parametrize("leave", [hang_up, reset])
async def test_a_kept_connection_that_went_away_is_replaced_once(
    client: WireClient, leave: Callable[[Exchange], None]
) -> None:
    async def goes_away(exchange: Exchange) -> None:
        leave(exchange)

    async with ScriptedServer(in_turn(answer(200, b"one"), goes_away, answer(200, b"two"))) as server:
        assert (await fetch(client, server.endpoint))[1] == b"one"
        assert (await fetch(client, server.endpoint))[1] == b"two"
        assert [request.connection for request in server.requests] == [0, 0, 1]


async def test_the_fresh_connection_is_not_replaced_again(client: WireClient) -> None:
    async def goes_away(exchange: Exchange) -> None:
        exchange.reset()

    async with ScriptedServer(in_turn(answer(200, b"one"), goes_away)) as server:
        await fetch(client, server.endpoint)
        with pytest.raises(ConnectionBroken):
            await fetch(client, server.endpoint)
        assert len(server.requests) == 3


async def test_a_kept_connection_that_breaks_after_the_first_byte_is_not_retried(client: WireClient) -> None:
    async def breaks(exchange: Exchange) -> None:
        await exchange.send(b"H")
        exchange.close()

    async with ScriptedServer(in_turn(answer(200, b"one"), breaks, answer(200, b"two"))) as server:
        await fetch(client, server.endpoint)
        with pytest.raises(ConnectionBroken) as raised:
            await fetch(client, server.endpoint)
        assert raised.value.received_bytes == 0
        assert len(server.requests) == 2


async def test_a_body_that_nobody_wants_is_collected_and_the_connection_kept(client: WireClient) -> None:
    error = b"<Error><Code>SlowDown</Code></Error>"
    async with ScriptedServer(answer(503, error, [("Retry-After", "2")])) as server:
        for _ in range(2):
            response = await client.get(server.endpoint, b"/k", [], give(None))
            assert (response.status, response.body, response.truncated) == (503, error, False)
            assert response.head.get("retry-after") == "2"
    assert server.accepted == 1


async def test_an_unwanted_body_is_given_up_at_64_kib_with_its_connection(client: WireClient, blob: bytes) -> None:
    async with ScriptedServer(answer(200, blob)) as server:
        response = await client.get(server.endpoint, b"/k", [], give(None))
        assert response.truncated
        assert response.body == blob[: 64 << 10]
        await until(lambda: server.open_connections == 0, "the connection's end")


async def test_an_unwanted_body_that_breaks_off_still_gives_its_status(client: WireClient) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(404, content_length=100)
        await exchange.send(b"<Err")
        exchange.reset()

    async with ScriptedServer(handler) as server:
        response = await client.get(server.endpoint, b"/k", [], give(None))
    assert (response.status, response.truncated) == (404, True)


async def test_what_accept_raises_comes_out_and_the_connection_is_dropped(client: WireClient, blob: bytes) -> None:
    def refuse(head: ResponseHead) -> ByteSink | None:
        raise LookupError(head.get("etag"))

    async with ScriptedServer(object_of(blob, etag='"v2"')) as server:
        with pytest.raises(LookupError, match="v2"):
            await client.get(server.endpoint, b"/k", [], refuse)
        await until(lambda: server.open_connections == 0, "the connection's end")


async def test_what_the_sink_raises_comes_out_and_the_connection_is_dropped(client: WireClient, blob: bytes) -> None:
    class FullSink:
        def write(self, data: memoryview) -> None:
            raise OSError("disk full")

    async with ScriptedServer(object_of(blob)) as server:
        with pytest.raises(OSError, match="disk full"):
            await client.get(server.endpoint, b"/k", [], give(FullSink()))
        await until(lambda: server.open_connections == 0, "the connection's end")


async def test_the_sink_sees_pieces_of_at_most_the_buffers_size(blob: bytes) -> None:
    sizes: list[int] = []

    class MeasuringSink:
        def write(self, data: memoryview) -> None:
            sizes.append(len(data))

    client = WireClient(buffer_bytes=4096)
    async with ScriptedServer(object_of(blob)) as server:
        await client.get(server.endpoint, b"/k", [], give(MeasuringSink()))
    await client.aclose()
    assert sum(sizes) == len(blob)
    assert max(sizes) <= 4096


@pytest.mark.parametrize("buffer_bytes", [1, 7, 1 << 20])
async def test_the_buffers_size_changes_nothing_else(buffer_bytes: int) -> None:
    client = WireClient(buffer_bytes=buffer_bytes)
    async with ScriptedServer(answer(200, bytes(range(256)) * 8)) as server:
        assert (await fetch(client, server.endpoint))[1] == bytes(range(256)) * 8
    await client.aclose()


async def test_many_responses_at_once_do_not_mix_though_they_share_a_buffer(client: WireClient, blob: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        number = int(exchange.request.target[1:])
        await exchange.send_head(200, content_length=300_000)
        await exchange.drip(bytes([number]) * 300_000, 20_000 + number)

    async with ScriptedServer(handler) as server:
        answers = await asyncio.gather(*(fetch(client, server.endpoint, b"/%d" % n) for n in range(24)))
    for number, (_, body) in enumerate(answers):
        assert body == bytes([number]) * 300_000


async def test_closing_the_client_ends_what_is_under_way_and_refuses_more(blob: bytes) -> None:
    client = WireClient()
    reached = asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=10)
        reached.set()
        await exchange.stall()

    async with ScriptedServer(handler) as server:
        running = asyncio.create_task(fetch(client, server.endpoint))
        await reached.wait()
        await client.aclose()
        with pytest.raises(ConnectionBroken):
            await running
        with pytest.raises(ConnectFailed):
            await fetch(client, server.endpoint)
        await until(lambda: server.open_connections == 0, "the connection's end")


async def test_a_port_where_nobody_listens_is_a_failed_connect(client: WireClient) -> None:
    async with ScriptedServer(answer()) as server:
        endpoint = server.endpoint
    with pytest.raises(ConnectFailed, match=str(endpoint.port)):
        await fetch(client, endpoint)


async def test_a_name_that_does_not_resolve_is_a_failed_connect(client: WireClient) -> None:
    with pytest.raises(ConnectFailed, match="does not resolve"):
        await fetch(client, Endpoint("no-such-host.invalid", 80))


def garbage_in_the_same_write() -> Handler:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(render_head(200, (), 4) + b"good" + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")

    return handler


def garbage_after_the_last_chunk() -> Handler:
    async def handler(exchange: Exchange) -> None:
        head = render_head(200, [("transfer-encoding", "chunked")])
        evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
        await exchange.send(head + b"4\r\ngood\r\n0\r\n\r\n" + evil)

    return handler


def garbage_later() -> Handler:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, b"good")
        await exchange.send(b"evil")

    return handler


@pytest.mark.parametrize("make", [garbage_in_the_same_write, garbage_after_the_last_chunk, garbage_later])
async def test_bytes_after_the_body_reach_nobody_and_end_the_connection(
    client: WireClient, make: Callable[[], Handler]
) -> None:
    async with ScriptedServer(make()) as server:
        assert (await fetch(client, server.endpoint))[1] == b"good"
        await until(lambda: server.open_connections == 0, "the connection's end")
        assert (await fetch(client, server.endpoint))[1] == b"good"
    assert server.accepted == 2


async def test_a_sink_gets_no_call_for_an_empty_body(client: WireClient) -> None:
    sink = CopyingSink()
    async with ScriptedServer(answer(200, b"")) as server:
        await client.get(server.endpoint, b"/k", [], give(sink))
    assert sink.writes == 0
