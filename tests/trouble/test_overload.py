"""More than a gateway has room for: it refuses in the client's own words, the others are served, and it says so."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.scripted import Exchange, object_of
from tests.gateways import GatewayProcess, log_lines
from tests.trouble.raw_clients import Answer, RawClients, gateway_before, read_answer, refused, used, wait_until_used
from tests.waiting import wait_until

CONTENT = random.Random(22).randbytes(7 << 20)  # more than sockets and buffers hold
REASONS = ("connections", "address", "requests", "bodies", "pass_through", "uncached_reads")


async def origin(exchange: Exchange) -> None:
    """Keys that begin with `large` are large, and `sealed` ones can't be cached."""
    target = exchange.request.target
    if b"/large" in target:
        await object_of(CONTENT)(exchange)
    elif b"/sealed" in target:
        headers = [("x-amz-server-side-encryption-customer-algorithm", "AES256")]
        await object_of(CONTENT, headers=headers)(exchange)
    elif exchange.request.method == "PUT":
        await exchange.respond(200, b"", [("etag", '"v1"')])
    else:
        await object_of(b"small")(exchange)


def is_slow_down(answer: Answer) -> bool:
    """Refused as S3 does it."""
    return (
        answer.status == 503
        and b"<Code>SlowDown</Code>" in answer.body
        and answer.headers["retry-after"] == "1"
        and "x-amz-request-id" in answer.headers
    )


def is_goog_slow_down(answer: Answer) -> bool:
    """Refused as GCS does it."""
    return (
        answer.status == 503
        and answer.headers["retry-after"] == "1"
        and json.loads(answer.body)["error"]["errors"][0]["reason"] == "backendError"
    )


def check_own_pages(raw: RawClients) -> None:
    assert raw.get("/-/health").status == 200
    assert raw.get("/-/ready").status == 200
    assert b"warmstart_" in raw.get("/-/metrics").body


