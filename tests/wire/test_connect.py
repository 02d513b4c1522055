"""Names with several addresses, and addresses where nobody answers."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from proxy.wire import ConnectFailed, ConnectionBroken, Endpoint, MalformedResponse, TimedOut, WireClient
from proxy.wire.connect import Address, Resolve, order_addresses
from tests.fakes.scripted import ScriptedServer, answer
from tests.waiting import until
from tests.wire.sinks import fetch

V4, V6 = socket.AF_INET, socket.AF_INET6


def test_families_alternate_beginning_with_the_resolvers_favourite() -> None:
    found: list[Address] = [(V6, "a"), (V6, "b"), (V6, "c"), (V4, "d")]
    ordered = order_addresses(found, random.Random(1))
    assert [family for family, _ in ordered] == [V6, V4, V6, V6]
    assert sorted(address for _, address in ordered) == ["a", "b", "c", "d"]


def test_the_addresses_of_a_family_share_the_load() -> None:
    found: list[Address] = [(V4, str(number)) for number in range(8)]
    firsts = {order_addresses(found, random.Random(seed))[0][1] for seed in range(200)}
    assert len(firsts) == 8


def resolver(*addresses: tuple[str, int]) -> Resolve:
    """Finds these for any name."""

    async def resolve(host: str, port: int) -> list[Address]:
        return [(V6 if ":" in own else V4, (own, own_port)) for own, own_port in addresses]

    return resolve


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose backlog is full: the kernel drops further SYNs, as a dead host would."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


NAMED = Endpoint("store.example", 80)


async def test_an_address_that_refuses_is_passed_over() -> None:
    async with ScriptedServer(answer(200, b"x")) as server:
        resolve = resolver(("127.0.0.1", closed_port()), ("127.0.0.1", closed_port()), ("127.0.0.1", server.port))
        client = WireClient(resolve=resolve, max_idle_per_endpoint=0)
        for _ in range(8):
            assert (await fetch(client, NAMED))[1] == b"x"
        assert server.requests[0].get("host") == "store.example"
        await client.aclose()


async def test_an_address_that_is_silent_is_overtaken_and_given_up() -> None:
    with silent_port() as silent:
        async with ScriptedServer(answer(200, b"x")) as server:
            resolve = resolver(("127.0.0.1", silent), ("127.0.0.1", server.port))
            client = WireClient(resolve=resolve, connect_timeout_s=60, max_idle_per_endpoint=0)
            for _ in range(4):
                assert (await fetch(client, NAMED))[1] == b"x"
            await client.aclose()
            await until(lambda: server.open_connections == 0, "the connections' end")


async def test_silence_everywhere_times_out() -> None:
    with silent_port() as silent:
        client = WireClient(resolve=resolver(("127.0.0.1", silent)), connect_timeout_s=0.1)
        with pytest.raises(TimedOut) as raised:
            await fetch(client, NAMED)
        assert raised.value.phase == "connect"
        await client.aclose()


async def test_a_resolver_that_hangs_times_out_too() -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        await asyncio.Event().wait()
        return []

    client = WireClient(resolve=resolve, connect_timeout_s=0.05)
    with pytest.raises(TimedOut):
        await fetch(client, NAMED)
    await client.aclose()


async def test_the_error_names_every_address_that_failed() -> None:
    first, second = closed_port(), closed_port()
    client = WireClient(resolve=resolver(("127.0.0.1", first), ("127.0.0.1", second)))
    with pytest.raises(ConnectFailed, match=r"store\.example") as raised:
        await fetch(client, NAMED)
    assert str(first) in str(raised.value)
    assert str(second) in str(raised.value)
    await client.aclose()


async def test_a_name_without_addresses_is_a_failed_connect() -> None:
    client = WireClient(resolve=resolver())
    with pytest.raises(ConnectFailed, match="no address"):
        await fetch(client, NAMED)
    await client.aclose()


async def test_a_server_on_ipv6_is_reached() -> None:
    try:
        socket.create_server(("::1", 0), family=V6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with ScriptedServer(answer(200, b"six"), host="::1") as server:
        client = WireClient()
        assert (await fetch(client, server.endpoint))[1] == b"six"
        assert server.requests[0].get("host") == f"[::1]:{server.port}"
        await client.aclose()


async def test_a_server_that_speaks_first_is_no_http_server() -> None:
    def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n\r\n")

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    client = WireClient()
    for _ in range(5):
        with pytest.raises((ConnectionBroken, MalformedResponse)):
            await fetch(client, Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]))
    await client.aclose()
    server.close()
