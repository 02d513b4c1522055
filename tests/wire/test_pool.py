"""How many idle connections are kept, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from proxy.wire import WireClient
from tests.fakes.scripted import Exchange, Handler, ScriptedServer, answer
from tests.waiting import until
from tests.wire.sinks import fetch


def together(count: int) -> Handler:
    """Answers only when `count` requests are here, so that each needs its own connection."""
    barrier = asyncio.Barrier(count)

    async def handler(exchange: Exchange) -> None:
        await barrier.wait()
        await exchange.respond(200, b"x")

    return handler


@pytest.mark.parametrize("kept", [0, 1, 3])
async def test_no_more_idle_connections_are_kept_than_allowed(kept: int) -> None:
    client = WireClient(max_idle_per_endpoint=kept)
    async with ScriptedServer(together(5)) as server:
        await asyncio.gather(*(fetch(client, server.endpoint) for _ in range(5)))
        await until(lambda: server.open_connections == kept, "only the idle ones stay open")
        await client.aclose()
        await until(lambda: server.open_connections == 0, "closing the client closes them")


async def test_idle_connections_expire() -> None:
    client = WireClient(idle_timeout_s=0.05)
    async with ScriptedServer(together(3)) as server:
        await asyncio.gather(*(fetch(client, server.endpoint) for _ in range(3)))
        assert server.open_connections == 3
        await until(lambda: server.open_connections == 0, "the connections' end")
        server.handler = answer(200, b"x")
        await fetch(client, server.endpoint)
        await until(lambda: server.open_connections == 0, "the next one's end: the pool's clock runs again")
    await client.aclose()


async def test_endpoints_do_not_share_connections(client: WireClient) -> None:
    async with ScriptedServer(answer(200, b"a")) as one, ScriptedServer(answer(200, b"b")) as other:
        for _ in range(2):
            assert (await fetch(client, one.endpoint))[1] == b"a"
            assert (await fetch(client, other.endpoint))[1] == b"b"
        assert (one.accepted, other.accepted) == (1, 1)
