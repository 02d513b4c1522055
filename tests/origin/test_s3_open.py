"""`open_range`: what an answer to a range tells of an object that nobody knows, and what it can't tell."""

from __future__ import annotations

import base64

import pytest

from proxy.blocks import ByteSink, update_sum
from proxy.errors import NotFound, OriginRefused, OriginUnavailable, WarmstartError
from proxy.objects import ObjectRecord, SumKind
from proxy.origin import Attach
from proxy.origin.watched import WatchedOpener
from proxy.ranges import ByteRange
from tests.fakes.scripted import Exchange, Handler, ScriptedServer, answer, object_of
from tests.origin.answers import DATA, ETAG, RIGHT, SPAN, error, labelled
from tests.origin.asking import NOW_S, Received, counted, s3_origin, version_of

WHOLE = ByteRange(0, 8 << 20)
CRC32C = base64.b64encode(update_sum(SumKind.CRC32C, memoryview(DATA)).to_bytes(4, "big")).decode()
SUM = ("x-amz-checksum-crc32c", CRC32C)


class Taker:
    """Takes what comes as a version of this origin, whatever it is."""

    def __init__(self, origin: WatchedOpener, span: ByteRange) -> None:
        self.sink = Received()
        self.record: ObjectRecord | None = None
        self._version = version_of(origin, DATA)
        self._span = ByteRange(span.start, min(span.end, len(DATA)))

    def begin(self, attach: Attach, record: ObjectRecord | None = None) -> ByteSink:
        self.record = record
        return attach(self._version, self._span, self.sink)


async def opened(handler: Handler, span: ByteRange) -> Taker:
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        taker = Taker(origin, span)
        try:
            await origin.open_range("models", "weights", span, taker)
        finally:
            (request,) = server.requests
            assert request.get("if-match") is None
            assert request.get("x-amz-checksum-mode") == "ENABLED"
            assert counted("origin_bytes", origin.id) == len(taker.sink.data)
    return taker


async def test_a_range_tells_size_validator_and_headers_but_no_checksum_of_the_whole() -> None:
    modified = ("last-modified", "Tue, 24 Nov 2026 09:00:00 GMT")
    mine = ("x-amz-meta-name", "value")
    taker = await opened(object_of(DATA, headers=[modified, mine, SUM]), SPAN)
    assert taker.sink.data == DATA[SPAN.start : SPAN.end]
    record = taker.record
    assert record is not None
    assert (record.size_bytes, record.version.validator) == (len(DATA), 'etag "v1"')
    assert record.user_metadata == (("name", "value"),)
    assert record.checked_at_s == NOW_S
    assert record.headers == (ETAG, modified, mine), "a range's checksum may be a part's"
    assert (record.sums, record.sums_known) == ((), False)


async def test_a_range_that_holds_all_of_a_small_object_tells_its_checksum_where_the_origin_does() -> None:
    label = f"bytes 0-{len(DATA) - 1}/{len(DATA)}"
    taker = await opened(labelled(label, DATA, headers=(SUM,)), WHOLE)
    assert taker.sink.data == DATA
    assert taker.record is not None
    assert taker.record.sums == ((SumKind.CRC32C, update_sum(SumKind.CRC32C, memoryview(DATA))),)
    assert taker.record.sums_known
    without = await opened(labelled(label, DATA), WHOLE)
    assert without.record is not None
    assert not without.record.sums_known


async def test_a_200_that_names_its_range_or_is_all_there_is_tells_as_much() -> None:
    ranged = await opened(labelled(RIGHT, status=200), SPAN)
    assert ranged.record is not None
    assert ranged.record.size_bytes == len(DATA)
    whole = await opened(answer(200, DATA, [ETAG]), WHOLE)
    assert whole.sink.data == DATA
    assert whole.record is not None
    assert whole.record.size_bytes == len(DATA)


@pytest.mark.parametrize(
    ("label", "status"),
    [(None, 200), (None, 206), ("bytes 0-200000/300000", 206), ("bytes 1000-200999/*", 206), ("nonsense", 206)],
)
async def test_an_answer_to_another_range_tells_nothing_and_gives_no_byte(label: str | None, status: int) -> None:
    seen: list[ObjectRecord | None] = []

    class Watching(Taker):
        def begin(self, attach: Attach, record: ObjectRecord | None = None) -> ByteSink:
            seen.append(record)
            return super().begin(attach, record)

    async with ScriptedServer(labelled(label, status=status)) as server, s3_origin(server.url) as origin:
        taker = Watching(origin, SPAN)
        with pytest.raises(WarmstartError):
            await origin.open_range("models", "weights", SPAN, taker)
    assert seen == [None]
    assert taker.sink.writes == 0


async def test_an_object_without_an_etag_is_told_as_one_that_must_not_be_kept() -> None:
    async with ScriptedServer(labelled(RIGHT, etag=None)) as server, s3_origin(server.url) as origin:
        taker = Taker(origin, SPAN)
        with pytest.raises(WarmstartError):
            await origin.open_range("models", "weights", SPAN, taker)
        assert taker.record is not None
        assert not taker.record.cacheable


@pytest.mark.parametrize(
    ("handler", "raised"),
    [
        (error(404, "NoSuchKey"), NotFound),
        (error(416, "InvalidRange"), OriginRefused),
        (error(503, "SlowDown"), OriginUnavailable),
    ],
)
async def test_a_refusal_is_raised_before_anybody_is_told(handler: Handler, raised: type[Exception]) -> None:
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        taker = Taker(origin, SPAN)
        with pytest.raises(raised):
            await origin.open_range("models", "weights", SPAN, taker)
    assert taker.record is None


async def test_a_body_that_breaks_off_is_an_error() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(206, [ETAG, ("content-range", RIGHT)], content_length=SPAN.length)
        await exchange.send(DATA[SPAN.start : SPAN.start + 5000])
        exchange.close()

    with pytest.raises(OriginUnavailable):
        await opened(handler, SPAN)
