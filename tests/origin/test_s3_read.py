"""`read_range`: exactly the bytes of exactly that version, or an error before a wrong byte is given on."""

from __future__ import annotations

import pytest

from proxy.errors import AccessDenied, NotFound, OriginRefused, OriginUnavailable, VersionChanged
from proxy.origin.exchange import HttpLimits
from proxy.ranges import ByteRange
from tests.fakes.scripted import Exchange, Handler, ScriptedServer, answer, object_of
from tests.origin.answers import DATA, ETAG, RIGHT, SPAN, broken_off, error, labelled
from tests.origin.asking import Received, counted, s3_origin, version_of


@pytest.mark.parametrize("slow", [False, True], ids=["at-once", "awaited"])
async def test_a_range_is_delivered_in_order(slow: bool) -> None:
    sink = Received(slow=slow)
    async with ScriptedServer(object_of(DATA)) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA), SPAN, sink)
        assert sink.data == DATA[SPAN.start : SPAN.end]
        assert counted("origin_bytes", origin.id) == SPAN.length
        assert counted("origin_requests", origin.id, kind="read") == 1
    (request,) = server.requests
    assert request.get("range") == "bytes=1000-200999"
    assert request.get("if-match") == '"v1"'
    assert request.get("accept-encoding") == "identity"
    assert request.target == b"/models/weights"


async def test_an_empty_span_asks_nothing() -> None:
    async with ScriptedServer(object_of(DATA)) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA), ByteRange(5, 5), Received())
    assert server.requests == []


async def test_a_version_id_is_asked_for_and_needs_no_condition() -> None:
    handler = object_of(DATA, headers=[("x-amz-version-id", "v7")])
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA, validator="version v7"), SPAN, Received())
    assert server.requests[0].target == b"/models/weights?versionId=v7"
    assert server.requests[0].get("if-match") is None


async def test_the_null_version_is_asked_for_with_its_etag() -> None:
    async with ScriptedServer(object_of(DATA)) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA, validator='version null "v1"'), SPAN, Received())
        with pytest.raises(VersionChanged):
            await origin.read_range(version_of(origin, DATA, validator='version null "v0"'), SPAN, Received())
    assert server.requests[0].target == b"/models/weights?versionId=null"
    assert server.requests[0].get("if-match") == '"v1"'


async def test_another_version_id_than_asked_for_is_caught() -> None:
    handler = object_of(DATA, headers=[("x-amz-version-id", "v8")])
    sink = Received()
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match="mislabelled"):
            await origin.read_range(version_of(origin, DATA, validator="version v7"), SPAN, sink)
    assert sink.writes == 0


@pytest.mark.parametrize(
    "handler",
    [
        labelled(RIGHT),
        labelled(RIGHT, status=200),
        labelled(RIGHT, status=200, headers=(("x-amz-checksum-crc32c", "yZRlqg=="),)),
        labelled(RIGHT, headers=(("content-encoding", "gzip"),)),
    ],
    ids=["206", "200-with-range", "200-with-the-objects-checksum", "content-encoding"],
)
async def test_right_answers_in_any_dress_are_taken(handler: Handler) -> None:
    sink = Received()
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA), SPAN, sink)
    assert sink.data == DATA[SPAN.start : SPAN.end]


async def test_a_200_is_taken_for_the_whole_object_only() -> None:
    sink, whole = Received(), ByteRange(0, len(DATA))
    async with ScriptedServer(labelled(None, DATA, status=200)) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA), whole, sink)
        assert sink.data == DATA
        with pytest.raises(OriginUnavailable, match="mislabelled"):
            await origin.read_range(version_of(origin, DATA), SPAN, sink)
    assert len(sink.data) == len(DATA)


