"""What anybody may leave in Redis: it is dropped and counted, and the fleet goes on, whatever it is."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from proxy.fleet.channel import Beat, Invalidation, InvalidationChannel, render_message
from proxy.fleet.members.status import NodeStatus, render_status
from proxy.fleet.messages import Seals
from proxy.fleet.rate_store import RateStore
from proxy.fleet.redis import REDIS_ERRORS, open_redis
from proxy.fleet.rediskeys import RedisKeys
from proxy.fleet.roster import Member
from proxy.fleet.state import FleetState
from proxy.fleet.subscriber import InvalidationSubscriber
from proxy.metrics import DROPPED_MESSAGES
from proxy.objects import ObjectKey
from proxy.relay.lease import LEASE_S, Lease, Leases
from proxy.upstream.limiter import AdaptiveLimiter, Ticket, private_numbers
from proxy.upstream.sharing import SharedLimiter, Sharing
from tests.fleet.asking import SECRET, control_pid
from tests.fleet.invalidation_nodes import SEALS
from tests.fleet.redis_servers import RedisServer, start_redis
from tests.gateways import GatewayProcess, start_gateway
from tests.waiting import wait_until

KEY = ObjectKey("s3://origin", "bucket", "key")
FORGED = NodeStatus(Member("f" * 32, "http://127.0.0.1:1", "http://127.0.0.1:2", capacity_bytes=1 << 50))
JUNK: dict[str, bytes] = {
    "nothing": b"",
    "bytes": b"\xff\xfe\x00",
    "a number": b"7",
    "a stamp of 30 digits": b"1" * 30 + b' {"kind":"beat"}',
    "a negative stamp": b'-5 {"kind":"beat","node":"a","run":"b","at":1}',
    "nested": b"[" * 100_000,
    "nested behind a stamp": b"5 " + b'{"a":' * 50_000,
    "a number of 400 digits": b'5 {"kind":"beat","node":"a","run":"b","at":' + b"9" * 400 + b"}",
    "infinity": b'5 {"kind":"beat","node":"a","run":"b","at":1e300}',
    "not a number": b'5 {"kind":"beat","node":"a","run":"b","at":NaN}',
    "a forged write": b'5 {"kind":"write","id":"1","from":"a","reply":"","keys":[["s3://origin","bucket","key",null]]}',
    "a forged member": render_status(FORGED),
    "a member with another secret": Seals([b"another secret, as long"]).seal("member", "f" * 32, {}),
    "much": b"x" * (1 << 20),
}
junk = st.binary(max_size=200) | st.sampled_from(sorted(JUNK.values())) | st.text(max_size=40).map(str.encode)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    client = open_redis(server.url)
    await client.flushall()
    yield client
    await client.aclose()


def dropped(kind: str) -> float:
    return sum(
        sample.value
        for metric in DROPPED_MESSAGES.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["kind"] == kind
    )


class Listener:
    """A node's ear, given what the channel brings by hand."""

    def __init__(self, redis: Redis) -> None:
        self.fleet_state = FleetState.create()
        self.forgotten: list[ObjectKey] = []
        self.clock = [100.0]
        self.channel = InvalidationChannel(redis, "test", SEALS)
        self.subscriber = InvalidationSubscriber(
            self.channel, "me", self.fleet_state, self._forget, clock=lambda: self.clock[0]
        )

    def _forget(self, key: ObjectKey) -> bool:
        self.forgotten.append(key)
        return True

    async def hear(self, message: Beat | Invalidation, stamp: bytes = b"5") -> None:
        await self.subscriber.take("message", stamp + b" " + render_message(SEALS, message))


@pytest.fixture
def listener(redis: Redis) -> Iterator[Listener]:
    made = Listener(redis)
    yield made
    made.fleet_state.close()


@pytest.mark.parametrize("name", sorted(JUNK))
async def test_junk_on_the_channel_is_dropped_and_counted_and_changes_nothing(listener: Listener, name: str) -> None:
    before = dropped("news")
    await listener.subscriber.take("message", JUNK[name])
    assert dropped("news") == before + 1
    assert (listener.forgotten, listener.fleet_state.heard, listener.fleet_state.due_before_s) == ([], 0, 0.0)
    await listener.hear(Invalidation("1", "other", (KEY,)))
    assert (listener.forgotten, listener.fleet_state.heard) == ([KEY], 5)


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_bytes_on_the_channel_are_dropped(listener: Listener, data: bytes) -> None:
    before = dropped("news")
    await listener.subscriber.take("message", data)
    assert dropped("news") == before + 1


@pytest.mark.parametrize("stamp", [b"", b"-5", b"1" * 30, b"nan", b"1e5", b"9" * 18, b"0x5"])
async def test_a_write_counts_whatever_its_stamp_is_and_a_wrong_stamp_does_not(
    listener: Listener, stamp: bytes
) -> None:
    """The seal covers the write; the stamp is Redis's word alone, and one far ahead would make every owner ask anew."""
    await listener.hear(Invalidation("1", "other", (KEY,)), stamp)
    assert (listener.forgotten, listener.fleet_state.heard) == ([KEY], 0)


@pytest.mark.parametrize("at_s", [1e300, 100.5, float("nan"), float("inf")])
async def test_a_beat_of_the_future_renews_no_lease(listener: Listener, at_s: float) -> None:
    await listener.hear(Beat("me", listener.subscriber._run, at_s))
    assert listener.fleet_state.fresh_until_s == 0.0
    await listener.hear(Beat("me", listener.subscriber._run, 100.0))
    assert listener.fleet_state.fresh_until_s > 100.0


