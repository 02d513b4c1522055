"""Membership by heartbeats, over a real Redis that is killed, emptied and restarted; clocks are the tests'."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from proxy.fleet.channel import Beat, Invalidation, InvalidationChannel
from proxy.fleet.members.advertise import AddressFinder
from proxy.fleet.members.heartbeat import GRACE_S, NODES_PER_PERIOD, RedisMembership
from proxy.fleet.members.registry import MemberRegistry
from proxy.fleet.members.status import NodeStatus, status_values
from proxy.fleet.messages import Seals
from proxy.fleet.redis import REDIS_ERRORS, open_redis
from proxy.fleet.roster import Member
from proxy.fleet.state import FleetState
from proxy.objects import ObjectKey
from tests.fleet.redis_servers import RedisServer, start_redis

ROOT = Path(__file__).parents[2]
SEALS = Seals([b"0123456789abcdef"])
NOWHERE = AddressFinder(("127.0.0.1", 1), ("127.0.0.1", 2), ())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Node:
    """One node's heart, beaten by hand."""

    def __init__(self, redis: Redis, name: str, clock: list[float], prefix: str = "fleet", url: str = "") -> None:
        self.fleet_state = FleetState.create()
        self.registry = MemberRegistry(self.fleet_state, Member(name, "", "", capacity_bytes=1), dict, lambda: clock[0])
        self.registry.locate(url or f"http://{name}:9000", f"http://{name}:9001")
        self.membership = RedisMembership(
            self.registry, self.fleet_state, redis, prefix, NOWHERE, SEALS, clock=lambda: clock[0]
        )

    @property
    def known(self) -> list[str]:
        return [member.node_id for member in self.registry.roster.members]

    async def beat(self) -> bool:
        """Whether Redis took it; what follows from a failure is done as `run` does it."""
        try:
            await self.membership.beat()
        except REDIS_ERRORS as error:
            self.membership._lost(error)
            return False
        return True


class Fleet:
    def __init__(self, server: RedisServer, redis: Redis) -> None:
        self.server = server
        self.redis = redis
        self.clock = [1000.0]
        self.nodes: list[Node] = []

    def node(self, name: str, prefix: str = "fleet", url: str = "") -> Node:
        self.nodes.append(Node(self.redis, name, self.clock, prefix, url))
        return self.nodes[-1]

    async def two(self) -> tuple[Node, Node]:
        """Which know each other."""
        a, b = self.node("aa"), self.node("bb")
        for node in (a, b, a):
            assert await node.beat()
        assert a.known == b.known == ["aa", "bb"]
        return a, b

    async def expire(self, name: str) -> None:
        """As Redis does it in time."""
        await self.redis.delete(f"fleet:member:{name}")


@pytest.fixture
async def fleet(server: RedisServer) -> AsyncIterator[Fleet]:
    redis = open_redis(server.url)
    await redis.flushall()
    fleet = Fleet(server, redis)
    yield fleet
    for node in fleet.nodes:
        node.fleet_state.close()
    await redis.aclose()


async def test_nodes_see_each_other_and_who_expired_is_gone_with_the_next_beat(fleet: Fleet) -> None:
    a, b = await fleet.two()
    await fleet.expire("bb")
    await a.beat()
    assert a.known == ["aa"]
    await b.beat()
    await a.beat()
    assert a.known == ["aa", "bb"]


async def test_redis_lets_a_node_expire_by_its_own_clock(fleet: Fleet) -> None:
    await fleet.two()
    assert 3000 < await fleet.redis.pttl("fleet:member:aa") <= 4000
    assert await fleet.redis.pttl("fleet:members") > 0


