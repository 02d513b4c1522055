"""Nodes tell each other of writes through a real Redis; a write waits until no node can serve what it replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.fleet.channel import Beat, Invalidation, parse_message, render_message
from proxy.fleet.freshness import FRESHNESS_S
from proxy.fleet.publisher import KEYS_MAX
from proxy.fleet.subscriber import InvalidationSubscriber
from proxy.objects import ObjectKey
from tests.fleet.invalidation_nodes import KEY, SEALS, Node, other_key, start_node
from tests.fleet.redis_servers import RedisServer, start_redis, start_sentinels
from tests.waiting import until

LONG_AGO_S = 3600.0


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    """One that has run for so long that it knows of all freshness windows."""
    with redis_server.client() as client:
        client.flushall()
        info = client.info("server")
        client.hset("test:news:since", info["run_id"], str(int((time.time() - LONG_AGO_S) * 1e6)))
    return redis_server


@pytest.fixture
async def nodes(tmp_path: Path, redis: RedisServer) -> AsyncIterator[tuple[Node, Node, Node]]:
    async with (
        start_node(tmp_path, redis.url, "a") as first,
        start_node(tmp_path, redis.url, "b") as second,
        start_node(tmp_path, redis.url, "c") as third,
    ):
        yield first, second, third


async def test_a_write_returns_when_every_node_has_forgotten_its_keys(nodes: tuple[Node, Node, Node]) -> None:
    writer, *others = nodes
    keys = [other_key(number) for number in range(20)]
    for node in others:
        for key in keys:
            node.remember(key)
    tokens = [node.tables.tokens.peek(key) for node in others for key in keys]
    await writer.publisher.tell(keys)
    assert all(node.keys.read(key) is None for node in others for key in keys)
    assert not set(tokens) & {node.tables.tokens.peek(key) for node in others for key in keys}


async def test_writes_of_many_nodes_at_once_are_all_heard(nodes: tuple[Node, Node, Node]) -> None:
    for round_number in range(5):
        keys = [other_key(10 * round_number + number) for number in range(9)]
        for node in nodes:
            for key in keys:
                node.remember(key)
        writers = [nodes[number % 3] for number in range(9)]
        await asyncio.gather(*(writer.publisher.tell([key]) for writer, key in zip(writers, keys, strict=True)))
        for writer, key in zip(writers, keys, strict=True):
            assert all(node.keys.read(key) is None for node in nodes if node is not writer)


async def test_a_thousand_writes_at_once_take_few_connections(
    nodes: tuple[Node, Node, Node], redis: RedisServer
) -> None:
    writer, *_ = nodes
    await asyncio.gather(*(writer.publisher.tell([other_key(number)]) for number in range(1000)))
    with redis.client() as client:
        assert client.info("clients")["connected_clients"] < 100


async def test_a_key_of_a_version_and_odd_names_arrive_as_they_are(nodes: tuple[Node, Node, Node]) -> None:
    writer, other, _ = nodes
    keys = [ObjectKey("s3://origin", "bucket", "\udc80 ü\n\0\"'", "null"), ObjectKey("gs://", "b", "ключ")]
    for key in keys:
        other.remember(key)
    await writer.publisher.tell(keys)
    assert all(other.keys.read(key) is None for key in keys)


async def test_a_node_that_hangs_makes_the_write_wait_until_its_lease_is_over(
    tmp_path: Path, redis: RedisServer
) -> None:
    async with (
        start_node(tmp_path, redis.url, "a", patience_s=FRESHNESS_S + 0.2) as writer,
        start_node(tmp_path, redis.url, "b") as hanging,
    ):
        checked_at_s = hanging.remember()
        hanging.go_on.clear()
        await writer.publisher.tell([KEY])
        assert not hanging.leased
        assert not hanging.freshness.covers(checked_at_s, time.time())
        hanging.go_on.set()
        await until(lambda: hanging.leased)
        assert hanging.keys.read(KEY) is None  # forgotten before the window opened again


async def test_a_node_that_has_left_is_not_waited_for(nodes: tuple[Node, Node, Node]) -> None:
    writer, leaving, _ = nodes
    await leaving.stop_listening()
    assert not leaving.leased
    await writer.publisher.tell([KEY])  # its patience is longer than the test's


async def test_a_node_that_subscribes_again_takes_what_it_knew_for_due(nodes: tuple[Node, Node, Node]) -> None:
    node = nodes[1]
    checked_at_s = node.remember()
    assert node.freshness.covers(checked_at_s, time.time())
    await node.stop_listening()
    await node.listen()
    assert not node.freshness.covers(checked_at_s, time.time())
    assert node.freshness.covers(time.time(), time.time())


async def test_a_redis_that_was_emptied_makes_writes_wait_for_leases_that_it_does_not_know(
    tmp_path: Path, redis: RedisServer
) -> None:
    async with start_node(tmp_path, redis.url, "a", patience_s=0.5) as writer:
        with redis.client() as client:
            client.flushall()
        began_s = asyncio.get_running_loop().time()
        await writer.publisher.tell([KEY])
        assert asyncio.get_running_loop().time() - began_s >= 0.5


async def test_keys_that_can_not_be_forgotten_make_everything_due(nodes: tuple[Node, Node, Node]) -> None:
    writer, other, _ = nodes
    checked_at_s = other.remember(other_key(1))
    other.forgets = False
    await writer.publisher.tell([KEY])
    assert checked_at_s < other.fleet_state.due_before_s <= time.time()


async def test_a_message_that_can_not_be_read_makes_everything_due(
    nodes: tuple[Node, Node, Node], redis: RedisServer
) -> None:
    """Of a member's: what it told may have been a write. What no member has sealed is dropped, and changes nothing."""
    node, seal = nodes[1], nodes[0].channel.seals.seal
    wrong_key = {"kind": "write", "id": "1", "reply": "", "keys": [[1, 2, 3, 4]]}
    for values in ({"kind": "write"}, {"kind": "beat", "run": "r", "at": "soon"}, wrong_key):
        before_s = node.fleet_state.due_before_s
        with redis.client() as client:
            client.publish("test:news", b"1 " + seal("news", "x", values))
        while node.fleet_state.due_before_s <= before_s:
            await asyncio.sleep(0.005)
    before_s = node.fleet_state.due_before_s
    with redis.client() as client:
        for text in (b"", b"1", b'1 {"kind":"write"}', b"9 " + seal("another", "x", {"kind": "to come"})):
            client.publish("test:news", text)
        client.publish("test:news", b"7 " + seal("news", "x", {"kind": "to come"}))
    await until(lambda: node.fleet_state.heard == 7)
    assert node.fleet_state.due_before_s == before_s


