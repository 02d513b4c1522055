"""`head`: an S3 answer becomes a record, or the right error."""

from __future__ import annotations

import pytest

from proxy.errors import AccessDenied, NotFound, OriginRefused, OriginUnavailable
from proxy.objects import SumKind
from proxy.origin.exchange import HttpLimits
from tests.fakes.scripted import Exchange, ScriptedServer, in_turn, object_of
from tests.origin.asking import NOW_S, counted, s3_origin

Headers = list[tuple[str, str]]
ETAG = ("etag", '"d41d8cd98f00b204e9800998ecf8427e"')


def headed(headers: Headers, *, length: int = 10, status: int = 200) -> ScriptedServer:
    """A server that answers every HEAD like that."""

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(status, headers, content_length=length)

    return ScriptedServer(handler)


async def test_a_record_holds_neutral_fields_and_the_origins_headers() -> None:
    headers = [
        ETAG,
        ("Last-Modified", "Tue, 24 Nov 2026 06:12:45 GMT"),
        ("Content-Type", "application/json"),
        ("Content-Encoding", "zstd"),
        ("Cache-Control", "max-age=9"),
        ("X-Amz-Meta-Colour", "blue"),
        ("x-amz-version-id", "v9"),
        ("x-amz-storage-class", "GLACIER_IR"),
        ("x-amz-checksum-crc32c", "yZRlqg=="),
        ("x-amz-checksum-crc64nvme", "AAAAAAAAAAE="),
        ("x-amz-checksum-type", "FULL_OBJECT"),
        ("Server", "AmazonS3"),
        ("x-amz-request-id", "1"),
        ("Accept-Ranges", "bytes"),
        ("Keep-Alive", "5"),
        ("Connection", "keep-alive, X-Hop"),
        ("X-Hop", "1"),
        ("Access-Control-Allow-Origin", "*"),
    ]
    async with headed(headers) as server, s3_origin(server.url) as origin:
        record = await origin.head("models", "a b/weights")
    assert record.version.validator == f"etag {ETAG[1]}"
    assert (record.version.origin, record.version.bucket, record.version.key) == (origin.id, "models", "a b/weights")
    assert (record.size_bytes, record.etag, record.checked_at_s, record.cacheable) == (10, ETAG[1], NOW_S, True)
    assert record.last_modified_s == 1795500765
    assert record.md5 == "d41d8cd98f00b204e9800998ecf8427e"
    assert record.user_metadata == (("colour", "blue"),)
    assert record.sums == ((SumKind.CRC32C, 0xC99465AA), (SumKind.CRC64NVME, 1))
    assert [name for name, _ in record.headers] == [name.lower() for name, _ in headers[:11]]


async def test_a_head_asks_for_checksums_and_no_coding_and_is_signed() -> None:
    async with headed([ETAG]) as server, s3_origin(server.url) as origin:
        await origin.head("models", "a//b/../c d", "v1")
        port = server.port
    (request,) = server.requests
    assert request.method == "HEAD"
    assert request.target == b"/models/a//b/../c%20d?versionId=v1"
    assert request.get("x-amz-checksum-mode") == "ENABLED"
    assert request.get("accept-encoding") == "identity"
    assert request.get("host") == f"127.0.0.1:{port}"
    assert "x-amz-checksum-mode" in (request.get("authorization") or "")
    assert request.get("user-agent") is None