@pytest.mark.parametrize(
    "handler",
    [
        labelled(None),
        labelled("bytes 1000-200999/*"),
        labelled("bytes */300000"),
        labelled("bytes 1001-201000/300000"),
        labelled("bytes 0-299999/300000", DATA),
        labelled("bytes 1000-200998/300000", DATA[1000:200_999]),
        labelled("bytes 200999-1000/300000"),
        labelled("items 1000-200999/300000"),
        labelled(RIGHT, DATA[1000:200_999]),
        labelled(RIGHT, DATA[1000:201_001]),
        labelled(RIGHT, etag=None),
        labelled(RIGHT, DATA[SPAN.start : SPAN.end], status=203),
        answer(206, DATA, [ETAG, ("content-type", "multipart/byteranges; boundary=x")]),
    ],
    ids=[
        "no-label",
        "unknown-size",
        "no-range",
        "shifted",
        "too-wide",
        "too-narrow",
        "reversed",
        "other-unit",
        "shorter-than-labelled",
        "longer-than-labelled",
        "no-etag",
        "odd-status",
        "multipart",
    ],
)
async def test_mislabelled_answers_are_caught_before_a_byte_is_used(handler: Handler) -> None:
    sink = Received()
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match="mislabelled") as caught:
            await origin.read_range(version_of(origin, DATA), SPAN, sink)
        assert counted("origin_errors", origin.id, reason="mismatch") == 1
        assert counted("origin_bytes", origin.id) == 0
    assert sink.writes == 0
    assert not caught.value.throttled


@pytest.mark.parametrize(
    "handler",
    [
        labelled(RIGHT, etag='"v2"'),
        labelled(RIGHT, etag='W/"v1"'),
        labelled("bytes 1000-200999/300001"),
        labelled(None, DATA + b"x", status=200),
        error(412, "PreconditionFailed"),
        error(416, "InvalidRange"),
        error(404, "NoSuchKey"),
        answer(404, b""),
    ],
    ids=["etag", "weak", "size", "whole-of-another-size", "412", "416", "gone", "gone-silently"],
)
async def test_another_version_is_told_apart_before_a_byte_is_used(handler: Handler) -> None:
    sink = Received()
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        with pytest.raises(VersionChanged):
            await origin.read_range(version_of(origin, DATA), SPAN, sink)
    assert sink.writes == 0
    assert len(server.requests) == 1


async def test_a_weak_etag_counts_together_with_the_date() -> None:
    dated = labelled(RIGHT, etag='W/"v1"', headers=(("last-modified", "Tue, 24 Nov 2026 06:12:45 GMT"),))
    async with ScriptedServer(dated) as server, s3_origin(server.url) as origin:
        same = version_of(origin, DATA, validator='etag W/"v1" Tue, 24 Nov 2026 06:12:45 GMT')
        await origin.read_range(same, SPAN, Received())
        assert server.requests[0].get("if-match") is None
        with pytest.raises(VersionChanged):
            later = version_of(origin, DATA, validator='etag W/"v1" Tue, 24 Nov 2026 06:12:46 GMT')
            await origin.read_range(later, SPAN, Received())


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        (error(403, "AccessDenied"), AccessDenied, "Said <so>"),
        (error(403, "InvalidObjectState"), OriginRefused, "403"),
        (error(403, "SignatureDoesNotMatch"), AccessDenied, "this gateway's credentials"),
        (error(401, "Odd"), AccessDenied, "this gateway's credentials"),
        (error(400, "InvalidRequest"), OriginRefused, "400"),
        (error(404, "NoSuchBucket"), NotFound, "bucket"),
        (error(404, "NoSuchVersion"), NotFound, "version"),
        (error(500, "InternalError"), OriginUnavailable, "InternalError"),
    ],
)
async def test_errors_of_the_origin_keep_their_meaning(handler: Handler, kind: type[Exception], words: str) -> None:
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        with pytest.raises(kind, match=words) as caught:
            await origin.read_range(version_of(origin, DATA), SPAN, Received())
    if isinstance(caught.value, OriginRefused):
        assert b"<Code>" in caught.value.body


