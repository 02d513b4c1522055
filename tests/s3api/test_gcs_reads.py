"""An S3 client reads a bucket of GCS through the gateway: S3's headers and listings, one copy, whatever the name."""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.gateways import GatewayProcess, start_gateway
from tests.servers import GcsServer, start_fake_gcs

BLOCK_BYTES = 64 << 10
BIG = random.Random(5).randbytes(5 * BLOCK_BYTES + 77)
ODD_KEYS = ["a b", "a//b", "q?x", "h#x", "p%2Fz", "ü/日本", "/lead", "./x", "a/../b", "plus+", "tail/", "~!*'()"]
PACKED = gzip.compress(b"hello " * 1000, mtime=0)


@pytest.fixture(scope="module")
def cloud() -> Iterator[GcsServer]:
    with start_fake_gcs() as server:
        server.create_bucket("real-models")
        server.put(
            "real-models",
            "big.bin",
            BIG,
            contentType="application/x-weights",
            cacheControl="max-age=60",
            contentLanguage="de",
            metadata={"Colour": "blue", "word": "ü"},
        )
        server.put("real-models", "zero", b"")
        server.put("real-models", "packed", PACKED, contentEncoding="gzip", contentType="text/plain")
        for key in ODD_KEYS:
            server.put("real-models", "odd/" + key, key.encode())
        yield server


@pytest.fixture(scope="module")
def gateway(cloud: GcsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    config = {
        "origins": {"origin": {"type": "gcs", "endpoint": cloud.url, "anonymous": True, "project": "tests"}},
        "buckets": {"models": {"origin": "origin", "bucket": "real-models"}, "*": {"origin": "origin"}},
        "cache": {"block_size": "64KiB"},
    }
    with start_gateway(tmp_path_factory.mktemp("bridge"), config=config) as process:
        yield process


@pytest.fixture
def s3(gateway: GatewayProcess) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=gateway.url,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={}),
    )