@pytest.mark.parametrize(
    "headers",
    [
        [("x-amz-checksum-crc32c", "yZRlqg==-2")],
        [("x-amz-checksum-crc32c", "yZRlqg=="), ("x-amz-checksum-type", "COMPOSITE")],
        [("x-amz-checksum-crc32c", "too long a value")],
        [("x-amz-checksum-sha256", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")],
    ],
)
async def test_checksums_that_are_not_the_whole_objects_are_left_out(headers: Headers) -> None:
    async with headed([ETAG, *headers]) as server, s3_origin(server.url) as origin:
        assert (await origin.head("models", "k")).sums == ()


@pytest.mark.parametrize(
    ("version_id", "headers", "validator", "cacheable"),
    [
        (None, [("etag", '"x-2"')], 'etag "x-2"', True),
        (None, [("etag", 'W/"x"'), ("last-modified", "then")], 'etag W/"x" then', True),
        (None, [("etag", 'W/"x"')], 'etag W/"x"', True),
        (None, [("last-modified", "then")], "none then", False),
        (None, [], "none", False),
        ("v1", [("etag", '"x"')], "version v1", True),
        ("v1", [], "version v1", True),
        ("null", [("etag", '"x"')], 'version null "x"', True),
        (None, [ETAG, ("x-amz-server-side-encryption-customer-algorithm", "AES256")], f"etag {ETAG[1]}", False),
    ],
)
async def test_what_a_version_is_known_by(
    version_id: str | None, headers: Headers, validator: str, cacheable: bool
) -> None:
    async with headed(headers) as server, s3_origin(server.url) as origin:
        record = await origin.head("models", "k", version_id)
    assert (record.version.validator, record.cacheable) == (validator, cacheable)


@pytest.mark.parametrize(
    "headers",
    [
        [("etag", '"d41d8cd98f00b204e9800998ecf8427e-2"')],
        [ETAG, ("x-amz-server-side-encryption", "aws:kms")],
        [("etag", 'W/"d41d8cd98f00b204e9800998ecf8427e"')],
    ],
)
async def test_an_etag_that_is_no_md5_is_not_taken_for_one(headers: Headers) -> None:
    async with headed(headers) as server, s3_origin(server.url) as origin:
        assert (await origin.head("models", "k")).md5 is None


async def test_a_206_is_never_the_objects_size() -> None:
    async with (
        headed([ETAG, ("content-range", "bytes 0-9/100")], status=206) as server,
        s3_origin(server.url) as origin,
    ):
        with pytest.raises(OriginUnavailable, match="mislabelled"):
            await origin.head("models", "k")


async def test_a_content_range_on_a_200_is_never_the_objects_size() -> None:
    async with headed([ETAG, ("content-range", "bytes 0-9/100")]) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match="mislabelled"):
            await origin.head("models", "k")
        assert counted("origin_errors", origin.id, reason="mismatch") == 1


async def test_a_head_without_a_length_is_refused() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(200, [ETAG])

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match="mislabelled"):
            await origin.head("models", "k")


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotFound), (403, AccessDenied), (400, OriginRefused), (405, OriginRefused), (501, OriginRefused)],
)
async def test_final_answers_keep_their_meaning(status: int, error: type[Exception]) -> None:
    marked = [("x-amz-delete-marker", "true")]
    async with headed(marked, length=0, status=status) as server, s3_origin(server.url) as origin:
        with pytest.raises(error) as caught:
            await origin.head("models", "k")
    if isinstance(caught.value, OriginRefused):
        assert caught.value.status == status
        assert ("x-amz-delete-marker", "true") in caught.value.headers
    assert len(server.requests) == (2 if status in (400, 403) else 1)


@pytest.mark.parametrize(
    ("status", "code", "error", "told"),
    [
        (403, "InvalidObjectState", OriginRefused, {"status": 403}),
        (403, "InvalidAccessKeyId", AccessDenied, {}),
        (400, "ExpiredToken", AccessDenied, {}),
    ],
)
async def test_a_refusal_is_asked_for_its_code(
    status: int, code: str, error: type[Exception], told: dict[str, object]
) -> None:
    document = f"<Error><Code>{code}</Code></Error>".encode()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(status, [], content_length=len(document))
        if exchange.request.method == "GET":
            await exchange.send(document)

    async with ScriptedServer(handler) as server, s3_origin(server.url) as origin:
        with pytest.raises(error) as caught:
            await origin.head("models", "k", "v1")
        assert server.requests[1].target == b"/models/k?versionId=v1"
    assert {name: getattr(caught.value, name) for name in told} == told
    if isinstance(caught.value, OriginRefused):
        assert caught.value.body == document


