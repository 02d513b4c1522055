"""TLS: who is trusted, and how bodies end there."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from proxy.wire import ConnectFailed, ConnectionBroken, Endpoint, Response, TimedOut, WireClient
from proxy.wire.tls import make_tls_context
from tests.fakes.certificates import Certificates, make_certificates
from tests.fakes.scripted import Exchange, ScriptedServer, answer, object_of, render_head
from tests.waiting import until
from tests.wire.sinks import CopyingSink, SlowSink, fetch, give


@pytest.fixture
async def trusting(certificates: Certificates) -> AsyncIterator[WireClient]:
    made = WireClient(ssl_context=make_tls_context(ca_file=certificates.ca_file))
    yield made
    await made.aclose()


async def test_a_body_over_tls_arrives_whole_and_the_connection_is_kept(
    trusting: WireClient, certificates: Certificates, blob: bytes
) -> None:
    async with ScriptedServer(object_of(blob), tls=certificates.server_context()) as server:
        assert server.url.startswith("https://")
        for _ in range(3):
            assert (await fetch(trusting, server.endpoint))[1] == blob
    assert server.accepted == 1


async def test_a_slow_sink_over_tls_gets_the_same_bytes(
    trusting: WireClient, certificates: Certificates, blob: bytes
) -> None:
    sink = SlowSink()
    async with ScriptedServer(object_of(blob), tls=certificates.server_context()) as server:
        await trusting.get(server.endpoint, b"/k", [], give(sink))
    assert sink.data == blob


async def test_slow_and_quick_sinks_over_tls_do_not_mix(trusting: WireClient, certificates: Certificates) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, bytes([int(exchange.request.target[1:])]) * 700_000)

    slow = [SlowSink() for _ in range(4)]
    async with ScriptedServer(handler, tls=certificates.server_context()) as server:
        endpoint = server.endpoint
        *_, a, b = await asyncio.gather(
            *(trusting.get(endpoint, b"/%d" % number, [], give(sink)) for number, sink in enumerate(slow)),
            fetch(trusting, endpoint, b"/100"),
            fetch(trusting, endpoint, b"/101"),
        )
    assert isinstance(a, tuple)
    assert isinstance(b, tuple)
    assert (a[1], b[1]) == (b"\x64" * 700_000, b"\x65" * 700_000)
    for number, sink in enumerate(slow):
        assert sink.data == bytes([number]) * 700_000


async def test_an_unknown_authority_is_refused_by_default(client: WireClient, certificates: Certificates) -> None:
    async with ScriptedServer(answer(), tls=certificates.server_context()) as server:
        with pytest.raises(ConnectFailed, match=r"(?i)certificate"):
            await fetch(client, server.endpoint)
        assert server.requests == []


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    foreign = make_certificates(tmp_path, "store.example.com")
    client = WireClient(ssl_context=make_tls_context(ca_file=foreign.ca_file))
    async with ScriptedServer(answer(), tls=foreign.server_context()) as server:
        with pytest.raises(ConnectFailed, match=r"(?i)certificate"):
            await fetch(client, server.endpoint)
    await client.aclose()


async def test_a_certificate_for_the_name_that_is_asked_for_will_do_at_any_address(tmp_path: Path) -> None:
    foreign = make_certificates(tmp_path, "store.example.com")
    context = make_tls_context(ca_file=foreign.ca_file)
    client = WireClient(ssl_context=context, tls_name="store.example.com")
    other = WireClient(ssl_context=context, tls_name="shop.example.com")
    async with ScriptedServer(answer(200, b"x"), tls=foreign.server_context()) as server:
        assert (await fetch(client, server.endpoint))[1] == b"x"
        with pytest.raises(ConnectFailed, match=r"(?i)certificate"):
            await fetch(other, server.endpoint)
    await client.aclose()
    await other.aclose()


async def test_with_verification_off_any_certificate_will_do(tmp_path: Path) -> None:
    foreign = make_certificates(tmp_path, "store.example.com")
    client = WireClient(ssl_context=make_tls_context(verify=False))
    async with ScriptedServer(answer(200, b"x"), tls=foreign.server_context()) as server:
        assert (await fetch(client, server.endpoint))[1] == b"x"
    await client.aclose()


async def test_the_name_is_sent_for_virtual_hosts(trusting: WireClient, certificates: Certificates) -> None:
    names: list[str | None] = []
    context = certificates.server_context()
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    async with ScriptedServer(answer(), tls=context) as server:
        await fetch(trusting, Endpoint("localhost", server.port, tls=True))
    assert names == ["localhost"]


async def test_a_server_that_never_shakes_hands_times_out(certificates: Certificates) -> None:
    async with ScriptedServer(answer()) as server:  # plain: it waits for a request line
        client = WireClient(tls_timeout_s=0.1, ssl_context=make_tls_context(ca_file=certificates.ca_file))
        with pytest.raises(TimedOut) as raised:
            await fetch(client, Endpoint("127.0.0.1", server.port, tls=True))
        assert raised.value.phase == "tls"
        await until(lambda: server.open_connections == 0, "the connection's end")
        await client.aclose()


async def test_a_server_that_speaks_no_tls_is_a_failed_connect(trusting: WireClient) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConnectFailed):
        await fetch(trusting, Endpoint("127.0.0.1", port, tls=True))
    server.close()


async def test_a_body_without_a_length_ends_with_close_notify(trusting: WireClient, certificates: Certificates) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head()
        await exchange.send(b"x" * 100_000)
        exchange.close()

    async with ScriptedServer(handler, tls=certificates.server_context()) as server:
        assert (await fetch(trusting, server.endpoint))[1] == b"x" * 100_000


async def test_a_server_that_says_goodbye_while_the_connection_is_idle_need_not_wait_for_an_answer(
    trusting: WireClient, certificates: Certificates
) -> None:
    """It closes the connection, and does not leave that to a server that waits for close_notify in its turn."""
    left = threading.Event()

    def serve(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with certificates.server_context().wrap_socket(accepted, server_side=True) as sealed:
            sealed.settimeout(30)
            sealed.recv(64 << 10)
            sealed.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
            with suppress(OSError):
                sealed.unwrap()  # close_notify, and then the client's; or the end
            left.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        endpoint = Endpoint("127.0.0.1", listener.getsockname()[1], tls=True)
        assert (await fetch(trusting, endpoint))[1] == b"x"
        await until(left.is_set, "the connection's end")
        await asyncio.to_thread(thread.join)


async def test_a_body_without_a_length_that_is_cut_below_tls_is_broken(
    trusting: WireClient, certificates: Certificates
) -> None:
    """Anybody on the way can send a FIN; only the peer can send close_notify."""
    sink = CopyingSink()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head()
        await exchange.send(b"half")
        await until(lambda: len(sink.data) == 4, "the first bytes' arrival")
        exchange.cut()

    async with ScriptedServer(handler, tls=certificates.server_context()) as server:
        with pytest.raises(ConnectionBroken):
            await trusting.get(server.endpoint, b"/k", [], give(sink))


@pytest.mark.parametrize("framed", [True, False])
async def test_a_close_seen_while_the_sink_is_busy_counts_after_what_came_before_it(
    trusting: WireClient, certificates: Certificates, framed: bool
) -> None:
    sink = SlowSink(open_gate=False)

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=300_000 if framed else None)
        await exchange.send(b"x" * 300_000)
        exchange.close()

    async with ScriptedServer(handler, tls=certificates.server_context()) as server:
        running = asyncio.create_task(trusting.get(server.endpoint, b"/k", [], give(sink)))
        await until(lambda: sink.writing == 1 and server.open_connections == 0, "the first write and the close")
        sink.barrier.set()
        await running
    assert sink.data == b"x" * 300_000


@contextmanager
def abrupt_server(context: ssl.SSLContext, response: bytes, *, notify: bool) -> Iterator[tuple[int, threading.Thread]]:
    """Sends a response and its FIN in one go, as many servers do: they don't wait for the client's close_notify."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as sealed:
            sealed.recv(65536)
            sealed.sendall(response)
            if notify:
                sealed.settimeout(0)  # send close_notify, don't wait for the client's
                with suppress(ssl.SSLError, OSError):
                    sealed.unwrap()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], thread
    finally:
        thread.join()
        listener.close()