async def test_what_nodes_have_heard_grows_with_each_write(nodes: tuple[Node, Node, Node]) -> None:
    writer, other, _ = nodes
    seen = []
    for _ in range(3):
        await writer.publisher.tell([KEY])
        seen.append(other.freshness.heard)
    assert sorted(set(seen)) == seen
    assert seen[0] > 0
    await until(lambda: writer.fleet_state.heard == seen[-1])
    await other.subscriber.beat()
    await asyncio.sleep(0)
    assert other.fleet_state.heard == seen[-1]  # a beat is no news


async def test_what_was_found_to_have_changed_is_told_without_waiting(nodes: tuple[Node, Node, Node]) -> None:
    writer, other, _ = nodes
    other.remember()
    other.go_on.clear()
    writer.publisher.announce([KEY])
    other.go_on.set()
    await until(lambda: other.keys.read(KEY) is None)


async def test_a_lease_counts_from_the_moment_its_beat_was_sent(tmp_path: Path, redis: RedisServer) -> None:
    async with start_node(tmp_path, redis.url, "a", listen=False) as node:
        clock = [100.0]
        subscriber = InvalidationSubscriber(
            node.channel, "a", node.fleet_state, lambda key: True, clock=lambda: clock[0]
        )
        sent: list[bytes] = []

        async def keep(message: Beat) -> None:
            sent.append(b"5 " + render_message(SEALS, message))

        node.channel.beat = keep  # type: ignore[method-assign]
        await subscriber.beat()
        clock[0] = 102.5
        await subscriber.take("message", sent[0])
        assert node.fleet_state.fresh_until_s == 100.0 + FRESHNESS_S
        await subscriber.beat()
        clock[0] = 110.0
        await subscriber.take("message", sent[1])
        await subscriber.take("message", sent[0])  # late
        assert node.fleet_state.fresh_until_s == 102.5 + FRESHNESS_S
        other = InvalidationSubscriber(node.channel, "a", node.fleet_state, lambda key: True, clock=lambda: clock[0])
        await other.beat()
        await subscriber.take("message", sent[2])  # of the process before this one
        assert node.fleet_state.fresh_until_s == 102.5 + FRESHNESS_S


