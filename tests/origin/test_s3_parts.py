"""Where a multipart object's parts lie, told by origins of several habits."""

from __future__ import annotations

import re

import pytest

from proxy.errors import InvalidRequest, NotSupported, OriginUnavailable, VersionChanged
from proxy.objects import ObjectRecord
from proxy.origin.s3.parts import WALK_MAX
from proxy.origin.watched import WatchedOpener
from proxy.ranges import ByteRange
from tests.fakes.scripted import Exchange, Handler, ScriptedServer
from tests.origin.asking import s3_origin

LENGTHS = (50, 70, 30)
SIZE = sum(LENGTHS)


def parts(*, ranged: bool, counted: bool = True, etag: str = '"whole-3"', part_etag: str | None = None) -> Handler:
    """A store with one object of three parts."""

    async def handler(exchange: Exchange) -> None:
        found = re.search(rb"partNumber=(\d+)", exchange.request.target)
        if found is None:
            await exchange.send_head(200, [("etag", etag)], content_length=SIZE)
            return
        number = int(found[1])
        if not 1 <= number <= 3:
            await exchange.send_head(416, content_length=0)
            return
        start = sum(LENGTHS[: number - 1])
        headers = [("etag", part_etag or etag)]
        if ranged:
            headers.append(("content-range", f"bytes {start}-{start + LENGTHS[number - 1] - 1}/{SIZE}"))
        if counted:
            headers.append(("x-amz-mp-parts-count", "3"))
        await exchange.send_head(206, headers, content_length=LENGTHS[number - 1])

    return handler


async def spans(origin: WatchedOpener, record: ObjectRecord) -> list[tuple[int, int, ByteRange]]:
    found = [await origin.head_part(record, number) for number in (3, 1, 2)]
    return sorted((part.number, part.count, part.span) for part in found)


EXPECTED = [(1, 3, ByteRange(0, 50)), (2, 3, ByteRange(50, 120)), (3, 3, ByteRange(120, 150))]


@pytest.mark.parametrize(
    ("handler", "requests"),
    [
        (parts(ranged=True), 4),
        (parts(ranged=False), 4),
        (parts(ranged=True, counted=False), 4),
        (parts(ranged=False, part_etag='"d41d8cd98f00b204e9800998ecf8427e"'), 4),
        (parts(ranged=True, etag='"opaque"'), 4),
    ],
    ids=["ranged", "lengths-only", "uncounted", "part-etags", "opaque-etag"],
)
async def test_parts_are_found_each_asked_for_once(handler: Handler, requests: int) -> None:
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        record = await origin.head("models", "k")
        assert await spans(origin, record) == EXPECTED
        assert len(server.requests) == requests


@pytest.mark.parametrize("number", [0, 4, 10_000])
async def test_a_part_that_is_not_there_is_an_invalid_request(number: int) -> None:
    for etag in ('"whole-3"', '"opaque"'):
        async with ScriptedServer(parts(ranged=True, etag=etag)) as server, s3_origin(server.url) as origin:
            record = await origin.head("models", "k")
            with pytest.raises(InvalidRequest) as caught:
                await origin.head_part(record, number)
            assert caught.value.code == "InvalidPartNumber"


def whole(etag: str) -> Handler:
    """A store that knows no parts."""

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, [("etag", etag)], content_length=SIZE)

    return handler


@pytest.mark.parametrize("etag", ['"d41d8cd98f00b204e9800998ecf8427e"', '"opaque"'])
async def test_an_object_without_parts_is_one_part(etag: str) -> None:
    async with ScriptedServer(whole(etag)) as server, s3_origin(server.url) as origin:
        record = await origin.head("models", "k")
        part = await origin.head_part(record, 1)
        assert (part.number, part.count, part.span) == (1, 1, ByteRange(0, SIZE))
        with pytest.raises(InvalidRequest):
            await origin.head_part(record, 2)


@pytest.mark.parametrize(
    "other",
    [parts(ranged=True, etag='"other-3"'), whole('"d41d8cd98f00b204e9800998ecf8427e"'), whole('"other-3"')],
    ids=["other-multipart", "now-single", "now-without-parts"],
)
async def test_parts_of_another_version_are_not_taken(other: Handler) -> None:
    async with ScriptedServer(parts(ranged=True)) as server, s3_origin(server.url) as origin:
        record = await origin.head("models", "k")
        server.handler = other
        with pytest.raises(VersionChanged):
            await origin.head_part(record, 2)


@pytest.mark.parametrize(
    ("headers", "length", "error"),
    [
        ([("etag", '"whole-3"'), ("content-range", "bytes 50-119/151")], 70, VersionChanged),
        ([("etag", '"whole-3"'), ("content-range", "bytes 50-119/*")], 70, OriginUnavailable),
        ([("etag", '"whole-3"'), ("content-range", "bytes 50-119/150")], 71, OriginUnavailable),
        ([], 70, OriginUnavailable),
    ],
)
async def test_nonsense_about_a_part_is_caught(
    headers: list[tuple[str, str]], length: int, error: type[Exception]
) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(206, headers, content_length=length)

    async with ScriptedServer(parts(ranged=True)) as server, s3_origin(server.url) as origin:
        record = await origin.head("models", "k")
        server.handler = handler
        with pytest.raises(error):
            await origin.head_part(record, 2)


async def test_part_lengths_that_exceed_the_object_are_refused() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(206, [("etag", '"whole-3"'), ("x-amz-mp-parts-count", "3")], content_length=90)

    async with ScriptedServer(parts(ranged=False)) as server, s3_origin(server.url) as origin:
        record = await origin.head("models", "k")
        server.handler = handler
        with pytest.raises((InvalidRequest, OriginUnavailable)):
            await origin.head_part(record, 2)


async def test_a_part_behind_many_unknown_ones_is_not_looked_for() -> None:
    async def handler(exchange: Exchange) -> None:
        number = re.search(rb"partNumber=(\d+)", exchange.request.target)
        length = 1 if number is not None else 10_000
        await exchange.send_head(206 if number else 200, [("etag", '"whole-10000"')], content_length=length)

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        record = await origin.head("models", "k")
        with pytest.raises(NotSupported, match="read a range instead"):
            await origin.head_part(record, 10_000)
        assert len(server.requests) == 2
        for number in (WALK_MAX, WALK_MAX + 1, 2 * WALK_MAX):  # what is known already costs nothing
            part = await origin.head_part(record, number)
            assert part.span == ByteRange(number - 1, number)
        assert len(server.requests) == 2 + 2 * WALK_MAX


async def test_parts_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.origin.s3.parts.PARTS_MAX", 5)
    async with ScriptedServer(parts(ranged=True)) as server, s3_origin(server.url) as origin:
        records = [await origin.head("models", key) for key in ("a", "b")]
        for record in records:
            assert await spans(origin, record) == EXPECTED
        asked = len(server.requests)
        assert await spans(origin, records[1]) == EXPECTED
        assert len(server.requests) == asked
        assert await spans(origin, records[0]) == EXPECTED
        assert len(server.requests) == asked + 3
