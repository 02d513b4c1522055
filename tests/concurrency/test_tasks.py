"""Background tasks live until they end, say once that they failed, and end with their owner."""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
from collections.abc import AsyncIterator

import pytest

from proxy.concurrency.tasks import BackgroundTasks
from tests.tidy.sources import PRODUCT, modules

log = logging.getLogger("warmstart.test")


@pytest.fixture
async def tasks() -> AsyncIterator[BackgroundTasks]:
    made = BackgroundTasks(log)
    yield made
    await made.aclose(cancel=True)


async def test_a_task_that_nobody_refers_to_lives_until_it_has_ended(tasks: BackgroundTasks) -> None:
    done: list[int] = []

    async def work() -> None:
        await asyncio.get_running_loop().run_in_executor(None, gc.collect)
        gc.collect()
        done.append(1)

    tasks.start(work())
    gc.collect()
    await tasks.aclose(cancel=False)
    assert done == [1]
    assert len(tasks) == 0


async def fail() -> None:
    raise ValueError("broken")


async def test_a_failure_that_nobody_awaits_is_logged_once(
    tasks: BackgroundTasks, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.start(fail(), name="the work")
    await tasks.aclose(cancel=False)
    gc.collect()
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "a background task failed: the work")
    assert record.exc_info is not None


async def test_the_failure_of_a_task_that_its_caller_awaits_is_the_callers(
    tasks: BackgroundTasks, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="broken"):
        await tasks.keep(fail())
    await tasks.aclose(cancel=False)
    assert not caplog.records


async def test_closing_cancels_what_is_under_way_and_waits_for_it(
    tasks: BackgroundTasks, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            ended.append("cancelled")

    tasks.start(work())
    await asyncio.sleep(0)
    await tasks.aclose(cancel=True)
    assert ended == ["cancelled"]
    assert not caplog.records


async def test_closing_waits_for_tasks_that_begin_meanwhile_too(tasks: BackgroundTasks) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        order.append(number)
        if number < 3:
            tasks.start(work(number + 1))

    tasks.start(work(1))
    await tasks.aclose(cancel=False)
    assert order == [1, 2, 3]


async def test_closing_gives_up_after_its_time_and_says_so(
    tasks: BackgroundTasks, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.start(asyncio.Event().wait())
    await tasks.aclose(cancel=False, timeout_s=0.01)
    assert [record.getMessage() for record in caplog.records] == [
        "background tasks that have not ended within 0.01 s: 1"
    ]
    assert len(tasks) == 1


def test_no_other_module_keeps_a_set_of_tasks_of_its_own() -> None:
    kept = [
        module.name
        for module in modules(*PRODUCT)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.AnnAssign) and "set[asyncio.Task[" in ast.unparse(node.annotation)
    ]
    assert set(kept) == {"proxy.concurrency.tasks", "proxy.wire.connect"}  # the latter's live within one call