def worker_rss_bytes(gateway: GatewayProcess) -> int:
    status = Path(f"/proc/{gateway.worker_pids()[0]}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) << 10


async def test_every_limit_is_shown_before_it_is_met(tmp_path: Path) -> None:
    async with gateway_before(origin, tmp_path, connections=100, connections_per_address=50) as gateway:

        def look() -> None:
            wait_until(lambda: gateway.metric("warmstart_limit", reason="connections") == 100, "no limits yet")
            samples = gateway.metrics()
            for reason in REASONS:
                assert samples[f'warmstart_shed_requests_total{{reason="{reason}"}}'] == 0
                assert samples[f'warmstart_limit{{reason="{reason}"}}'] > 0
            assert samples['warmstart_limit{reason="address"}'] == 50

        await asyncio.to_thread(look)


async def test_clients_that_take_nothing_of_what_passes_through_stop_no_other_request(tmp_path: Path) -> None:
    async with gateway_before(origin, tmp_path, pass_through=8, reader_pace=0) as gateway:

        def crowd_in() -> None:
            with RawClients(gateway) as raw:
                before_bytes = worker_rss_bytes(gateway)
                stalled = raw.stalled("/b/large?x=1", 8)
                wait_until_used(gateway, "pass_through", 8)
                assert is_slow_down(raw.get("/b/large?x=1"))
                assert raw.ask("/b/key", method="HEAD").recv(12) == b"HTTP/1.1 200"
                assert raw.get("/b/other").body == b"small"
                check_own_pages(raw)
                assert refused(gateway, "pass_through") == 1
                assert worker_rss_bytes(gateway) - before_bytes < 24 << 20
                for client in stalled:
                    assert read_answer(client).body == CONTENT
            wait_until_used(gateway, "pass_through", 0)
            assert any("pass_through" in str(line["message"]) for line in log_lines(gateway.logs()))

        await asyncio.to_thread(crowd_in)


async def test_a_slow_client_of_what_passes_through_makes_room_and_gets_the_rest_later(tmp_path: Path) -> None:
    async with gateway_before(origin, tmp_path, pass_through=4) as gateway:

        def crowd_in() -> None:
            with RawClients(gateway) as raw:
                stalled = raw.stalled("/b/large?x=1", 4)
                wait_until_used(gateway, "pass_through", 4)
                wait_until(lambda: raw.get("/b/large?x=1").body == CONTENT, "no slow client made room")
                assert all(read_answer(client).body == CONTENT for client in stalled)
            wait_until_used(gateway, "pass_through", 0)

        await asyncio.to_thread(crowd_in)


async def test_reads_past_the_cache_beyond_their_limit_are_refused(tmp_path: Path) -> None:
    async with gateway_before(origin, tmp_path, uncached_reads=3) as gateway:

        def crowd_in() -> None:
            with RawClients(gateway) as raw:
                stalled = raw.stalled("/b/sealed", 3)
                wait_until_used(gateway, "uncached_reads", 3)
                assert is_slow_down(raw.get("/b/sealed"))
                assert raw.get("/b/other").body == b"small"
                assert all(read_answer(client).body == CONTENT for client in stalled)
            wait_until_used(gateway, "uncached_reads", 0)

        await asyncio.to_thread(crowd_in)


async def test_whole_bodies_stay_within_their_bytes_whoever_sends_them(tmp_path: Path) -> None:
    length = 10 << 20
    head = (f"Content-Length: {length}", "Content-Type: multipart/mixed; boundary=b")

    async with gateway_before(origin, tmp_path, body_bytes="16MiB") as gateway:

        def crowd_in() -> None:
            with RawClients(gateway) as raw:
                before_bytes = worker_rss_bytes(gateway)
                first = raw.ask("/batch/storage/v1", *head, method="POST")
                first.sendall(bytes(length - 1))
                wait_until_used(gateway, "bodies", length - 1)
                others = [raw.ask("/batch/storage/v1", *head, method="POST") for _ in range(10)]
                for client in others:
                    client.sendall(bytes(length))
                    assert is_goog_slow_down(read_answer(client))
                assert refused(gateway, "bodies") == 10
                assert worker_rss_bytes(gateway) - before_bytes < 64 << 20
                deletion = raw.ask("/b?delete", "Content-Length: 2000000", method="POST")
                deletion.sendall(bytes(2_000_000))
                assert read_answer(deletion).status == 400, "there is room for a small one: its XML is wrong"
                first.sendall(b"x")
                assert read_answer(first).status == 400
            wait_until_used(gateway, "bodies", 0)

        await asyncio.to_thread(crowd_in)


async def test_requests_beyond_their_limit_are_refused_and_the_own_pages_answer(tmp_path: Path) -> None:
    loop, answers = asyncio.get_running_loop(), asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        if b"/silent" in exchange.request.target:
            await answers.wait()
        await object_of(b"small")(exchange)

    async with gateway_before(silent, tmp_path, requests=16) as gateway:

        def crowd_in() -> None:
            with RawClients(gateway) as raw:
                waiting = [raw.ask(f"/b/silent{number}") for number in range(16)]
                wait_until_used(gateway, "requests", 16)
                assert is_slow_down(raw.get("/b/key"))
                assert is_goog_slow_down(raw.get("/storage/v1/b/b/o/key"))
                check_own_pages(raw)
                assert refused(gateway, "requests") == 2
                loop.call_soon_threadsafe(answers.set)
                assert all(read_answer(client).body == b"small" for client in waiting)
                wait_until_used(gateway, "requests", 0)
                assert raw.get("/b/key").body == b"small"

        await asyncio.to_thread(crowd_in)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"connections": 20, "connections_per_address": 20}, "connections"),
        ({"connections": 200, "connections_per_address": 20}, "address"),
    ],
)
async def test_connections_beyond_their_limit_get_an_answer_and_the_own_pages_always_do(
    tmp_path: Path, limits: dict[str, Any], reason: str
) -> None:
    async with gateway_before(origin, tmp_path, **limits) as gateway:

        def crowd_in() -> None:
            with RawClients(gateway, "127.0.0.9") as raw, RawClients(gateway, "127.0.0.8") as elsewhere:
                clients = [raw.connect() for _ in range(20)]
                wait_until(lambda: used(gateway, reason) >= 20, "not yet in")
                answer = raw.get("/b/key")
                assert is_slow_down(answer)
                assert answer.headers["connection"] == "close"
                assert is_goog_slow_down(raw.get("/storage/v1/b/b/o/key"))
                check_own_pages(raw)
                for _ in range(80):  # more than the reserve holds
                    raw.connect()
                check_own_pages(raw)
                assert (elsewhere.get("/b/key").status == 200) == (reason == "address")
                assert refused(gateway, reason) >= 2
                clients[0].sendall(b"GET /b/key HTTP/1.1\r\nHost: here\r\n\r\n")
                assert read_answer(clients[0]).body == b"small", "who is in is served"
            wait_until(lambda: used(gateway, reason) <= 1, "the places are not free again")
            with RawClients(gateway, "127.0.0.9") as raw:
                assert raw.get("/b/key").body == b"small"

        await asyncio.to_thread(crowd_in)


async def test_a_gateway_with_few_open_files_refuses_before_it_runs_out_of_them(tmp_path: Path) -> None:
    config = {"event_loop": "asyncio"}
    async with gateway_before(origin, tmp_path, config, connections=100) as gateway:

        def crowd_in() -> None:
            with RawClients(gateway) as raw:
                for _ in range(400):
                    raw.connect()
                check_own_pages(raw)
            assert "out of system resource" not in gateway.logs()

        await asyncio.to_thread(crowd_in)


async def test_an_upload_that_drips_is_given_up_and_leaves_its_key_to_the_cache(tmp_path: Path) -> None:
    async with gateway_before(origin, tmp_path, receive_timeout="1s") as gateway:

        def drip() -> None:
            with RawClients(gateway) as raw:
                client = raw.ask("/b/key", "Content-Length: 1000000", method="PUT")
                client.setblocking(False)
                deadline_s, got = time.monotonic() + 60, b""
                while b"</Error>" not in got:
                    assert time.monotonic() < deadline_s
                    client.send(b"x")
                    time.sleep(0.05)  # the drip is what is tried
                    try:
                        got += client.recv(1 << 16)
                    except BlockingIOError:
                        continue
                assert b"<Code>RequestTimeout</Code>" in got
                assert raw.get("/b/key").body == b"small"
                wait_until(lambda: raw.get("/b/key").headers["x-cache"] == "HIT", "the key stays fenced")

        await asyncio.to_thread(drip)
