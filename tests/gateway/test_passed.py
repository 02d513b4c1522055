"""Answers that pass through to slow clients: they make room, and go on with the same bytes of the same object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from proxy.admission import Admission
from proxy.errors import OriginUnavailable, Overloaded, VersionChanged
from proxy.gateway import passed as passed_module
from proxy.gateway.forward import Forwarder
from proxy.origin import ForwardRequest, ForwardResponse
from tests.gateway.writable_bucket import WritableBucket

CONTENT = bytes(range(200))
GET = ForwardRequest("GET", "b", "k", (("x", "1"),), (("range", "bytes=10-"), ("x-amz-meta-a", "b")))


class Object:
    """Answers a forwarded GET as a store does, in chunks of ten bytes."""

    def __init__(self, writable: WritableBucket) -> None:
        self.etag = '"v1"'
        self.asked: list[dict[str, str]] = []
        self._site = writable

    async def __call__(self, request: ForwardRequest) -> ForwardResponse:
        headers = dict(request.headers)
        self.asked.append(headers)
        first, _, last = headers["range"].removeprefix("bytes=").partition("-")
        part = CONTENT[int(first) : int(last) + 1 if last else None]
        end = int(first) + len(part)
        chunks = [part[start : start + 10] for start in range(0, len(part), 10)]
        told = (("content-range", f"bytes {first}-{end - 1}/{len(CONTENT)}"), ("content-length", str(len(part))))
        etag = (("etag", self.etag),) if self.etag else ()
        return self._site.origin.respond(206, (*told, *etag), *chunks)


@pytest.fixture
def store(writable: WritableBucket, monkeypatch: pytest.MonkeyPatch) -> Object:
    """Behind a forwarder with one place, and no patience."""
    monkeypatch.setattr(passed_module, "PATIENCE_MIN_S", 0.0)
    monkeypatch.setattr(passed_module, "LOOK_AGAIN_S", 0.001)
    room = Admission(pass_through=1).pass_through
    writable.forwarder = Forwarder(writable.keys, linger_s=0.0, room=room, reader_pace=1 << 40)
    writable.origin.answer = store = Object(writable)
    return store


async def forward(writable: WritableBucket) -> ForwardResponse:
    return await writable.forwarder.forward(writable.engine.bucket, GET, mutates=False)


async def rest(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in body])


async def test_a_slow_client_loses_its_place_to_a_newcomer_and_goes_on_where_it_was(
    writable: WritableBucket, store: Object
) -> None:
    slow = await forward(writable)
    got = await anext(slow.body) + await anext(slow.body)
    await asyncio.sleep(0.001)
    quick = await forward(writable)
    assert writable.origin.closed == 1, "the slow one's connection"
    going_on = asyncio.create_task(rest(slow.body))
    assert await rest(quick.body) == CONTENT[10:]
    assert len(store.asked) == 2, "nothing is asked again while there is no room"
    await quick.close()
    assert got + await going_on == CONTENT[10:]
    assert store.asked[2] == {"range": "bytes=30-199", "if-match": '"v1"', "x-amz-meta-a": "b"}
    await slow.close()
    await (await forward(writable)).close()


async def test_a_client_that_waits_for_the_origin_is_not_slow(writable: WritableBucket, store: Object) -> None:
    held = await forward(writable)
    with pytest.raises(Overloaded):
        await forward(writable)
    await held.close()


async def test_an_object_that_has_changed_meanwhile_is_not_gone_on_with(
    writable: WritableBucket, store: Object
) -> None:
    slow = await forward(writable)
    await anext(slow.body)
    await asyncio.sleep(0.001)
    await (await forward(writable)).close()
    store.etag = '"v2"'
    with pytest.raises(VersionChanged):
        await rest(slow.body)
    await slow.close()
    await (await forward(writable)).close()


async def test_what_has_no_strong_etag_ends_short_when_others_need_its_place(
    writable: WritableBucket, store: Object
) -> None:
    store.etag = 'W/"weak"'
    slow = await forward(writable)
    await anext(slow.body)
    await asyncio.sleep(0.001)
    quick = await forward(writable)
    with pytest.raises(OriginUnavailable, match="slowly"):
        await rest(slow.body)
    await slow.close()
    await quick.close()
