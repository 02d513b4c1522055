"""Reports and plans go over a real Redis: one node plans, and another one when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from proxy.fleet.rate_store import RateStore
from proxy.fleet.redis import REDIS_ERRORS, open_redis
from proxy.upstream.limiter import AdaptiveLimiter, Ticket, private_numbers
from proxy.upstream.sharing import SharedLimiter, Sharing
from tests.fleet.invalidation_nodes import SEALS
from tests.fleet.redis_servers import RedisServer, start_redis

ORIGIN = "s3://origin"
FRESH_S = 100.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with start_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def boards(server: RedisServer) -> AsyncIterator[tuple[RateStore, RateStore]]:
    with server.client() as client:
        client.flushall()
    redis = open_redis(server.url)
    yield RateStore(redis, "test", "one", SEALS), RateStore(redis, "test", "two", SEALS)
    await redis.aclose()


async def test_the_first_to_come_plans_and_sees_all_reports(boards: tuple[RateStore, RateStore]) -> None:
    one, two = boards
    first = await one.swap("o", "mine", FRESH_S)
    assert (first.plan, first.reports) == (None, {"one": b"mine"})
    await one.plan("o", "the plan")
    second = await two.swap("o", "and mine", FRESH_S)
    assert (second.plan, second.reports) == (b"the plan", None)
    assert second.now_s >= first.now_s
    again = await one.swap("o", "mine again", FRESH_S)
    assert again.reports == {"one": b"mine again", "two": b"and mine"}


async def test_another_origin_may_have_another_planner(boards: tuple[RateStore, RateStore]) -> None:
    one, two = boards
    await one.swap("o", "", FRESH_S)
    assert (await two.swap("p", "", FRESH_S)).reports == {"two": b""}


async def test_a_planner_that_is_gone_is_replaced_and_its_late_plan_refused(
    boards: tuple[RateStore, RateStore],
) -> None:
    one, two = boards
    await one.swap("o", "", FRESH_S)
    await one.plan("o", "the plan")
    async with asyncio.timeout(30):
        while (swapped := await two.swap("o", "", FRESH_S)).reports is None:
            await asyncio.sleep(0.05)
    assert swapped.plan == b"the plan"
    await one.plan("o", "too late")
    assert (await two.swap("o", "", FRESH_S)).plan == b"the plan"


async def test_old_reports_are_dropped(boards: tuple[RateStore, RateStore], server: RedisServer) -> None:
    one, two = boards
    await one.swap("o", "", FRESH_S)
    await two.swap("o", "", FRESH_S)
    await asyncio.sleep(0.01)
    assert set((await one.swap("o", "", 0.005)).reports or ()) == {"one"}
    with server.client() as client:
        assert client.hkeys("test:limits:o:reports") == ["one"]
        assert all(client.ttl(key) > 0 for key in client.keys("*"))


async def test_everything_is_shared_through_redis_and_goes_on_without_it(boards: tuple[RateStore, RateStore]) -> None:
    def sharing(rates: RateStore, errors: tuple[type[BaseException], ...]) -> tuple[AdaptiveLimiter, Sharing]:
        numbers = private_numbers()
        limiter = AdaptiveLimiter(numbers, 0, concurrency_max=64, name=ORIGIN)
        return limiter, Sharing([SharedLimiter(limiter, numbers)], lambda: 2, rates, errors)

    (first, one), (second, two) = (sharing(rates, REDIS_ERRORS) for rates in boards)
    for limiter in (first, second):
        assert isinstance(limiter.enter(), Ticket)
    await one.exchange()
    await two.exchange()
    assert first.is_shared
    assert second.is_shared
    ticket = second.enter()
    assert isinstance(ticket, Ticket)
    second.refuse(ticket, 60.0)
    await two.exchange()
    await one.exchange()
    assert first.pause_s > 50
    assert first.cuts == second.cuts + 1  # the planner has cut, and lives by it already
    await two.exchange()
    assert first.cuts == second.cuts


async def test_a_redis_that_does_not_answer_changes_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    with start_redis(tmp_path_factory.mktemp("redis")) as gone:
        redis = open_redis(gone.url)
        numbers = private_numbers()
        limiter = AdaptiveLimiter(numbers, 0, concurrency_max=64, name=ORIGIN)
        assert isinstance(limiter.enter(), Ticket)
        gone.kill()
        await Sharing(
            [SharedLimiter(limiter, numbers)], lambda: 2, RateStore(redis, "test", "one", SEALS), REDIS_ERRORS
        ).exchange()
        assert not limiter.is_shared
        await redis.aclose()
