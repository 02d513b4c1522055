"""The lease on a block, in a real Redis: one node has it, and what it does to it stops where it has lost it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from proxy.fleet.fill_ids import ORIGIN, new_fill_id
from proxy.fleet.redis import REDIS_ERRORS, open_redis
from proxy.fleet.rediskeys import RedisKeys
from proxy.relay.lease import DONE_S, LEASE_S, PAUSE_S, RENEW_S, Lease, LeasedByAnother, Leases
from tests.fleet.redis_servers import RedisServer, start_redis
from tests.waiting import until

_digests = itertools.count()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


class Bench:
    """Nodes that want the lease on one block, and the test's own eye on Redis."""

    def __init__(self, server: RedisServer) -> None:
        self.digest = next(_digests).to_bytes(32, "big")
        self.name = RedisKeys("test").lease(self.digest.hex(), 7)
        self.eye = server.client()
        self.server = server
        self.now_s = 1000.0
        self._open: list[tuple[Leases, Redis]] = []

    def node(self, node_id: str, *, lease_s: float = LEASE_S, renew_s: float = RENEW_S) -> Leases:
        client, where = open_redis(self.server.url), f"http://{node_id}"
        leases = Leases(
            client, "test", node_id, REDIS_ERRORS, lambda: self.now_s, lambda: where, lease_s=lease_s, renew_s=renew_s
        )
        self._open.append((leases, client))
        return leases

    async def take(self, leases: Leases, instead: LeasedByAnother | None = None) -> Lease | LeasedByAnother:
        return await leases.take(self.digest, 7, new_fill_id(ORIGIN), instead)

    async def have(self, leases: Leases) -> Lease:
        got = await self.take(leases)
        assert isinstance(got, Lease)
        assert got.real
        return got

    @property
    def held(self) -> dict[str, Any] | None:
        text = self.eye.get(self.name)
        return json.loads(str(text)) if text is not None else None

    @property
    def left_s(self) -> float:
        return int(str(self.eye.pttl(self.name))) / 1000

    def lose(self) -> None:
        """As when its time has run out."""
        self.eye.delete(self.name)

    async def aclose(self) -> None:
        for leases, client in self._open:
            await leases.aclose()
            await client.aclose()
        self.eye.close()


@pytest_asyncio.fixture
async def bench(redis: RedisServer) -> AsyncIterator[Bench]:
    made = Bench(redis)
    yield made
    await made.aclose()


async def test_the_first_to_ask_has_it_and_everybody_else_is_told_where_to_read(bench: Bench) -> None:
    a, b = bench.node("0a"), bench.node("0b")
    fill_id = new_fill_id(ORIGIN)
    assert isinstance(await a.take(bench.digest, 7, fill_id), Lease)
    got = await bench.take(b)
    assert isinstance(got, LeasedByAnother)
    assert (got.node_id, got.url, got.fill_id, got.done) == ("0a", "http://0a", fill_id, False)
    assert 0 < bench.left_s <= LEASE_S


async def test_of_many_that_ask_at_once_one_has_it(bench: Bench) -> None:
    nodes = [bench.node(f"{number:02x}") for number in range(8)]
    got = await asyncio.gather(*(bench.take(node) for node in nodes))
    assert len([each for each in got if isinstance(each, Lease)]) == 1
    assert len({each.node_id for each in got if isinstance(each, LeasedByAnother)}) == 1


async def test_blocks_have_leases_of_their_own(bench: Bench) -> None:
    a, b = bench.node("0a"), bench.node("0b")
    await bench.have(a)
    assert isinstance(await b.take(bench.digest, 8, 1), Lease)
    assert isinstance(await b.take(bytes(31) + b"\xff", 7, 1), Lease)


async def test_a_lease_is_renewed_while_it_is_held(bench: Bench) -> None:
    await bench.have(bench.node("0a", lease_s=2.0, renew_s=0.01))
    bench.eye.pexpire(bench.name, 500)
    await until(lambda: bench.left_s > 1)


async def test_a_lease_that_another_node_has_by_now_is_neither_renewed_nor_removed(bench: Bench) -> None:
    """The first one stood still for longer than its lease: a pause, a cut."""
    a, b = bench.node("0a", renew_s=0.01), bench.node("0b", renew_s=0.01)
    lost = await bench.have(a)
    bench.lose()
    second = await bench.have(b)
    await b.aclose()  # and renews its own no more
    bench.eye.pexpire(bench.name, 60_000)
    calls = count_evals(a)
    await until(lambda: len(calls) > 6)
    assert bench.left_s > LEASE_S, "a renewal would have set the time anew"
    for done in (True, False):
        a._held[lost.name] = lost
        a.end(lost, done=done)
        await a._ending.aclose(cancel=False)
        assert bench.held == json.loads(second.text)


async def test_what_a_node_lost_is_not_given_back_by_its_end_either(bench: Bench) -> None:
    a = bench.node("0a")
    lost = await bench.have(a)
    bench.lose()
    a.end(lost, done=True)
    await a._ending.aclose(cancel=False)
    assert bench.held is None


async def test_a_block_that_is_there_is_said_so_for_a_minute(bench: Bench) -> None:
    a, b = bench.node("0a"), bench.node("0b")
    a.end(await bench.have(a), done=True)
    await a._ending.aclose(cancel=False)
    assert LEASE_S < bench.left_s <= DONE_S
    got = await bench.take(b)
    assert isinstance(got, LeasedByAnother)
    assert (got.node_id, got.done) == ("0a", True)