@pytest.mark.parametrize("kind", ["string", "list", "stamp", "future", "words"])
async def test_keys_that_hold_what_no_node_has_written_are_begun_anew(redis: Redis, kind: str) -> None:
    """Else one of them would end all coordination for a day."""
    names = [f"test:news:{name}" for name in ("stamp", "listening", "since")]
    info = await redis.info("server")
    for name in names:
        await redis.delete(name)
        if kind == "string":
            await redis.set(name, "x")
        elif kind == "list":
            await redis.rpush(name, "x")
    values = {"stamp": "9" * 30, "future": str(int((time.time() + 1e6) * 1e6)), "words": "nan"}
    if kind in values:
        await redis.set(names[0], values[kind])
        await redis.hset(names[2], info["run_id"], values[kind])
    channel = InvalidationChannel(redis, "test", SEALS)
    await channel.beat(Beat("one", "run", 0.0))
    told = await channel.tell(Invalidation("1", "two", (KEY,), channel.reply_channel("two")))
    assert told.waiting == 1
    stamp = int(await redis.get(names[0]) or b"")
    assert abs(stamp - time.time() * 1e6) < 60e6


@given(texts=st.dictionaries(st.sampled_from(["one", "two", "me"]), junk), plan=junk)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_reports_and_plans_that_no_member_has_written_share_nothing_out(
    redis: Redis, texts: dict[str, bytes], plan: bytes
) -> None:
    for name, text in texts.items():
        await redis.hset("test:limits:o:reports", name, b"%f " % time.time() + text)
    await redis.set("test:limits:o:plan", plan)
    swapped = await RateStore(redis, "test", "me", SEALS).swap("o", "mine", 100.0)
    assert (swapped.plan, swapped.reports) == (None, {"me": b"mine"})
    await redis.delete("test:limits:o:planner")


@pytest.mark.parametrize("name", ["reports", "plan", "planner"])
async def test_limits_of_another_type_are_begun_anew(redis: Redis, name: str) -> None:
    await redis.rpush(f"test:limits:o:{name}", "x")
    swapped = await RateStore(redis, "test", "me", SEALS).swap("o", "mine", 100.0)
    assert (swapped.plan, swapped.reports) == (None, {"me": b"mine"})


async def test_a_member_that_reports_nonsense_ends_nobodys_sharing(redis: Redis) -> None:
    other = RateStore(redis, "test", "other", SEALS)
    for text in ("[]", '{"served":1e400}', '{"served":NaN}', "[" * 1000):
        numbers = private_numbers()
        limiter = AdaptiveLimiter(numbers, 0, concurrency_max=64, name="s3://origin")
        assert isinstance(limiter.enter(), Ticket)
        limits = SharedLimiter(limiter, numbers)
        await redis.delete(f"test:limits:{limits.name}:planner")
        await other.swap(limits.name, text, 100.0)
        await other.plan(limits.name, text)
        await Sharing([limits], lambda: 2, RateStore(redis, "test", "me", SEALS), REDIS_ERRORS).exchange()


@given(junk)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_lease_that_is_none_holds_nobody_up(redis: Redis, text: bytes) -> None:
    leases = Leases(redis, "test", "me", REDIS_ERRORS)
    try:
        await redis.set(RedisKeys("test").lease(bytes(32).hex(), 0), text, px=int(LEASE_S * 1000))
        async with asyncio.timeout(30):
            assert isinstance(await leases.take(bytes(32), 0, 8), Lease)
    finally:
        await leases.aclose()


def test_the_control_process_lives_on_whatever_stands_in_redis(tmp_path: Path, server: RedisServer) -> None:
    """Every kind of key and every message, at a real gateway; a real member is seen afterwards as before."""
    (tmp_path / "shelf" / "models").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    cluster = {"redis": server.url, "prefix": "input", "secret": SECRET}
    with start_gateway(tmp_path / "a", origin=f"file://{tmp_path}/shelf", config={"cluster": cluster}) as gateway:
        wait_until(lambda: gateway.metric("warmstart_fleet_coordinated") == 1, "it does not find Redis")
        before = control_pid(gateway)
        with server.client() as client:
            for number, text in enumerate(JUNK.values()):
                client.set(f"input:member:{number:032}", text)
                client.zadd("input:members", {f"{number:032}": 9e15})
                client.publish("input:news", text)
            client.rpush("input:member:list", "x")
            client.zadd("input:members", {"list": 9e15})
            client.set("input:news:stamp", "9" * 30)
            wait_until(lambda: _drops(gateway) >= 2 * len(JUNK) - 2, "nothing is dropped")
            beats = gateway.metric("warmstart_fleet_failed_beats_total")
            for name in ("members", "news:listening", "news:since", "news:stamp"):
                client.delete(f"input:{name}")
                client.rpush(f"input:{name}", "x")
            wait_until(lambda: client.type("input:members") == "zset", "its membership is not begun anew")
            wait_until(lambda: client.type("input:news:listening") == "zset", "its news are not begun anew")
        assert gateway.metric("warmstart_fleet_failed_beats_total") == beats
        assert gateway.metric("warmstart_fleet_members") == 1
        assert control_pid(gateway) == before
        assert "is dropped" in gateway.logs()


def _drops(gateway: GatewayProcess) -> float:
    return sum(value for name, value in gateway.metrics().items() if "fleet_dropped_messages_total" in name)


def test_a_sealed_message_is_json() -> None:
    """For whoever looks at Redis with its own tools."""
    found: dict[str, Any] = json.loads(SEALS.seal("member", "node", {"x": 1}))
    assert found["x"] == 1
