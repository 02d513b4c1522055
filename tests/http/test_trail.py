"""The marks by which a request that comes back is known."""

from __future__ import annotations

import asyncio

import pytest

from proxy.http.headers import HOPS
from proxy.http.trail import MARKS_MAX, Trail

OWN, OTHER = Trail("run").mark, "fedcba9876543210"


async def test_a_request_that_was_here_before_is_known_again() -> None:
    trail = Trail("run")
    assert trail.headers() == ((HOPS, OWN),)
    assert trail.loops(OWN)
    assert trail.loops(f"{OTHER}, {OWN}")


async def test_marks_of_other_gateways_go_along_with_what_is_asked_for_the_request() -> None:
    trail = Trail("run")

    async def serve() -> tuple[tuple[str, str], ...]:
        assert not trail.loops(OTHER)
        return await asyncio.create_task(fill())

    async def fill() -> tuple[tuple[str, str], ...]:
        return trail.headers()

    assert await asyncio.create_task(serve()) == ((HOPS, f"{OTHER}, {OWN}"),)
    assert trail.headers() == ((HOPS, OWN),)


@pytest.mark.parametrize("marks", ["", "nonsense", OTHER.upper(), f"{OTHER},{OTHER}", f"{OTHER}, ", "0" * 17])
async def test_what_is_no_list_of_marks_is_ignored(marks: str) -> None:
    trail = Trail("run")
    assert not trail.loops(marks)
    assert trail.headers() == ((HOPS, OWN),)


async def test_a_chain_has_an_end() -> None:
    assert not Trail("run").loops(", ".join([OTHER] * MARKS_MAX))
    assert Trail("run").loops(", ".join([OTHER] * (MARKS_MAX + 1)))
