"""The watchdog: work that holds the loop is told, with the request and the place; nothing else is."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable

import pytest
import uvloop

from proxy.composition.dispatch import LateSurface, Surface
from proxy.metrics import SLOW_CALLBACKS
from proxy.process.watchdog import Watchdog, code_positions
from proxy.rate_limited_log import RateLimitedLog
from tests.waiting import wait_until

LIMIT_S = 0.1
log = logging.getLogger("warmstart.watchdog")


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop_factory(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    return request.param  # type: ignore[no-any-return]


def counted() -> float:
    return float(SLOW_CALLBACKS._value.get())


def test_work_that_holds_the_loop_is_told_once_with_its_request_and_its_place(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], caplog: pytest.LogCaptureFixture
) -> None:
    before = counted()

    async def answer() -> None:
        watchdog = Watchdog(asyncio.get_running_loop(), LIMIT_S, RateLimitedLog(log))
        watchdog.start()
        task = asyncio.current_task()
        assert task is not None
        task.set_name("GET /bucket/key")
        time.sleep(4 * LIMIT_S)  # noqa: ASYNC251 - what the watchdog is for
        while counted() == before:
            await asyncio.sleep(0)
        watchdog.stop()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(answer())
    [record] = [record for record in caplog.records if record.name == log.name]
    assert "by GET /bucket/key in the event loop" in record.getMessage()
    assert "s of CPU" in record.getMessage()


def test_work_within_the_limit_is_not_told(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    before = counted()

    async def answer() -> None:
        watchdog = Watchdog(asyncio.get_running_loop(), 30.0)
        watchdog.start()
        for _ in range(20):
            time.sleep(0.005)  # noqa: ASYNC251
            await asyncio.sleep(0)
        watchdog.stop()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(answer())
    assert counted() == before


def test_a_watchdog_ends_with_its_loop() -> None:
    async def watch() -> None:
        Watchdog(asyncio.get_running_loop(), 0.01).start()

    asyncio.run(watch())
    wait_until(lambda: "watchdog" not in {thread.name for thread in threading.enumerate()}, "the watchdog outlives it")


def test_places_are_the_innermost_functions_of_ours() -> None:
    found: list[str] = []

    def build() -> Surface:
        found.append(code_positions(inspect.currentframe()))
        raise NotImplementedError

    with pytest.raises(NotImplementedError):
        LateSurface(build).answer_hot(b"GET", b"/", {}, bare=True)
    assert found == [
        "proxy.composition.dispatch.LateSurface.answer_hot > proxy.composition.dispatch.LateSurface.surface"
    ]
    assert code_positions(None) == ""