async def test_who_leaves_is_gone_at_once(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    """Its last word says so, until that expires: one that is just gone is worth a warning."""
    caplog.set_level("INFO", "warmstart.fleet")
    a, b = await fleet.two()
    await b.membership.leave()
    await a.beat()
    assert a.known == ["aa"]
    assert 0 < await fleet.redis.pttl("fleet:member:bb") <= 4000
    said = {record.getMessage(): record.levelname for record in caplog.records}
    assert said["a node has left: http://bb:9000"] == "INFO"
    await b.beat()
    await a.beat()
    assert a.known == ["aa", "bb"]
    await fleet.expire("bb")
    await a.beat()
    said = {record.getMessage(): record.levelname for record in caplog.records}
    assert said["a node is gone without leaving: http://bb:9000"] == "WARNING"


async def test_two_prefixes_are_two_fleets(fleet: Fleet) -> None:
    await fleet.two()
    other = fleet.node("cc", prefix="other")
    await other.beat()
    assert other.known == ["cc"]


async def test_a_node_without_an_address_listens_and_says_nothing(fleet: Fleet) -> None:
    await fleet.two()
    quiet = fleet.node("cc")
    quiet.registry.own = Member("cc", "", "")
    await quiet.beat()
    assert sorted(quiet.registry.others) == ["aa", "bb"]
    assert await fleet.redis.exists("fleet:member:cc") == 0


async def test_while_redis_is_gone_the_members_stay_and_for_a_while_afterwards(fleet: Fleet) -> None:
    a, b = await fleet.two()
    fleet.server.kill()
    for _ in range(10):
        assert not await a.beat()
        fleet.clock[0] += 60
    assert a.known == ["aa", "bb"]
    assert not a.fleet_state.coordinated
    fleet.server.restart()
    assert await a.beat()
    assert a.fleet_state.coordinated
    assert a.known == ["aa", "bb"]  # nobody but this node has written yet
    fleet.clock[0] += GRACE_S / 2
    await b.beat()
    await a.beat()
    fleet.clock[0] += GRACE_S
    await a.beat()
    assert a.known == ["aa", "bb"]


async def test_who_does_not_come_back_after_redis_did_is_gone_when_the_grace_is_over(fleet: Fleet) -> None:
    a, _ = await fleet.two()
    fleet.server.restart()
    await a.beat()
    fleet.clock[0] += GRACE_S - 0.1
    await a.beat()
    assert a.known == ["aa", "bb"]
    fleet.clock[0] += 0.2
    await a.beat()
    assert a.known == ["aa"]


async def test_a_redis_that_was_emptied_between_two_beats_makes_nobody_alone(fleet: Fleet) -> None:
    a, _ = await fleet.two()
    await fleet.redis.flushall()
    fleet.clock[0] += 1
    await a.beat()
    assert a.known == ["aa", "bb"]


async def test_a_member_that_drained_needs_no_grace(fleet: Fleet) -> None:
    a, b = await fleet.two()
    b.registry.drain()
    await b.beat()
    await a.beat()
    assert a.registry.roster.by_id["bb"].draining
    await fleet.redis.flushall()
    fleet.clock[0] += 1
    await a.beat()
    assert a.known == ["aa"]


async def test_a_new_control_process_does_not_forget_the_members_of_the_last_one(fleet: Fleet) -> None:
    a, _ = await fleet.two()
    fleet.server.restart()
    registry = MemberRegistry(a.fleet_state, Member("aa", "", ""), dict, lambda: fleet.clock[0])
    membership = RedisMembership(
        registry, a.fleet_state, fleet.redis, "fleet", NOWHERE, SEALS, clock=lambda: fleet.clock[0]
    )
    await membership.beat()
    assert list(registry.others) == ["bb"]


async def test_another_node_with_this_ones_id_is_noticed(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    a, twin = fleet.node("aa"), fleet.node("aa", url="http://copy:9000")
    await a.beat()
    await a.beat()
    assert "one id" not in caplog.text
    await twin.beat()
    await a.beat()
    assert "two nodes have one id: http://aa:9000 and http://copy:9000" in caplog.text


async def test_what_this_node_wrote_before_its_restart_is_no_twin(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = fleet.node("aa"), fleet.node("aa", url="http://moved:9000")
    await before.beat()
    await after.beat()
    after.registry.locate("http://moved-again:9000", "http://moved-again:9001")
    await after.beat()
    await after.beat()
    assert "one id" not in caplog.text


async def test_a_member_that_can_not_be_read_is_none(fleet: Fleet) -> None:
    a, b = await fleet.two()
    await fleet.redis.set("fleet:member:bb", b"\xff{")
    await a.beat()
    assert a.known == ["aa"]
    await b.beat()
    await a.beat()
    assert a.known == ["aa", "bb"]


async def test_a_large_fleet_is_read_less_often_than_it_is_told(fleet: Fleet) -> None:
    a, b = await fleet.two()
    crowd = {f"{number:04}": Member(f"{number:04}", "http://x:1", "http://x:2") for number in range(NODES_PER_PERIOD)}
    for name, member in crowd.items():
        await fleet.redis.set(f"fleet:member:{name}", SEALS.seal("member", name, status_values(NodeStatus(member))))
        await fleet.redis.zadd("fleet:members", {name: 9e12})
    await a.beat()
    assert len(a.known) == NODES_PER_PERIOD + 2
    await fleet.expire("bb")
    a.membership.hurry()
    await a.beat()
    assert "bb" not in a.known
    await b.beat()
    await a.beat()
    assert "bb" not in a.known
    await a.beat()
    assert "bb" in a.known


async def test_a_beat_is_due_at_once_when_a_node_has_something_to_say(fleet: Fleet) -> None:
    a, b = await fleet.two()
    running = asyncio.create_task(b.membership.run())
    try:
        b.registry.drain()
        b.membership.hurry()
        async with asyncio.timeout(30):
            while not a.registry.others["bb"].member.draining:
                await a.beat()
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_a_user_with_the_documented_rights_is_enough(tmp_path: Path) -> None:
    line = re.search(r"^ACL SETUSER (.*)$", (ROOT / "docs/fleet.md").read_text(), re.MULTILINE)
    assert line
    with start_redis(tmp_path, arguments=("--user", *line[1].split(), "--user", "default", "off")) as server:
        redis = open_redis(server.url.replace("//", "//warmstart:password@"))
        node, channel = Node(redis, "aa", [0.0], prefix="warmstart"), InvalidationChannel(redis, "warmstart", SEALS)
        assert await node.beat()
        await channel.beat(Beat("aa", "run", 0.0))
        await channel.tell(Invalidation("1", "aa", (ObjectKey("o", "b", "k"),), channel.reply_channel("aa")))
        await node.membership.leave()
        with pytest.raises(REDIS_ERRORS):
            await redis.set("others", "value")
        await redis.aclose()
        node.fleet_state.close()


async def test_leaving_without_redis_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with start_redis(tmp_path) as server:
        redis = open_redis(server.url)
        node = Node(redis, "aa", [0.0])
        server.kill()
        await node.membership.leave()
        assert "can't leave" in caplog.text
        await redis.aclose()
        node.fleet_state.close()