def refused(call: Any, **arguments: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_an_object_has_s3s_headers_and_its_crc_is_checked_by_the_sdk(s3: Any, gateway: GatewayProcess) -> None:
    for expected in ("MISS", "HIT"):
        found = s3.get_object(Bucket="models", Key="big.bin", ChecksumMode="ENABLED")
        assert found["Body"].read() == BIG
        headers = found["ResponseMetadata"]["HTTPHeaders"]
        assert headers["x-cache"] == expected
        assert found["ETag"] == f'"{hashlib.md5(BIG).hexdigest()}"'
        assert found["ChecksumCRC32C"]
        assert found["ContentType"] == "application/x-weights"
        assert found["ContentLanguage"] == "de"
        assert found["CacheControl"] == "max-age=60"
        assert found["Metadata"] == {"colour": "blue", "word": "Ã¼"}  # UTF-8, as botocore reads headers
        assert found["VersionId"].isdigit()
        assert not [name for name in headers if name.startswith("x-goog-")]
    assert gateway.metric("warmstart_origin_bytes_total") == len(BIG)


def test_parts_are_pinned_by_etag_and_ranges_are_exact(s3: Any) -> None:
    etag = s3.head_object(Bucket="models", Key="big.bin")["ETag"]
    for start, end in ((0, 0), (BLOCK_BYTES - 1, BLOCK_BYTES), (100, 3 * BLOCK_BYTES), (len(BIG) - 5, len(BIG) - 1)):
        found = s3.get_object(Bucket="models", Key="big.bin", Range=f"bytes={start}-{end}", IfMatch=etag)
        assert found["Body"].read() == BIG[start : end + 1]
        assert found["ContentRange"] == f"bytes {start}-{end}/{len(BIG)}"
    assert refused(s3.get_object, Bucket="models", Key="big.bin", IfMatch='"other"')[0] == 412
    assert refused(s3.get_object, Bucket="models", Key="big.bin", IfNoneMatch=etag)[0] == 304
    assert refused(s3.get_object, Bucket="models", Key="big.bin", Range=f"bytes={len(BIG)}-") == (416, "InvalidRange")


def test_an_object_is_one_part_and_its_generation_its_version(s3: Any) -> None:
    head = s3.head_object(Bucket="models", Key="big.bin")
    part = s3.head_object(Bucket="models", Key="big.bin", PartNumber=1)
    assert (part["PartsCount"], part["ContentLength"]) == (1, len(BIG))
    found = s3.get_object(Bucket="models", Key="big.bin", VersionId=head["VersionId"], Range="bytes=7-9")
    assert found["Body"].read() == BIG[7:10]
    assert refused(s3.get_object, Bucket="models", Key="big.bin", VersionId="5") == (404, "NoSuchVersion")
    assert refused(s3.get_object, Bucket="models", Key="big.bin", VersionId="Abc.") == (404, "NoSuchVersion")


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_are_byte_exact_cold_and_hot(s3: Any, key: str) -> None:
    for expected in ("MISS", "HIT"):
        found = s3.get_object(Bucket="models", Key="odd/" + key)
        assert found["Body"].read() == key.encode()
        assert found["ResponseMetadata"]["HTTPHeaders"]["x-cache"] == expected


def test_zero_bytes_are_an_object(s3: Any) -> None:
    for _ in range(2):
        found = s3.get_object(Bucket="models", Key="zero")
        assert (found["Body"].read(), found["ContentLength"]) == (b"", 0)


def test_a_gzip_object_is_given_as_it_is_stored(s3: Any) -> None:
    for span in (None, "bytes=3-12"):
        for _ in range(2):
            found = s3.get_object(Bucket="models", Key="packed", **({"Range": span} if span else {}))
            assert found["ContentEncoding"] == "gzip"
            assert found["Body"].read() == (PACKED if span is None else PACKED[3:13])


def test_what_is_missing_is_said_as_s3_says_it(s3: Any) -> None:
    assert refused(s3.get_object, Bucket="models", Key="no/such") == (404, "NoSuchKey")
    assert refused(s3.list_objects_v2, Bucket="no-such-bucket") == (404, "NoSuchBucket")
    assert refused(s3.head_bucket, Bucket="no-such-bucket")[0] == 404


def test_listings_page_through_keys_and_prefixes(s3: Any) -> None:
    keys = sorted(["big.bin", "zero", "packed", *("odd/" + key for key in ODD_KEYS)], key=str.encode)
    for name in ("list_objects", "list_objects_v2"):
        for page_size in (1, 3, 1000):
            paging = {"PageSize": page_size}
            pages = list(s3.get_paginator(name).paginate(Bucket="models", PaginationConfig=paging))
            assert [item["Key"] for page in pages for item in page.get("Contents", ())] == keys
    top = s3.list_objects_v2(Bucket="models", Delimiter="/")
    assert [item["Key"] for item in top["Contents"]] == ["big.bin", "packed", "zero"]
    assert [item["Prefix"] for item in top["CommonPrefixes"]] == ["odd/"]
    big = top["Contents"][0]
    head = s3.head_object(Bucket="models", Key="big.bin")
    assert (big["ETag"], big["Size"]) == (head["ETag"], len(BIG))
    assert big["LastModified"].replace(microsecond=0) == head["LastModified"]


def test_the_projects_buckets_are_listed(s3: Any) -> None:
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == {"models", "real-models"}
    assert s3.get_bucket_location(Bucket="models")["LocationConstraint"] is None


def test_what_gcs_has_no_word_for_is_not_implemented(s3: Any) -> None:
    assert refused(s3.get_object_acl, Bucket="models", Key="zero") == (501, "NotImplemented")
    assert refused(s3.list_object_versions, Bucket="models") == (501, "NotImplemented")
    assert refused(s3.put_object, Bucket="models", Key="x", Body=b"x", Tagging="a=b") == (501, "NotImplemented")
    key = "0" * 32
    sealed = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
    assert refused(s3.get_object, Bucket="models", Key="zero", **sealed) == (501, "NotImplemented")
