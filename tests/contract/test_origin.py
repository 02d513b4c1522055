"""`head`, `read_range` and `head_part`, promised by every origin."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.blocks import ByteSink
from proxy.errors import InvalidRequest, NotFound, OriginUnavailable, VersionChanged, WarmstartError
from proxy.objects import ObjectRecord, ObjectVersion, SumKind
from proxy.origin import Attach, ForwardRequest, OpensRanges
from proxy.ranges import ByteRange
from tests.contract.origin_under_test import BUCKET, OriginUnderTest
from tests.origin.asking import Received, counted, read_all

DATA = random.Random(3).randbytes(3_000_017)
PLAIN_KEYS = ["weights.bin", "deep/er/weights", "a b/ü+%.bin", "日本/~-._'()!*", "100%25", "x" * 200 + "/" + "y" * 200]
AWKWARD_KEYS = ["a//b", "/lead", "./x", "a/./b", "a/../b", "..", "tr/"]


async def read(under_test: OriginUnderTest, version: ObjectVersion, span: ByteRange, *, slow: bool = False) -> bytes:
    sink = Received(slow=slow)
    await under_test.origin.read_range(version, span, sink)
    return bytes(sink.data)


async def test_a_head_tells_version_size_and_type(under_test: OriginUnderTest) -> None:
    under_test.put("model.json", b'{"a": 1}')
    before_s = time.time()
    record = await under_test.origin.head(BUCKET, "model.json")
    version = record.version
    assert (version.origin, version.bucket, version.key) == (under_test.origin.id, BUCKET, "model.json")
    assert record.size_bytes == 8
    assert record.cacheable
    assert record.strong_etag
    told = f"etag {record.etag}" if record.generation is None else f"generation {record.generation}"
    assert version.validator == told
    assert record.last_modified_s is not None
    assert abs(record.last_modified_s - before_s) < 600
    assert before_s - 1 <= record.checked_at_s <= time.time() + 1
    names = [name for name, _ in record.headers]
    assert {"etag", "content-type", "last-modified"} <= set(names)
    assert not {"date", "server", "content-length", "connection", "x-amz-request-id", "accept-ranges"} & set(names)
    assert all(name == name.lower() for name in names)
    assert (await under_test.origin.head(BUCKET, "model.json")).version == version


@pytest.mark.parametrize("key", PLAIN_KEYS)
async def test_keys_are_byte_exact(under_test: OriginUnderTest, key: str) -> None:
    under_test.put(key, key.encode() * 3)
    record = await under_test.origin.head(BUCKET, key)
    assert await read(under_test, record.version, ByteRange(0, record.size_bytes)) == key.encode() * 3
    with pytest.raises(NotFound):
        await under_test.origin.head(BUCKET, key + "x")


@pytest.mark.parametrize("key", AWKWARD_KEYS)
async def test_awkward_keys_are_themselves_or_do_not_exist(under_test: OriginUnderTest, key: str) -> None:
    if under_test.kind == "gcs_emulator":
        pytest.skip("it keeps names as paths, and breaks at `..`")
    for other in ("a/b", "lead", "x", "b", "tr"):
        under_test.put(f"awkward/{other}", b"other")
    key = "awkward/" + key
    if under_test.takes_any_key:
        under_test.put(key, key.encode())
        record = await under_test.origin.head(BUCKET, key)
        assert await read(under_test, record.version, ByteRange(0, record.size_bytes)) == key.encode()
    elif under_test.kind == "directory" or not key.endswith("/"):  # rclone takes "tr/" for "tr"
        with pytest.raises(WarmstartError):
            await under_test.origin.head(BUCKET, key)


async def test_spans_of_all_shapes_are_exact(under_test: OriginUnderTest) -> None:
    under_test.put("spans", DATA)
    version = (await under_test.origin.head(BUCKET, "spans")).version
    size = len(DATA)
    edges = [(0, size), (0, 1), (size - 1, size), (1, size), (0, size - 1), (1 << 20, 2 << 20), (5, 5)]
    rng = random.Random(11)
    edges += [(start, rng.randint(start, size)) for start in rng.sample(range(size), 10)]
    for index, (start, end) in enumerate(edges):
        assert await read(under_test, version, ByteRange(start, end), slow=index % 2 == 0) == DATA[start:end]


async def test_spans_at_once_are_exact(under_test: OriginUnderTest) -> None:
    under_test.put("spans", DATA)
    version = (await under_test.origin.head(BUCKET, "spans")).version
    spans = [ByteRange(start, min(start + 400_000, len(DATA))) for start in range(0, len(DATA), 400_000)]
    before = counted("origin_bytes", under_test.origin.id)
    found = await asyncio.gather(*(read(under_test, version, span) for span in spans))
    assert b"".join(found) == DATA
    assert counted("origin_bytes", under_test.origin.id) - before == len(DATA)


async def test_an_empty_object_has_a_version_and_no_bytes(under_test: OriginUnderTest) -> None:
    under_test.put("empty", b"")
    record = await under_test.origin.head(BUCKET, "empty")
    assert record.size_bytes == 0
    assert await read(under_test, record.version, ByteRange(0, 0)) == b""
    part = await under_test.origin.head_part(record, 1)
    assert (part.count, part.span) == (1, ByteRange(0, 0))


class Taker:
    """Takes an opened range as one of this version."""

    def __init__(self, version: ObjectVersion, span: ByteRange) -> None:
        self.sink = Received()
        self._version, self._span = version, span
        self.record: ObjectRecord | None = None

    def begin(self, attach: Attach, record: ObjectRecord | None = None) -> ByteSink:
        self.record = record
        return attach(self._version, self._span, self.sink)


async def test_a_range_opened_before_its_version_is_known_is_the_current_ones(under_test: OriginUnderTest) -> None:
    origin = under_test.origin
    if not isinstance(origin, OpensRanges):
        pytest.skip("a directory has no round trip to save")
    under_test.put("opened", DATA)
    version = (await origin.head(BUCKET, "opened")).version
    for span, wanted in (
        (ByteRange(0, 1000), ByteRange(0, 1000)),
        (ByteRange(len(DATA) - 7, len(DATA) + 1000), ByteRange(len(DATA) - 7, len(DATA))),
    ):
        taker = Taker(version, wanted)
        if under_test.kind == "gcs_emulator":  # it does not say which generation it sends
            with pytest.raises(OriginUnavailable):
                await origin.open_range(BUCKET, "opened", span, taker)
            assert taker.sink.writes == 0
        else:
            await origin.open_range(BUCKET, "opened", span, taker)
            assert taker.sink.data == DATA[wanted.start : wanted.end]
            assert (taker.record is not None) == origin.opening_tells
            if taker.record is not None:
                head = await origin.head(BUCKET, "opened")
                told = replace(taker.record, checked_at_s=head.checked_at_s, sums=head.sums, sums_known=True)
                assert told.version == version
                assert (told.etag, told.last_modified_s, told.md5) == (head.etag, head.last_modified_s, head.md5)
                assert told.user_metadata == head.user_metadata
    under_test.put("opened", DATA[1:])
    late = Taker(version, ByteRange(0, 1000))
    with pytest.raises((VersionChanged, OriginUnavailable)):
        await origin.open_range(BUCKET, "opened", ByteRange(0, 1000), late)
    assert late.sink.writes == 0


async def test_an_overwritten_object_is_another_version_whose_bytes_never_mix(under_test: OriginUnderTest) -> None:
    under_test.put("changing", b"a" * 100_000)
    old = (await under_test.origin.head(BUCKET, "changing")).version
    under_test.put("changing", b"b" * 100_000)
    sink = Received()
    with pytest.raises(WarmstartError) as caught:
        await under_test.origin.read_range(old, ByteRange(10, 90_000), sink)
    assert type(caught.value).__name__ == "VersionChanged"
    assert sink.writes == 0
    new = (await under_test.origin.head(BUCKET, "changing")).version
    assert new != old
    assert await read(under_test, new, ByteRange(0, 100_000)) == b"b" * 100_000


async def test_a_shrunk_or_deleted_object_gives_no_byte(under_test: OriginUnderTest) -> None:
    under_test.put("shrinking", b"a" * 100_000)
    old = (await under_test.origin.head(BUCKET, "shrinking")).version
    for content in (b"a", None):
        if content is not None:
            under_test.put("shrinking", content)
        else:
            under_test.delete("shrinking")
        sink = Received()
        with pytest.raises(WarmstartError) as caught:
            await under_test.origin.read_range(old, ByteRange(50_000, 90_000), sink)
        if under_test.kind != "gcs_emulator":  # it answers nonsense to a range beyond the end
            assert type(caught.value).__name__ == "VersionChanged"
        assert sink.writes == 0
    with pytest.raises(NotFound):
        await under_test.origin.head(BUCKET, "shrinking")


async def test_what_does_not_exist_is_not_found(under_test: OriginUnderTest) -> None:
    with pytest.raises(NotFound):
        await under_test.origin.head(BUCKET, "no/such/key")
    with pytest.raises(NotFound):
        await under_test.origin.head("no-such-bucket", "key")


async def test_a_cancelled_read_leaves_the_origin_usable(under_test: OriginUnderTest) -> None:
    under_test.put("spans", DATA)
    version = (await under_test.origin.head(BUCKET, "spans")).version
    started = asyncio.Event()

    class Stuck:
        def write(self, data: memoryview) -> asyncio.Future[None]:
            started.set()
            return asyncio.get_running_loop().create_future()  # never done

    task = asyncio.ensure_future(under_test.origin.read_range(version, ByteRange(0, len(DATA)), Stuck()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await read(under_test, version, ByteRange(0, len(DATA))) == DATA


async def test_a_single_object_is_one_part(under_test: OriginUnderTest) -> None:
    under_test.put("single", b"abc")
    record = await under_test.origin.head(BUCKET, "single")
    part = await under_test.origin.head_part(record, 1)
    assert (part.number, part.count, part.span) == (1, 1, ByteRange(0, 3))
    with pytest.raises(InvalidRequest) as caught:
        await under_test.origin.head_part(record, 2)
    assert caught.value.code == "InvalidPartNumber"


async def test_multipart_objects_have_the_parts_they_were_made_of(s3_only: OriginUnderTest) -> None:
    client, sizes = s3_only.client, [5 << 20, 6 << 20, 1000]
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="parts")["UploadId"]
    where = {"Bucket": BUCKET, "Key": "parts", "UploadId": upload}
    parts = [
        {"PartNumber": n, "ETag": client.upload_part(**where, PartNumber=n, Body=bytes([n]) * size)["ETag"]}
        for n, size in enumerate(sizes, 1)
    ]
    client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    record = await s3_only.origin.head(BUCKET, "parts")
    assert record.size_bytes == sum(sizes)
    if s3_only.kind == "rclone":  # it keeps files, so an object has no parts any more
        sizes = [sum(sizes)]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    for number in reversed(range(1, len(sizes) + 1)):
        part = await s3_only.origin.head_part(record, number)
        assert (part.number, part.count) == (number, len(sizes))
        assert part.span == ByteRange(starts[number - 1], starts[number - 1] + sizes[number - 1])
    with pytest.raises(InvalidRequest):
        await s3_only.origin.head_part(record, len(sizes) + 1)


async def test_metadata_and_checksums_of_a_real_upload_are_read(s3_only: OriginUnderTest) -> None:
    s3_only.put(
        "dressed",
        b"hello world",
        Metadata={"colour": "blue"},
        ContentType="text/x-model",
        CacheControl="max-age=3",
        ChecksumAlgorithm="CRC32",
    )
    record = await s3_only.origin.head(BUCKET, "dressed")
    assert record.user_metadata == (("colour", "blue"),)
    assert record.md5 == "5eb63bbbe01eeed093cb22bb8f5acdc3"
    assert dict(record.sums).get(SumKind.CRC32) in (0x0D4A1185, None)
    headers = dict(record.headers)
    assert headers["content-type"] == "text/x-model"
    assert headers["cache-control"] == "max-age=3"
    assert headers["x-amz-meta-colour"] == "blue"


@pytest.mark.parametrize("key", PLAIN_KEYS)
async def test_writes_go_through_signed_and_streaming(s3_only: OriginUnderTest, key: str) -> None:
    async def forward(method: str, query: tuple[tuple[str, str], ...] = (), body: bytes | None = None) -> bytes:
        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body or b""), 1 << 20):
                yield (body or b"")[start : start + (1 << 20)]

        stream = chunks() if body is not None else None
        headers = (("x-amz-meta-a", "b  c"), ("content-type", "text/x")) if body is not None else ()
        sent = ForwardRequest(method, BUCKET, key, query, headers, stream, len(body) if body is not None else None)
        response = await s3_only.origin.forward(sent)
        assert response.status in (200, 204), await read_all(response)
        return await read_all(response)

    await forward("PUT", body=DATA)
    record = await s3_only.origin.head(BUCKET, key)
    assert (record.size_bytes, record.user_metadata) == (len(DATA), (("a", "b  c"),))
    assert await forward("GET") == DATA
    assert await forward("PUT", body=b"") == b""
    assert (await s3_only.origin.head(BUCKET, key)).size_bytes == 0
    await forward("DELETE")
    with pytest.raises(NotFound):
        await s3_only.origin.head(BUCKET, key)


async def test_listings_go_through_with_their_query(s3_only: OriginUnderTest) -> None:
    s3_only.put("listed/a b+ü", b"x")
    query = (("list-type", "2"), ("prefix", "listed/a b+ü"), ("encoding-type", "url"), ("delimiter", ""))
    response = await s3_only.origin.forward(ForwardRequest("GET", BUCKET, None, query, ()))
    body = await read_all(response)
    assert response.status == 200
    assert body.count(b"<Key>") == 1
    service = await s3_only.origin.forward(ForwardRequest("GET", "", None, (), ()))
    assert BUCKET.encode() in await read_all(service)