def refusing(status: int, code: str) -> ScriptedServer:
    """A server that has nothing, and says why where an answer has a body."""
    document = f"<Error><Code>{code}</Code></Error>".encode()

    async def handler(exchange: Exchange) -> None:
        await exchange.send_head(status, [], content_length=len(document))
        if exchange.request.method == "GET":
            await exchange.send(document)

    return ScriptedServer(handler)


@pytest.mark.parametrize(
    ("code", "version_id", "what"),
    [
        ("NoSuchKey", None, "key"),
        ("NoSuchBucket", None, "bucket"),
        ("NoSuchVersion", "v1", "version"),
        ("NoSuchBucket", "v1", "bucket"),
        ("else", None, "key"),
    ],
)
async def test_a_missing_key_costs_one_request_and_another_one_only_for_who_must_know_what_is_missing(
    code: str, version_id: str | None, what: str
) -> None:
    async with refusing(404, code) as server, s3_origin(server.url) as origin:
        for number in range(3):
            with pytest.raises(NotFound) as caught:
                await origin.head("models", f"k{number}", version_id)
            assert not caught.value.certain
        assert [request.method for request in server.requests] == ["HEAD"] * 3
        found = await origin.explain_missing("models", "k1", version_id)
        assert (found.what, found.certain) == (what, True)
        assert found.name == ("models" if what == "bucket" else "k1")
        assert len(server.requests) == 4


async def test_a_bucket_that_is_there_is_not_asked_about_for_each_of_its_missing_keys() -> None:
    async with refusing(404, "NoSuchKey") as server, s3_origin(server.url) as origin:
        for number in range(10):
            assert (await origin.explain_missing("models", f"k{number}")).what == "key"
        assert len(server.requests) == 1
    async with headed([ETAG]) as server, s3_origin(server.url) as origin:
        await origin.head("models", "k")
        assert (await origin.explain_missing("models", "other")).what == "key"
        assert len(server.requests) == 1


async def test_a_bucket_that_denies_access_is_not_asked_twice_for_each_of_its_keys() -> None:
    """Without the right to list a bucket, S3 says 403 for every key that is missing."""
    async with refusing(403, "AccessDenied") as server, s3_origin(server.url) as origin:
        for number in range(10):
            with pytest.raises(AccessDenied):
                await origin.head("models", f"k{number}")
        assert [request.method for request in server.requests] == ["HEAD", "GET", *["HEAD"] * 9]
    async with refusing(403, "InvalidObjectState") as server, s3_origin(server.url) as origin:
        for number in range(2):
            with pytest.raises(OriginRefused):
                await origin.head("models", f"k{number}")
        assert len(server.requests) == 4, "the client must see why"


@pytest.mark.parametrize(
    ("status", "retry_after", "wait_s", "throttled"),
    [
        (503, "7", 7.0, True),
        (429, "Wed, 24 Nov 2026 06:00:09 GMT", 9.0, True),
        (503, "Wed, 24 Nov 2020 06:00:09 GMT", 0.0, True),
        (503, "soon", None, True),
        (503, None, None, True),
        (500, "3", 3.0, False),
        (502, None, None, False),
    ],
)
async def test_trouble_says_whether_and_how_long_to_wait(
    status: int, retry_after: str | None, wait_s: float | None, throttled: bool
) -> None:
    headers = [("retry-after", retry_after)] if retry_after is not None else []
    async with headed(headers, length=0, status=status) as server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable) as caught:
            await origin.head("models", "k")
        assert counted("origin_errors", origin.id, reason="throttled" if throttled else "server") == 1
    assert caught.value.throttled is throttled
    assert caught.value.retry_after_s == (wait_s if wait_s != 9.0 else pytest.approx(1795500009.0 - NOW_S))