async def test_a_fill_that_failed_gives_its_lease_back_at_once(bench: Bench) -> None:
    a, b = bench.node("0a"), bench.node("0b")
    a.end(await bench.have(a), done=False)
    await a._ending.aclose(cancel=False)
    assert bench.held is None
    await bench.have(b)


async def test_ending_a_lease_twice_does_nothing_more(bench: Bench) -> None:
    a = bench.node("0a")
    lease = await bench.have(a)
    a.end(lease, done=True)
    a.end(lease, done=False)
    await a._ending.aclose(cancel=False)
    held = bench.held
    assert held is not None
    assert held["done"] is True


async def test_a_lease_that_turned_out_to_be_worth_nothing_is_taken_by_one(bench: Bench) -> None:
    a, b, c = (bench.node(name) for name in ("0a", "0b", "0c"))
    a.end(await bench.have(a), done=True)
    await a._ending.aclose(cancel=False)
    seen = [await bench.take(node) for node in (b, c)]
    assert all(isinstance(each, LeasedByAnother) for each in seen)
    got = [await bench.take(node, each) for node, each in zip((b, c), seen, strict=True)]  # type: ignore[arg-type]
    assert isinstance(got[0], Lease)
    assert isinstance(got[1], LeasedByAnother)
    assert got[1].node_id == "0b"


async def test_a_nodes_own_lease_is_taken_over_by_its_other_worker_and_the_first_can_not_harm_it(bench: Bench) -> None:
    first, second = bench.node("0a"), bench.node("0a")
    old = await bench.have(first)
    new = await bench.have(second)
    assert bench.held == json.loads(new.text)
    first.end(old, done=False)
    await first._ending.aclose(cancel=False)
    assert bench.held == json.loads(new.text)


async def test_what_stands_there_that_is_no_lease_stops_nobody(bench: Bench) -> None:
    for text in ("nonsense", "{}", '{"node":"0b"}', '{"node":"0b","url":"","fill":7,"done":true}', "[]"):
        bench.eye.set(bench.name, text)
        assert isinstance(await bench.take(bench.node("0a")), Lease)


async def test_a_value_of_another_kind_counts_as_no_answer(bench: Bench) -> None:
    bench.eye.lpush(bench.name, "x")
    got = await bench.take(bench.node("0a"))
    assert isinstance(got, Lease)
    assert not got.real


async def test_nothing_stays_in_redis_for_ever(bench: Bench) -> None:
    a = bench.node("0a")
    lease = await bench.have(a)
    assert bench.left_s > 0
    a.end(lease, done=True)
    await a._ending.aclose(cancel=False)
    assert bench.left_s > 0


# Redis away.


async def test_without_redis_every_lease_is_given_and_nobody_expects_it() -> None:
    leases = Leases(None, "test", "0a")
    got = await leases.take(bytes(32), 0, 1)
    assert isinstance(got, Lease)
    assert not got.real
    assert not leases.expected
    leases.end(got, done=True)
    await leases.aclose()


async def test_while_redis_is_away_fills_go_on_and_it_is_asked_once_in_a_while(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with start_redis(tmp_path_factory.mktemp("away")) as server:
        bench = Bench(server)
        a = bench.node("0a")
        await bench.have(a)
        server.kill()
        calls = count_evals(a)
        for _ in range(20):
            got = await a.take(bench.digest, 9, 1)
            assert isinstance(got, Lease)
            assert not got.real
        assert len(calls) == 1
        server.restart()
        got = await a.take(bench.digest, 9, 1)
        assert isinstance(got, Lease)
        assert not got.real
        bench.now_s += PAUSE_S
        got = await a.take(bench.digest, 9, 1)
        assert isinstance(got, Lease)
        assert got.real
        await bench.aclose()


async def test_a_redis_that_says_nothing_holds_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts, and never answers."""
    monkeypatch.setattr("proxy.fleet.redis.ANSWER_TIMEOUT_S", 0.05)
    gone = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    client = open_redis(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    leases = Leases(client, "test", "0a", REDIS_ERRORS)
    async with asyncio.timeout(20):
        got = await leases.take(bytes(32), 0, 1)
    assert isinstance(got, Lease)
    assert not got.real
    await leases.aclose()
    gone.set()
    await client.aclose()
    server.close()
    await server.wait_closed()


async def test_a_node_that_ends_stops_renewing_and_its_leases_run_out(bench: Bench) -> None:
    a = bench.node("0a", renew_s=0.01)
    await bench.have(a)
    await a.aclose()
    assert a._renewing is not None
    assert a._renewing.done()
    assert 0 < bench.left_s <= LEASE_S


async def test_renewing_ends_with_the_last_lease_and_begins_with_the_next(bench: Bench) -> None:
    a = bench.node("0a", lease_s=2.0, renew_s=0.01)
    for _ in range(2):
        lease = await bench.have(a)
        renewing = a._renewing
        assert renewing is not None
        bench.eye.pexpire(bench.name, 500)
        await until(lambda: bench.left_s > 1)
        a.end(lease, done=False)
        await asyncio.wait({renewing})
        await a._ending.aclose(cancel=False)


def count_evals(leases: Leases) -> list[str]:
    """The scripts that it runs from now on."""
    calls: list[str] = []
    client: Any = leases._redis
    run = client.eval

    def counted(script: str, numkeys: int, *rest: Any) -> Any:
        calls.append(script)
        return run(script, numkeys, *rest)

    client.eval = counted
    return calls