async def test_a_version_that_the_client_named_and_that_is_gone_does_not_exist() -> None:
    async with ScriptedServer(error(404, "NoSuchVersion")) as server, s3_origin(server.url) as origin:
        with pytest.raises(NotFound, match="version"):
            await origin.read_range(version_of(origin, DATA, validator="version v7"), SPAN, Received())


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (429, "TooManyRequests"), (400, "SlowDown")])
async def test_throttling_is_told_with_its_wait(status: int, code: str) -> None:
    handler = error(status, code, **{"retry-after": "4"})
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable) as caught:
            await origin.read_range(version_of(origin, DATA), SPAN, Received())
        assert counted("origin_errors", origin.id, reason="throttled") == 1
    assert caught.value.throttled
    assert caught.value.retry_after_s == 4.0


@pytest.mark.parametrize("how", ["close", "reset", "stall"])
async def test_a_body_that_breaks_off_is_delivered_as_far_as_it_came(how: str) -> None:
    sink = Received()
    limits = HttpLimits(read_timeout_s=0.3)
    async with ScriptedServer(broken_off(how, 70_000)) as server, s3_origin(server.url, limits=limits) as origin:
        with pytest.raises(OriginUnavailable):
            await origin.read_range(version_of(origin, DATA), SPAN, sink)
        assert counted("origin_bytes", origin.id) == len(sink.data)
    assert sink.data == DATA[SPAN.start : SPAN.start + len(sink.data)]
    if how != "reset":  # a reset may take back what was under way
        assert len(sink.data) == 70_000
    assert len(server.requests) == 1


async def test_a_reset_before_the_head_is_unavailable() -> None:
    async def handler(exchange: Exchange) -> None:
        exchange.reset()

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match="reset"):
            await origin.read_range(version_of(origin, DATA), SPAN, Received())
        assert counted("origin_errors", origin.id, reason="reset") == 1


def chunked(*chunks: bytes, end: bool = True) -> Handler:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(206, [ETAG, ("content-range", RIGHT), ("transfer-encoding", "chunked")])
        for chunk in chunks:
            await exchange.send_chunk(chunk)
        if end:
            await exchange.send_chunk(b"")
        exchange.close()

    return handler


async def test_a_chunked_answer_with_the_right_label_is_taken() -> None:
    sink = Received()
    async with ScriptedServer(chunked(DATA[1000:5000], DATA[5000:201_000])) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA), SPAN, sink)
    assert sink.data == DATA[SPAN.start : SPAN.end]


async def test_a_chunked_answer_that_ends_early_is_short() -> None:
    sink = Received()
    async with ScriptedServer(chunked(DATA[1000:5000])) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match="4000 of 200000"):
            await origin.read_range(version_of(origin, DATA), SPAN, sink)
        assert counted("origin_errors", origin.id, reason="short") == 1
    assert sink.data == DATA[1000:5000]


async def test_a_chunked_answer_that_goes_on_is_cut_and_refused() -> None:
    sink = Received()
    async with ScriptedServer(chunked(DATA[1000:201_000], DATA, end=False)) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match="mislabelled"):
            await origin.read_range(version_of(origin, DATA), SPAN, sink)
    assert DATA[1000:201_000].startswith(bytes(sink.data))


async def test_a_slow_drip_arrives() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(206, [ETAG, ("content-range", "bytes 0-99/300000")], content_length=100)
        await exchange.drip(DATA[:100])

    sink = Received()
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA), ByteRange(0, 100), sink)
    assert sink.data == DATA[:100]


async def test_a_sink_that_fails_stops_the_read_with_its_own_error() -> None:
    class Full:
        def write(self, data: memoryview) -> None:
            raise OSError("full")

    async with ScriptedServer(object_of(DATA)) as server, s3_origin(server.url) as origin:
        with pytest.raises(OSError, match="full"):
            await origin.read_range(version_of(origin, DATA), SPAN, Full())
