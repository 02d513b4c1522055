"""Signs of life ahead of an answer: interim heads, on the wire before its own head and never after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.lanes.asgi import INTERIM, PiecesResponse, Receive, Scope, Send
from proxy.lanes.connection import Limits
from tests.lanes.serving import Serving

SIGN = b"HTTP/1.1 102 Processing\r\n\r\n"
pytestmark = pytest.mark.usefixtures("loop")


async def whole(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def waits_and_answers(scope: Scope, receive: Receive, send: Send) -> None:
    assert INTERIM in scope["extensions"]
    for _ in range(3):
        await send({"type": INTERIM})
        await asyncio.sleep(0)
    response = PiecesResponse(200, (("x-a", "b"),), whole(b"body"), 4)

    async def late(message: dict[str, object]) -> None:
        await send(message)
        await send({"type": INTERIM})

    await response(scope, receive, late)  # type: ignore[arg-type]


def test_interim_heads_go_ahead_of_the_answer_and_never_into_it(loop: str) -> None:
    with Serving(waits_and_answers, loop) as serving, serving.connect() as client:
        for _ in range(2):
            client.get("/")
            assert client.read_bytes(3 * len(SIGN)) == SIGN * 3
            status, headers, body = client.read_response()
            assert (status, headers["x-a"], body) == (200, "b", b"body")


def test_a_client_that_has_gone_is_told_nothing_and_breaks_nothing(loop: str) -> None:
    reached = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        for _ in range(3):
            await send({"type": INTERIM})
        reached.append(True)

    with Serving(waits, loop, limits=Limits(half_close_s=0)) as serving:
        with serving.connect() as client:
            client.get("/")
        with serving.connect() as client:
            client.get("/")
    assert reached == [True, True]
