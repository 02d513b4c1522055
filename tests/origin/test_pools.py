"""Each use of an origin has connections of its own: what one use holds, another does not miss."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from proxy.errors import OriginUnavailable, Overloaded
from proxy.origin import ForwardRequest
from proxy.origin.exchange import HttpLimits
from tests.fakes.scripted import Exchange, ScriptedServer, object_of
from tests.origin.asking import read_all, s3_origin

LIMITS = HttpLimits(read_timeout_s=5, forward_timeout_s=5, pool_timeout_s=0.05, connections_max=2)
LISTING = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


async def half(exchange: Exchange) -> None:
    """Half of every object, then nothing more; other questions are answered."""
    if exchange.request.method == "HEAD":
        await object_of(b"data")(exchange)
    elif b"list-type" in exchange.request.target:
        await exchange.respond(200, LISTING)
    else:
        await exchange.send_head(200, content_length=8)
        await exchange.send(b"data")
        await exchange.stall()


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(1 << 16)


async def test_bodies_that_pass_through_leave_heads_and_listings_their_connections() -> None:
    request = ForwardRequest("GET", "b", "k", (("x", "1"),), ())
    async with (
        ScriptedServer(half) as server,
        s3_origin(server.url, limits=LIMITS) as origin,
        AsyncExitStack() as open_,
    ):
        held = [await origin.forward(request) for _ in range(2)]
        for response in held:
            open_.push_async_callback(response.close)
            assert await anext(response.body) == b"data"
        with pytest.raises(Overloaded):
            await origin.forward(request)
        with pytest.raises(Overloaded):
            await origin.forward(ForwardRequest("PUT", "b", "k", (), (), body=endless(), body_bytes=1 << 40))
        assert (await origin.head("b", "k")).size_bytes == 4
        assert not (await origin.list_objects("b", prefix="", delimiter="", after="", limit=10)).objects
        passed_head = await origin.forward(ForwardRequest("HEAD", "b", None, (), ()))
        assert (passed_head.status, await read_all(passed_head)) == (200, b"")


async def test_an_origin_that_stalls_on_heads_leaves_what_passes_through_its_connections() -> None:
    async def no_heads(exchange: Exchange) -> None:
        if exchange.request.method == "HEAD":
            await exchange.stall()
        else:
            await exchange.respond(200, b"document")

    limits = HttpLimits(read_timeout_s=0.2, forward_timeout_s=5, pool_timeout_s=0.05, connections_max=2)
    async with ScriptedServer(no_heads) as server, s3_origin(server.url, limits=limits) as origin:
        with pytest.raises(OriginUnavailable):
            await origin.head("b", "k")
        passed = await origin.forward(ForwardRequest("GET", "b", "k", (("tagging", ""),), ()))
        assert await read_all(passed) == b"document"
