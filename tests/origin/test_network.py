"""The sockets beneath httpx: bounded memory, both ends seen, also under TLS and on both event loops."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpcore
import pytest
import uvloop

from proxy.origin.network import Network, Pipe, Stream
from tests.fakes.certificates import make_certificates
from tests.fakes.scripted import Exchange, ScriptedServer, answer

RECEIVE_BYTES_MAX = 256 << 10
REQUEST = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop, uvloop.new_event_loop]
both_loops = pytest.mark.parametrize("loop", LOOPS, ids=["asyncio", "uvloop"])


def run(loop: Callable[[], asyncio.AbstractEventLoop], work: Awaitable[None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(30):
            await work

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(within())


def pipe_of(stream: Stream) -> Pipe:
    return stream._pipe


@both_loops
def test_a_body_that_nobody_takes_holds_no_more_than_one_receive(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    sent_bytes = 0

    async def pours(exchange: Exchange) -> None:
        nonlocal sent_bytes
        await exchange.send_head(200, content_length=64 << 20)
        while True:
            await exchange.send(bytes(1 << 20))
            sent_bytes += 1 << 20

    async def work() -> None:
        async with ScriptedServer(pours) as server:
            stream = await Network().connect_tcp("127.0.0.1", server.port, 10)
            await stream.write(REQUEST, 10)
            assert await stream.read(100, 10)
            before = -1
            while before != sent_bytes:  # until sockets are full
                before = sent_bytes
                await asyncio.sleep(0.2)
            assert len(pipe_of(stream).held) <= RECEIVE_BYTES_MAX
            for _ in range(100):
                assert await stream.read(1 << 16, 10)
                assert len(pipe_of(stream).held) <= RECEIVE_BYTES_MAX
            assert sent_bytes < 64 << 20
            await stream.aclose()

    run(loop, work())


@both_loops
def test_bytes_come_whole_under_tls(loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    files = make_certificates(tmp_path)

    async def work() -> None:
        async with ScriptedServer(answer(200, content), tls=files.server_context()) as server:
            stream = await Network().connect_tcp("127.0.0.1", server.port, 10)
            stream = await stream.start_tls(ssl.create_default_context(cafile=files.ca_file), "127.0.0.1", 10)
            assert stream.get_extra_info("ssl_object") is not None
            await stream.write(REQUEST.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"), 10)
            got = b""
            while not got.endswith(content):
                got += await stream.read(1 << 16, 10)
            await stream.aclose()

    run(loop, work())


@both_loops
def test_an_idle_connection_that_the_origin_has_closed_or_spoken_on_is_no_good(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def work() -> None:
        read = asyncio.Event()

        async def then_closes(exchange: Exchange) -> None:
            await exchange.respond(200, b"ok")
            await read.wait()
            exchange.close()

        async def then_speaks(exchange: Exchange) -> None:
            await exchange.respond(200, b"ok")
            await read.wait()
            await exchange.send(b"HTTP/1.1 200 OK\r\n\r\n")

        for handler in (then_closes, then_speaks):
            async with ScriptedServer(handler) as server:
                stream = await Network().connect_tcp("127.0.0.1", server.port, 10)
                assert not stream.get_extra_info("is_readable")
                await stream.write(REQUEST, 10)
                while not (await stream.read(1 << 16, 10)).endswith(b"ok"):
                    pass
                assert not stream.get_extra_info("is_readable")
                read.set()
                while not stream.get_extra_info("is_readable"):
                    await asyncio.sleep(0.01)
                await stream.aclose()
                read.clear()

    run(loop, work())


@both_loops
def test_what_goes_wrong_has_the_name_that_httpx_knows(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def resets(exchange: Exchange) -> None:
        exchange.reset()

    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = int(silent.getsockname()[1])
            stream = await Network().connect_tcp("127.0.0.1", port, 10)
            with pytest.raises(httpcore.ReadTimeout):
                await stream.read(1, 0.01)
            with pytest.raises(httpcore.WriteTimeout):
                await stream.write(bytes(64 << 20), 0.01)
            await stream.aclose()
            with pytest.raises(httpcore.ConnectTimeout):
                await (await Network().connect_tcp("127.0.0.1", port, 10)).start_tls(
                    ssl.create_default_context(), "127.0.0.1", 0.01
                )
        with pytest.raises(httpcore.ConnectError):
            await Network().connect_tcp("127.0.0.1", port, 10)
        async with ScriptedServer(resets) as server:
            stream = await Network().connect_tcp("127.0.0.1", server.port, 10)
            await stream.write(REQUEST, 10)
            with pytest.raises(httpcore.ReadError):
                await stream.read(1, 10)

    run(loop, work())