async def test_messages_read_back_as_they_were_written() -> None:
    for message in (
        Beat("node", "run", 1234.5678),
        Invalidation("id", "node", (KEY, ObjectKey("o", "b", "k", "v"))),
        Invalidation("id", "node", (), "reply"),
    ):
        assert parse_message(SEALS, b"1700000000000000 " + render_message(SEALS, message)) == (
            1700000000000000,
            message,
        )


async def test_a_write_during_an_outage_waits_and_is_told_when_redis_is_back(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        async with (
            start_node(tmp_path, server.url, "a", patience_s=1.0) as writer,
            start_node(tmp_path, server.url, "b") as other,
        ):
            server.kill()
            began_s = asyncio.get_running_loop().time()
            await writer.publisher.tell([KEY])
            assert asyncio.get_running_loop().time() - began_s >= 1.0
            await until(lambda: not other.leased)
            server.restart()
            await until(lambda: other.leased)
            await until(lambda: other.fleet_state.heard > 0)
            checked_at_s = other.remember()
            assert other.freshness.covers(checked_at_s, time.time())


async def test_more_keys_than_can_be_kept_are_told_as_anything(nodes: tuple[Node, Node, Node]) -> None:
    writer, other, _ = nodes
    before_s = other.fleet_state.due_before_s
    writer.publisher.announce([other_key(number) for number in range(KEYS_MAX + 1)])
    await until(lambda: other.fleet_state.due_before_s > before_s)


async def test_redis_killed_in_the_middle_of_a_write_ends_the_wait_with_the_leases(tmp_path: Path) -> None:
    with start_redis(tmp_path) as server:
        async with (
            start_node(tmp_path, server.url, "a", patience_s=FRESHNESS_S + 0.2) as writer,
            start_node(tmp_path, server.url, "b") as other,
        ):
            other.remember()
            other.go_on.clear()
            writing = asyncio.create_task(writer.publisher.tell([KEY]))
            with server.client() as client:
                while not client.keys("test:waiting:*"):
                    await asyncio.sleep(0.005)
            server.kill()
            await writing
            assert not other.leased


async def test_a_node_with_the_same_id_is_another_node(tmp_path: Path, redis: RedisServer) -> None:
    async with (
        start_node(tmp_path / "one", redis.url, "a") as writer,
        start_node(tmp_path / "copy", redis.url, "a") as other,
    ):
        other.remember()
        await writer.publisher.tell([KEY])
        assert other.keys.read(KEY) is None


async def test_news_go_on_at_the_master_that_took_over(tmp_path: Path) -> None:
    with start_sentinels(tmp_path) as trio:
        async with (
            start_node(tmp_path, trio.url, "a", patience_s=FRESHNESS_S + 0.2) as writer,
            start_node(tmp_path, trio.url, "b") as other,
        ):
            before_s = max(writer.fleet_state.due_before_s, other.fleet_state.due_before_s)
            trio.master.kill()
            await until(lambda: other.fleet_state.due_before_s > before_s and other.leased)
            await until(lambda: writer.fleet_state.due_before_s > before_s and writer.leased)
            other.remember()
            await writer.publisher.tell([KEY])
            assert other.keys.read(KEY) is None
