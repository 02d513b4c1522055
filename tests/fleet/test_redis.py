"""Every form of Redis that a URL can name answers, and one that is gone says so soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from proxy.fleet.redis import REDIS_ERRORS, first_address, open_redis, parse_sentinel_url
from tests.fakes.certificates import make_certificates
from tests.fleet.redis_servers import start_redis, start_sentinels, tls_door
from tests.servers import free_port


async def answers(url: str) -> bool:
    client = open_redis(url)
    try:
        await client.set("greeting", b"\xff", px=10_000)
        return bool(await client.get("greeting") == b"\xff")
    finally:
        await client.aclose()


async def test_a_plain_server_answers_by_port_and_by_unix_socket(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        assert await answers(server.url)
        assert await answers(server.socket_url)


async def test_user_and_password_of_the_url_are_used(tmp_path: Path) -> None:
    with start_redis(tmp_path, user="fleet", password="s3cret") as server:
        assert await answers(server.url)
        assert await answers(server.socket_url)
        with pytest.raises(REDIS_ERRORS):
            await answers(f"redis://127.0.0.1:{server.port}/0")


async def test_tls_is_spoken_and_the_certificate_checked(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    with (
        start_redis(tmp_path, password="s3cret") as server,
        tls_door(server.port, certificates.server_file, certificates.key_file) as port,
    ):
        assert await answers(f"rediss://:s3cret@127.0.0.1:{port}/0?ssl_ca_certs={certificates.ca_file}")
        with pytest.raises(REDIS_ERRORS):
            await answers(f"rediss://:s3cret@127.0.0.1:{port}/0")


async def test_a_client_of_sentinels_finds_the_master_that_took_over(tmp_path: Path) -> None:
    with start_sentinels(tmp_path) as trio:
        client = open_redis(trio.url)
        try:
            await client.set("a", "b")
            trio.master.kill()
            async with asyncio.timeout(60):
                while not await sets_again(client):
                    await asyncio.sleep(0.05)
            assert await client.get("a") == b"c"
        finally:
            await client.aclose()


async def sets_again(client: object) -> bool:
    try:
        return bool(await client.set("a", "c"))  # type: ignore[attr-defined]
    except REDIS_ERRORS:
        return False


async def test_a_server_that_is_gone_is_an_error_and_one_that_came_back_answers_by_the_same_client(
    tmp_path: Path,
) -> None:
    with start_redis(tmp_path) as server:
        client = open_redis(server.url)
        try:
            assert await client.ping()
            server.kill()
            with pytest.raises(REDIS_ERRORS):
                await client.ping()
            server.restart()
            assert await client.ping()
        finally:
            await client.aclose()


async def test_a_cancelled_task_ends_in_whatever_moment_and_spoils_no_answer_of_others(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        client = open_redis(server.url)
        try:
            script = client.register_script("return ARGV[1]")
            await script([], ["warm"])

            async def ask_on() -> None:
                while True:
                    await script([], ["mine"])

            for turns in range(60):
                task = asyncio.create_task(ask_on())
                for _ in range(turns % 12):
                    await asyncio.sleep(0)
                task.cancel()
                done, _ = await asyncio.wait({task}, timeout=10)
                assert done
                assert await script([], ["other"]) == b"other"
        finally:
            await client.aclose()


async def test_nobody_at_the_port_is_an_error() -> None:
    with pytest.raises(REDIS_ERRORS):
        await answers(f"redis://127.0.0.1:{free_port()}/0")


def test_a_url_of_sentinels_says_places_master_and_both_kinds_of_credentials() -> None:
    url = "rediss+sentinel://me:p%40ss@one:1,[::1],three:3/my%2Fmaster/2?sentinel_password=other&ssl_ca_certs=/ca.pem"
    place = parse_sentinel_url(url)
    assert place.sentinels == (("one", 1), ("::1", 26379), ("three", 3))
    assert (place.master, place.tls) == ("my/master", True)
    assert place.options == {"username": "me", "password": "p@ss", "db": 2, "ssl_ca_certs": "/ca.pem"}
    assert place.sentinel_options == {"password": "other", "ssl_ca_certs": "/ca.pem"}


def test_the_way_to_redis_leads_over_its_first_place() -> None:
    assert first_address("redis://:x@[fd00::1]:7/0") == ("fd00::1", 7)
    assert first_address("redis://redis/0") == ("redis", 6379)
    assert first_address("redis+sentinel://one,two/m/0") == ("one", 26379)
    assert first_address("unix:///run/redis.sock") is None


@pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_connection_that_was_reset_while_it_lay_idle_is_replaced(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def use(url: str) -> None:
        client = open_redis(url)
        await client.set("a", "b")
        pool = client.connection_pool
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        connection._writer.transport.abort()
        await asyncio.sleep(0.01)
        with pytest.raises(REDIS_ERRORS):
            await connection.send_command("GET", "a", check_health=False)
            await connection.read_response()
        await pool.release(connection)
        assert await client.get("a") == b"b"
        await client.aclose()

    with start_redis(tmp_path) as server, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(use(server.url))
