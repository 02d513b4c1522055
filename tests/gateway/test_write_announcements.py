"""In a fleet, the end of a write's answer waits until the other nodes know of the write."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from proxy.errors import OriginUnavailable
from proxy.gateway.forward import Forwarder
from proxy.objects import ObjectKey, ObjectName
from proxy.origin import ForwardRequest, ForwardResponse
from tests.gateway.writable_bucket import NAME, WritableBucket
from tests.waiting import until


class Tale:
    """Telling the fleet: takes as long as the test wants."""

    def __init__(self) -> None:
        self.told: list[list[ObjectKey]] = []
        self.go_on = asyncio.Event()
        self.ended = 0

    async def __call__(self, keys: Sequence[ObjectKey]) -> None:
        self.told.append(list(keys))
        await self.go_on.wait()
        self.ended += 1


@pytest.fixture
def tale(writable: WritableBucket) -> Tale:
    tale = Tale()
    writable.forwarder = Forwarder(writable.keys, linger_s=0.0, tell=tale)
    return tale


async def began(tale: Tale, count: int = 1) -> None:
    await until(lambda: len(tale.told) >= count)


@pytest.mark.parametrize("headers", [(("content-length", "4"),), ()])
async def test_the_end_of_an_answer_is_held_back_until_the_fleet_knows(
    writable: WritableBucket, tale: Tale, headers: tuple[tuple[str, str], ...]
) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        return writable.origin.respond(200, headers, b"ab", b"cd")

    writable.origin.answer = answer
    response = await writable.put(NAME, ObjectName("b", "other"))
    chunks: list[bytes] = []

    async def read() -> None:
        async for chunk in response.body:
            chunks.append(chunk)
        await response.close()

    reading = asyncio.create_task(read())
    await began(tale)
    assert chunks == ([b"ab"] if headers else [b"ab", b"cd"])
    assert not reading.done()
    assert writable.fenced()
    tale.go_on.set()
    await reading
    assert chunks == [b"ab", b"cd"]
    assert tale.told == [[writable.key, writable.engine.bucket.object_key(ObjectName("b", "other"))]]
    assert not writable.fenced()


async def test_an_answer_without_a_body_waits_until_the_fleet_knows(writable: WritableBucket, tale: Tale) -> None:
    writing = asyncio.create_task(writable.put())
    await began(tale)
    assert not writing.done()
    assert writable.fenced()
    tale.go_on.set()
    await (await writing).close()
    assert not writable.fenced()
    assert len(tale.told) == 1


async def test_a_client_that_goes_away_while_the_fleet_is_told_changes_nothing(
    writable: WritableBucket, tale: Tale
) -> None:
    writing = asyncio.create_task(writable.put())
    await began(tale)
    writing.cancel()
    await asyncio.sleep(0)
    assert writable.fenced()
    tale.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert tale.ended == 1
    assert await writable.lifted()


@pytest.mark.parametrize(("status", "times"), [(403, 0), (412, 0), (500, 1), (408, 1), (204, 1)])
async def test_what_the_origin_refused_is_told_to_nobody(
    writable: WritableBucket, tale: Tale, status: int, times: int
) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        return writable.origin.respond(status, (("content-length", "0"),))

    writable.origin.answer = answer
    tale.go_on.set()
    await (await writable.put()).close()
    assert not writable.fenced()
    assert len(tale.told) == times


async def test_an_unknown_outcome_is_told_at_once_and_again_at_its_end(writable: WritableBucket, tale: Tale) -> None:
    async def answer(request: ForwardRequest) -> ForwardResponse:
        raise OriginUnavailable("timeout")

    writable.origin.answer = answer
    with pytest.raises(OriginUnavailable):
        await writable.put()
    await began(tale, 2)
    assert writable.fenced()
    tale.go_on.set()
    assert await writable.lifted()
    assert tale.told == [[writable.key], [writable.key]]


async def test_a_write_stands_whatever_goes_wrong_while_the_fleet_is_told(
    writable: WritableBucket, caplog: pytest.LogCaptureFixture
) -> None:
    async def tell(keys: Sequence[ObjectKey]) -> None:
        raise ZeroDivisionError

    writable.forwarder = Forwarder(writable.keys, linger_s=0.0, tell=tell)
    await (await writable.put()).close()
    assert not writable.fenced()
    assert "not told" in caplog.text
