"""Readiness: what the checks say, kept for a second, one round for all who ask."""

from __future__ import annotations

import asyncio
import threading

from proxy.admin.readiness import HOLDS_S, Readiness


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_without_complaints_it_is_ready() -> None:
    assert await Readiness({"the disk is gone": lambda: True}).reasons() == ()


async def test_every_failed_check_is_a_reason_and_one_that_raises_has_failed() -> None:
    def broken() -> bool:
        raise OSError("gone")

    readiness = Readiness({"a": lambda: False, "b": lambda: True, "c": broken})
    assert await readiness.reasons() == ("a", "c")


async def test_draining_is_the_only_reason_that_counts() -> None:
    readiness = Readiness({"a": lambda: False})
    readiness.draining = True
    assert await readiness.reasons() == ("the gateway is stopping",)


async def test_what_was_found_holds_for_a_second() -> None:
    clock, answers = Clock(), [False, True]
    readiness = Readiness({"a": lambda: answers.pop(0)}, clock)
    assert await readiness.reasons() == ("a",)
    clock.now_s += HOLDS_S / 2
    assert await readiness.reasons() == ("a",)
    clock.now_s += HOLDS_S
    assert await readiness.reasons() == ()


async def test_many_who_ask_at_once_cost_one_round() -> None:
    go, rounds = threading.Event(), []

    def slow() -> bool:
        rounds.append(1)
        return go.wait(30)

    readiness = Readiness({"a": slow})
    asking = [asyncio.create_task(readiness.reasons()) for _ in range(20)]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*asking) == [()] * 20
    assert len(rounds) == 1


async def test_one_who_gives_up_asking_does_not_stop_the_round_of_the_others() -> None:
    go = threading.Event()
    readiness = Readiness({"a": lambda: go.wait(30)})
    impatient, patient = (asyncio.create_task(readiness.reasons()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    go.set()
    assert await patient == ()
