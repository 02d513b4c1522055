"""The ways a read may take: redirected, over TLS, through a proxy, many at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.errors import AccessDenied, InvalidRequest, OriginTrouble, OriginUnavailable, VersionChanged
from proxy.origin import ForwardRequest
from proxy.origin.s3 import Credentials
from proxy.ranges import ByteRange
from tests.fakes.certificates import make_certificates
from tests.fakes.scripted import Exchange, Handler, ScriptedServer, answer, in_turn, object_of
from tests.origin.answers import DATA, RIGHT, SPAN, broken_off, error, labelled
from tests.origin.asking import Received, counted, s3_origin, version_of


async def test_a_redirect_within_the_origin_is_followed_and_signed_again() -> None:
    async def elsewhere(exchange: Exchange) -> None:
        await exchange.respond(307, b"", [("location", "/models/moved")])

    sink = Received()
    async with ScriptedServer(in_turn(elsewhere, object_of(DATA))) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA), SPAN, sink)
    assert sink.data == DATA[SPAN.start : SPAN.end]
    first, second = server.requests
    assert second.target == b"/models/moved"
    assert second.get("authorization") != first.get("authorization")
    assert second.get("range") == "bytes=1000-200999"


TEMPORARY = Credentials("AKIDEXAMPLE", "very-secret", "session-token")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_request_leaves_an_origin_by_a_redirect(status: int) -> None:
    """Neither bytes nor heads, neither deletions nor uploads: another server gets no signature and no token."""
    async with ScriptedServer(object_of(DATA), host="127.0.0.2") as inside:

        async def elsewhere(exchange: Exchange) -> None:
            where = f"{inside.url}{exchange.request.target.decode()}?X-Amz-Signature=canary"
            await exchange.respond(status, b"", [("location", where)])

        async with (
            ScriptedServer(elsewhere) as server,
            s3_origin(server.url, credentials=TEMPORARY) as origin,
        ):
            with pytest.raises(OriginUnavailable, match=f"{status}; it redirects to {inside.url}, .*not followed$"):
                await origin.read_range(version_of(origin, DATA), SPAN, Received())
            with pytest.raises(OriginUnavailable, match="not followed"):
                await origin.head("models", "weights")
            for method in ("GET", "DELETE", "PUT"):
                with pytest.raises(OriginUnavailable, match="not followed"):
                    await origin.forward(ForwardRequest(method, "models", "weights", (), ()))
            assert counted("origin_errors", origin.id, reason="redirect") == 5
        assert not inside.requests


async def test_a_write_is_sent_again_only_by_a_redirect_that_keeps_its_method() -> None:
    for status, expected in ((307, 200), (308, 200), (301, None), (302, None)):
        moved = answer(status, b"", [("location", "/models/moved")])
        async with ScriptedServer(in_turn(moved, answer(200))) as server, s3_origin(server.url) as origin:
            request = ForwardRequest("DELETE", "models", "weights", (), ())
            if expected is None:
                with pytest.raises(OriginUnavailable, match=str(status)):
                    await origin.forward(request)
                continue
            answered = await origin.forward(request)
            await answered.close()
            assert [request.method for request in server.requests] == ["DELETE", "DELETE"]


async def test_a_region_that_can_t_be_followed_is_named() -> None:
    moved = answer(301, b"", [("x-amz-bucket-region", "eu-west-3"), ("x-amz-request-id", "r1")])
    async with ScriptedServer(moved) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match=r"301: the bucket is in the region eu-west-3") as caught:
            await origin.head("models", "weights")
    assert caught.value.lasting
    assert caught.value.trouble == OriginTrouble("redirect", "", "r1")


async def test_a_region_named_in_an_error_document_is_used() -> None:
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>ap-south-2</Region></Error>"
    handler = in_turn(answer(400, body), object_of(DATA))
    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        await origin.read_range(version_of(origin, DATA), SPAN, Received())
    assert "/ap-south-2/s3/" in (server.requests[1].get("authorization") or "")


async def test_bytes_come_over_tls_with_an_authority_of_its_own(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    sink = Received()
    async with ScriptedServer(object_of(DATA), tls=certificates.server_context()) as server:
        async with s3_origin(server.url, ca_file=certificates.ca_file) as origin:
            assert (await origin.head("models", "weights")).size_bytes == len(DATA)
            await origin.read_range(version_of(origin, DATA), SPAN, sink)
        async with s3_origin(server.url) as distrustful:
            with pytest.raises(OriginUnavailable, match="connect"):
                await distrustful.head("models", "weights")
            with pytest.raises(OriginUnavailable, match="connect"):
                await distrustful.read_range(version_of(distrustful, DATA), SPAN, Received())
    assert sink.data == DATA[SPAN.start : SPAN.end]


async def test_a_proxy_in_the_environment_carries_heads_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer(object_of(DATA)) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        sink = Received(slow=True)
        async with s3_origin("http://store.invalid:9000") as origin:
            await origin.head("models", "weights")
            await origin.read_range(version_of(origin, DATA), SPAN, sink)
        async with s3_origin(proxy.url) as direct:
            await direct.head("models", "weights")
    assert sink.data == DATA[SPAN.start : SPAN.end]
    assert [request.target for request in proxy.requests] == [
        b"http://store.invalid:9000/models/weights",
        b"http://store.invalid:9000/models/weights",
        b"/models/weights",
    ]
    assert proxy.requests[0].get("host") == "store.invalid:9000"


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (labelled("bytes 1000-200999/*"), OriginUnavailable),
        (labelled(RIGHT, etag='"v2"'), VersionChanged),
        (error(412, "PreconditionFailed"), VersionChanged),
        (error(403, "AccessDenied"), AccessDenied),
        (broken_off("close", 70_000), OriginUnavailable),
    ],
)
async def test_behind_a_proxy_the_same_faults_are_found(
    handler: Handler, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedServer(handler) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with s3_origin("http://store.invalid") as origin:
            with pytest.raises(kind):
                await origin.read_range(version_of(origin, DATA), SPAN, Received())


async def test_many_ranges_at_once_share_connections_and_never_mix() -> None:
    spans = [ByteRange(start, min(start + 30_011, len(DATA))) for start in range(0, len(DATA), 30_011)]
    sinks = [Received(slow=index % 2 == 0) for index in range(len(spans))]
    async with ScriptedServer(object_of(DATA)) as server, s3_origin(server.url) as origin:
        version = version_of(origin, DATA)
        for _ in range(3):
            for sink in sinks:
                sink.data.clear()
            await asyncio.gather(*map(origin.read_range, [version] * len(spans), spans, sinks))
            assert b"".join(bytes(sink.data) for sink in sinks) == DATA
    assert server.accepted <= len(spans)


async def test_a_header_that_can_t_be_sent_is_refused_without_showing_it() -> None:
    broken = Credentials("AKIDEXAMPLE", "very-secret", "canary\ntoken")
    async with ScriptedServer(object_of(DATA)) as server, s3_origin(server.url, credentials=broken) as origin:
        with pytest.raises(InvalidRequest, match=r"the request can't be sent: Illegal header value$"):
            await origin.head("models", "weights")
    assert not server.requests