async def test_nobody_listening_is_unavailable() -> None:
    async with headed([]) as server:
        url = server.url
    async with s3_origin(url) as origin:
        with pytest.raises(OriginUnavailable, match="connect"):
            await origin.head("models", "k")
        assert counted("origin_errors", origin.id, reason="connect") == 1


async def test_a_kept_connection_that_the_origin_closed_costs_no_error() -> None:
    async def and_close(exchange: Exchange) -> None:
        if exchange.request.connection == 0 and len(server.requests) == 2:
            exchange.close()  # the second request on the first connection: no answer
        else:
            await exchange.send_head(200, [ETAG], content_length=1)

    server = ScriptedServer(and_close)
    async with server, s3_origin(server.url) as origin:
        await origin.head("models", "k")
        await origin.head("models", "k")
    assert [request.connection for request in server.requests] == [0, 0, 1]


async def test_an_origin_that_says_nothing_is_unavailable_in_bounded_time() -> None:
    async def silent(exchange: Exchange) -> None:
        await exchange.stall()

    limits = HttpLimits(read_timeout_s=0.05)
    async with ScriptedServer(silent) as server, s3_origin(server.url, limits=limits) as origin:
        with pytest.raises(OriginUnavailable, match="timeout"):
            await origin.head("models", "k")
        assert counted("origin_errors", origin.id, reason="timeout") == 1


@pytest.mark.parametrize("status", [301, 400, 307])
async def test_a_bucket_in_another_region_is_asked_there_and_remembered(status: int) -> None:
    there = [("x-amz-bucket-region", "eu-west-3")]

    async def elsewhere(exchange: Exchange) -> None:
        await exchange.send_head(status, there, content_length=0)

    async with ScriptedServer(in_turn(elsewhere, object_of(b"data"))) as server, s3_origin(server.url) as origin:
        assert (await origin.head("models", "k")).size_bytes == 4
        assert (await origin.head("models", "other")).size_bytes == 4
    scopes = [(request.get("authorization") or "").split("/")[2] for request in server.requests]
    assert scopes == ["us-east-1", "eu-west-3", "eu-west-3"]


async def test_redirects_end() -> None:
    async def around(exchange: Exchange) -> None:
        where = f"/models/k{len(server.requests)}"
        await exchange.send_head(307, [("location", where)], content_length=0)

    server = ScriptedServer(around)
    async with server, s3_origin(server.url) as origin:
        with pytest.raises(OriginUnavailable, match="307"):
            await origin.head("models", "k")
    assert [request.target for request in server.requests] == [
        b"/models/k",
        b"/models/k1",
        b"/models/k2",
        b"/models/k3",
    ]


async def test_an_anonymous_origin_gets_no_signature() -> None:
    async with headed([ETAG]) as server, s3_origin(server.url, credentials=None) as origin:
        await origin.head("models", "k")
    assert server.requests[0].get("authorization") is None
    assert server.requests[0].get("x-amz-content-sha256") is None


async def test_virtual_host_style_asks_the_buckets_host() -> None:
    async with s3_origin("http://localhost:9", addressing="virtual") as origin:
        with pytest.raises(OriginUnavailable, match="connect"):  # a name that does not resolve
            await origin.head("no-such-bucket.invalid", "k")


async def test_a_multipart_checksum_without_a_type_is_neither_checked_nor_handed_on() -> None:
    """Moto's HEAD shows the composite of the parts as if it were the object's."""
    etag = ("etag", '"d41d8cd98f00b204e9800998ecf8427e-3"')
    for headers, sums, kept in (
        ([etag, ("x-amz-checksum-crc32", "Uw1Ciw==")], (), 1),
        (
            [etag, ("x-amz-checksum-crc32", "AAAAAQ=="), ("x-amz-checksum-type", "FULL_OBJECT")],
            ((SumKind.CRC32, 1),),
            3,
        ),
    ):
        async with headed(list(headers)) as server, s3_origin(server.url) as origin:
            record = await origin.head("models", "k")
        assert (record.sums, len(record.headers)) == (sums, kept)