@pytest.mark.parametrize("framed", [True, False])
@pytest.mark.parametrize("notify", [True, False])
async def test_a_close_while_the_sink_is_busy_loses_nothing_that_was_sent_before_it(
    trusting: WireClient, certificates: Certificates, framed: bool, notify: bool
) -> None:
    body = b"x" * 100_000  # less than sockets hold, so that the server is gone before the sink is done
    response = render_head(200, (), len(body) if framed else None) + body
    sink = SlowSink(open_gate=False)
    with abrupt_server(certificates.server_context(), response, notify=notify) as (port, server):
        running = asyncio.create_task(trusting.get(Endpoint("127.0.0.1", port, tls=True), b"/k", [], give(sink)))
        await until(lambda: sink.writing == 1 and not server.is_alive(), "the first write and the server's end")
        sink.barrier.set()
        outcome = (await asyncio.gather(running, return_exceptions=True))[0]
    assert sink.data == body
    assert isinstance(outcome, Response if framed or notify else ConnectionBroken)


async def test_a_sealed_record_that_was_tampered_with_breaks_the_connection(
    trusting: WireClient, certificates: Certificates
) -> None:
    sink = CopyingSink()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, content_length=1000)
        await exchange.send(b"good")
        await until(lambda: len(sink.data) == 4, "the first bytes' arrival")
        os.write(exchange.fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))
        await exchange.stall()

    async with ScriptedServer(handler, tls=certificates.server_context()) as server:
        with pytest.raises(ConnectionBroken, match="TLS") as raised:
            await trusting.get(server.endpoint, b"/k", [], give(sink))
    assert raised.value.received_bytes == len(sink.data) == 4
