"""A server that waits and says so, by interim heads: the client waits as long as it says so, and no longer."""

from __future__ import annotations

import asyncio

import pytest

from proxy.wire import MalformedResponse, TimedOut, WireClient
from tests.fakes.scripted import Exchange, ScriptedServer, render_head
from tests.waiting import until
from tests.wire.sinks import CopyingSink, fetch, give
from tests.wire.skipping import SkippingLoop, skip, turn

SIGN = b"HTTP/1.1 102 Processing\r\n\r\n"


def has_begun(client: WireClient) -> bool:
    """Whether some byte of an answer has come."""
    return any(each._reader is not None and each._reader.started for each in client._connections)


async def test_signs_of_life_may_be_many(blob: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        for _ in range(500):
            await exchange.send(SIGN)
        await exchange.respond(200, blob)

    client = WireClient(lively=True)
    async with ScriptedServer(handler) as server:
        for _ in range(2):  # the connection is good for the next one
            response, body = await fetch(client, server.endpoint)
            assert (response.status, body) == (200, blob)
        assert {request.connection for request in server.requests} == {0}
    await client.aclose()


async def test_a_server_of_which_nobody_expects_it_gives_no_more_than_a_few() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(SIGN * 500)
        await exchange.respond(200, b"late")

    client = WireClient()
    async with ScriptedServer(handler) as server:
        with pytest.raises(MalformedResponse):
            await fetch(client, server.endpoint)
    await client.aclose()


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
async def test_signs_the_head_and_the_body_may_come_in_any_pieces(piece_bytes: int) -> None:
    body = bytes(range(200))
    everything = SIGN * 3 + render_head(200, (), len(body)) + body

    async def handler(exchange: Exchange) -> None:
        await exchange.drip(everything, piece_bytes)

    client = WireClient(lively=True)
    async with ScriptedServer(handler) as server:
        response, got = await fetch(client, server.endpoint)
        assert (response.status, got) == (200, body)
        assert response.head.get("content-length") == "200"
    await client.aclose()


async def test_a_server_that_goes_after_its_signs_is_gone() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(SIGN * 2)
        exchange.close()

    client = WireClient(lively=True)
    async with ScriptedServer(handler) as server:
        with pytest.raises(Exception, match="before the head") as raised:
            await fetch(client, server.endpoint)
        assert type(raised.value).__name__ == "ConnectionBroken"
        assert len(server.requests) == 1, "it has begun to answer: it is not asked again"
    await client.aclose()


@pytest.mark.parametrize("lively", [True, False])
def test_the_time_for_the_head_counts_from_the_last_sign_of_life(lively: bool) -> None:
    """Of 1,000 s allowed, 600 pass twice, with a sign in between."""
    sign, go_on = asyncio.Event(), asyncio.Event()

    async def handler(exchange: Exchange) -> None:
        await sign.wait()
        await exchange.send(SIGN)
        await go_on.wait()
        await exchange.respond(200, b"at last")

    async def whole() -> None:
        client = WireClient(head_timeout_s=1000, read_timeout_s=1000, idle_timeout_s=1e6, lively=lively)
        async with ScriptedServer(handler) as server:
            sink = CopyingSink()
            asked = asyncio.ensure_future(client.get(server.endpoint, b"/", [], give(sink)))
            await until(lambda: server.requests != [], "the request")
            skip(600)
            sign.set()
            await until(lambda: has_begun(client), "the sign's arrival")
            skip(600)
            await turn()
            if not lively:
                with pytest.raises(TimedOut):
                    await asked
            else:
                assert not asked.done()
                go_on.set()
                await asked
                assert bytes(sink.data) == b"at last"
            go_on.set()
        await client.aclose()

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(whole())


def test_a_server_that_has_given_signs_and_falls_silent_times_out() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send(SIGN)
        await exchange.stall()

    async def whole() -> None:
        client = WireClient(head_timeout_s=1000, read_timeout_s=1000, idle_timeout_s=1e6, lively=True)
        async with ScriptedServer(handler) as server:
            asked = asyncio.ensure_future(client.get(server.endpoint, b"/", [], give(CopyingSink())))
            await until(lambda: has_begun(client), "the sign's arrival")
            skip(1001)
            with pytest.raises(TimedOut) as raised:
                await asked
            assert raised.value.phase == "head"
        await client.aclose()

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(whole())


async def test_in_a_body_signs_of_life_are_bytes_like_any_other() -> None:
    """So a peer that waits in mid-body must let go, and is asked again."""

    async def handler(exchange: Exchange) -> None:
        await exchange.send(render_head(200, (), 40))
        await exchange.send(b"x" * 40 + SIGN)

    client = WireClient(lively=True)
    async with ScriptedServer(handler) as server:
        response, body = await fetch(client, server.endpoint)
        assert body == b"x" * 40
        assert response.status == 200
        await until(lambda: server.open_connections == 0, "the end of a connection that says what nobody asked for")
    await client.aclose()
