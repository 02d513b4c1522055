"""A download from GCS is exactly the generation and the range that were asked for, or an error that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.errors import AccessDenied, NotFound, OriginRefused, OriginUnavailable, VersionChanged, WarmstartError
from proxy.objects import ObjectVersion
from proxy.origin.watched import WatchedOpener
from proxy.ranges import ByteRange
from tests.fakes.certificates import make_certificates
from tests.fakes.scripted import Exchange, Handler, ScriptedServer, answer, in_turn
from tests.origin.answers import DATA, RIGHT, SPAN
from tests.origin.asking import Received, Tokens, counted, gcs_origin
from tests.origin.gcs_answers import resource, said

GENERATION = ("x-goog-generation", "17")
BODY = DATA[SPAN.start : SPAN.end]


def served(
    body: bytes = BODY,
    label: str | None = RIGHT,
    *,
    status: int = 206,
    generation: str | None = "17",
    headers: tuple[tuple[str, str], ...] = (),
) -> Handler:
    named = [("content-range", label)] if label is not None else []
    numbered = [("x-goog-generation", generation)] if generation is not None else []
    return answer(status, body, [*named, *numbered, *headers])


def version_at(origin: WatchedOpener) -> ObjectVersion:
    return ObjectVersion(origin.id, "models", "a b/ü", "generation 17", len(DATA))


async def read(handler: Handler, span: ByteRange = SPAN) -> bytes:
    sink = Received()
    async with ScriptedServer(handler) as server, gcs_origin(server.url) as origin:
        await origin.read_range(version_at(origin), span, sink)
    return bytes(sink.data)


async def fail(handler: Handler, *, sent_bytes: int = 0) -> WarmstartError:
    sink = Received()
    async with ScriptedServer(handler) as server, gcs_origin(server.url) as origin:
        with pytest.raises(WarmstartError) as caught:
            await origin.read_range(version_at(origin), SPAN, sink)
        assert counted("origin_bytes", origin.id) == len(sink.data) == sent_bytes
    return caught.value


async def test_a_request_names_generation_range_stored_form_payer_and_token() -> None:
    async with (
        ScriptedServer(served()) as server,
        gcs_origin(server.url, Tokens(), user_project="payer") as origin,
    ):
        await origin.read_range(version_at(origin), SPAN, Received())
        [request] = server.requests
    assert request.target == b"/download/storage/v1/b/models/o/a%20b%2F%C3%BC?alt=media&generation=17"
    assert request.get("range") == f"bytes={SPAN.start}-{SPAN.end - 1}"
    assert request.get("accept-encoding") == "gzip"
    assert request.get("x-goog-user-project") == "payer"
    assert request.get("authorization") == "Bearer t1"


async def test_an_anonymous_origin_sends_no_token() -> None:
    async with ScriptedServer(served()) as server, gcs_origin(server.url) as origin:
        await origin.read_range(version_at(origin), SPAN, Received())
        assert server.requests[0].get("authorization") is None
        assert server.requests[0].get("x-goog-user-project") is None


async def test_the_right_answers_are_taken() -> None:
    assert await read(served()) == BODY
    assert await read(served(DATA, None, status=200), ByteRange(0, len(DATA))) == DATA
    stored = (("content-encoding", "gzip"), ("x-goog-stored-content-encoding", "gzip"))
    assert await read(served(headers=stored)) == BODY


async def test_an_empty_span_asks_nobody() -> None:
    async with gcs_origin("http://127.0.0.1:9") as origin:
        await origin.read_range(version_at(origin), ByteRange(5, 5), Received())


@pytest.mark.parametrize(
    "handler",
    [
        served(generation="18"),
        served(label=f"bytes 1000-200999/{len(DATA) + 1}"),
        said(404, "notFound", "No such object: models/a b/ü"),
        answer(404, b"No such object: models/a b/"),
        said(412, "conditionNotMet"),
        said(416, "requestedRangeNotSatisfiable"),
    ],
)
async def test_another_generation_is_a_changed_version(handler: Handler) -> None:
    assert isinstance(await fail(handler), VersionChanged)


@pytest.mark.parametrize(
    "handler",
    [
        served(headers=(("x-goog-stored-content-encoding", "gzip"),)),
        served(headers=(("x-goog-stored-content-encoding", "identity"), ("content-encoding", "gzip"))),
        served(label="bytes 0-199999/300000"),
        served(label=None),
        served(BODY[:-1]),
        served(DATA, None, status=200),
        answer(204, b"", [GENERATION]),
    ],
)
async def test_an_answer_that_makes_no_sense_is_not_used(handler: Handler) -> None:
    error = await fail(handler)
    assert isinstance(error, OriginUnavailable)
    assert not error.throttled


async def test_a_missing_bucket_is_not_a_changed_version() -> None:
    error = await fail(said(404, "notFound", "The specified bucket does not exist."))
    assert isinstance(error, NotFound)
    assert (error.what, error.name) == ("bucket", "models")


@pytest.mark.parametrize(
    "handler",
    [
        said(429, "rateLimitExceeded", **{"retry-after": "7"}),
        said(403, "userRateLimitExceeded", **{"retry-after": "7"}),
        said(503, "backendError", **{"retry-after": "7"}),
        answer(503, b"<?xml version='1.0'?><Error><Code>SlowDown</Code></Error>", [("retry-after", "7")]),
    ],
)
async def test_a_throttling_origin_is_heard(handler: Handler) -> None:
    error = await fail(handler)
    assert isinstance(error, OriginUnavailable)
    assert (error.throttled, error.retry_after_s) == (True, 7.0)


async def test_trouble_at_the_origin_may_pass() -> None:
    for status in (408, 500, 502, 504):
        error = await fail(said(status, "backendError"))
        assert isinstance(error, OriginUnavailable)
        assert not error.throttled


async def test_a_refusal_says_what_gcs_said_in_no_dialect() -> None:
    error: WarmstartError = await fail(said(403, "forbidden", "me does not have storage.objects.get access"))
    assert isinstance(error, AccessDenied)
    assert "storage.objects.get" in str(error)
    error = await fail(said(400, "invalid", "Bad thing."))
    assert isinstance(error, OriginRefused)
    assert (error.status, error.body, str(error)) == (400, b"", "the origin answered 400: Bad thing.")


async def test_a_refused_token_is_renewed_once() -> None:
    async with (
        ScriptedServer(in_turn(said(401, "authError"), served())) as server,
        gcs_origin(server.url, Tokens()) as origin,
    ):
        sink = Received()
        await origin.read_range(version_at(origin), SPAN, sink)
        assert sink.data == BODY
        assert [request.get("authorization") for request in server.requests] == ["Bearer t1", "Bearer t2"]
    async with ScriptedServer(said(401, "authError")) as server, gcs_origin(server.url, Tokens()) as origin:
        with pytest.raises(AccessDenied):
            await origin.read_range(version_at(origin), SPAN, Received())
        assert len(server.requests) == 2


async def test_bytes_come_over_tls_with_an_authority_of_its_own(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    async with ScriptedServer(in_turn(resource(), served()), tls=certificates.server_context()) as server:
        async with gcs_origin(server.url, ca_file=certificates.ca_file) as origin:
            assert (await origin.head("models", "weights")).generation == 17
            sink = Received()
            await origin.read_range(version_at(origin), SPAN, sink)
        async with gcs_origin(server.url) as distrustful:
            with pytest.raises(OriginUnavailable, match="connect"):
                await distrustful.head("models", "weights")
    assert sink.data == BODY


async def test_a_proxy_in_the_environment_carries_metadata_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer(in_turn(resource(), served())) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with gcs_origin("http://gcs.example.test", Tokens()) as origin:
            assert (await origin.head("models", "weights")).generation == 17
            sink = Received()
            await origin.read_range(version_at(origin), SPAN, sink)
        assert sink.data == BODY
        for request in proxy.requests:
            assert request.target.startswith(b"http://gcs.example.test/")
            assert request.get("host") == "gcs.example.test"
            assert request.get("authorization") == "Bearer t1"


@pytest.mark.parametrize("after", [0, 1000])
async def test_a_body_that_breaks_off_is_unavailable(after: int) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(206, [GENERATION, ("content-range", RIGHT)], content_length=SPAN.length)
        await exchange.send(BODY[:after])
        exchange.close()

    assert isinstance(await fail(handler, sent_bytes=after), OriginUnavailable)


async def test_bytes_of_a_server_that_names_no_generation_wait_for_its_metadata() -> None:
    size, unlabelled = str(len(DATA)), served(generation=None)
    assert await read(in_turn(unlabelled, resource(size=size))) == BODY
    assert isinstance(await fail(in_turn(unlabelled, resource(size=size, generation="18"))), VersionChanged)
    gone = said(404, "notFound", "No such object: models/weights")
    assert isinstance(await fail(in_turn(unlabelled, gone)), VersionChanged)
