"""boto3 reads: whole objects, threads, ranges, conditions, checksums, listings, presigned URLs."""

from __future__ import annotations

import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from tests.compat.sites import DIRECT, MIB, Site, payload

KEYS = ["a/one.bin", "a/two words.bin", "a/b/three+plus%41.bin", "a/ünï/四.bin", "z.bin"]


def test_many_threads_download_one_object_twice(site: Site, style: str, tmp_path: Path) -> None:
    bucket, data = site.bucket(), payload(5 * MIB + 123)
    site.put(bucket, "model/shard 1.bin", data)
    client = site.boto3(style)
    threads = TransferConfig(multipart_threshold=MIB, multipart_chunksize=MIB // 2, max_concurrency=8)
    client.download_file(bucket, "model/shard 1.bin", str(tmp_path / "cold"), Config=threads)
    with site.no_origin_bytes():
        client.download_file(bucket, "model/shard 1.bin", str(tmp_path / "hot"), Config=threads)
        answer = client.get_object(Bucket=bucket, Key="model/shard 1.bin")
        assert answer["Body"].read() == data
    site.assert_cache(answer, "HIT")
    assert (tmp_path / "cold").read_bytes() == (tmp_path / "hot").read_bytes() == data


def test_every_key_reads_back_byte_exact(site: Site, style: str) -> None:
    bucket, client = site.bucket(), site.boto3(style)
    for number, key in enumerate(KEYS):
        site.put(bucket, key, payload(1000, number))
    for number, key in enumerate(KEYS):
        for expected in ("MISS", "HIT"):
            answer = client.get_object(Bucket=bucket, Key=key)
            assert answer["Body"].read() == payload(1000, number)
            site.assert_cache(answer, expected)


def test_ranges_are_slices(site: Site, style: str) -> None:
    bucket, data, client = site.bucket(), payload(2 * MIB + 10), site.boto3(style)
    site.put(bucket, "o", data)
    slices = {"bytes=0-9": data[:10], f"bytes={MIB - 3}-{MIB + 4}": data[MIB - 3 : MIB + 5], "bytes=-7": data[-7:]}
    slices |= {f"bytes={2 * MIB}-": data[2 * MIB :], "bytes=0-99999999": data}
    for text, expected in slices.items():
        answer = client.get_object(Bucket=bucket, Key="o", Range=text)
        assert answer["Body"].read() == expected
        assert answer["ContentLength"] == len(expected)
        assert answer["ContentRange"].endswith(f"/{len(data)}")
        if not DIRECT:
            assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
    with site.no_origin_bytes():
        for text, expected in slices.items():
            answer = client.get_object(Bucket=bucket, Key="o", Range=text)
            assert answer["Body"].read() == expected
            site.assert_cache(answer, "HIT")
    with pytest.raises(ClientError) as refused:
        client.get_object(Bucket=bucket, Key="o", Range=f"bytes={len(data)}-")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 416


def test_conditions_are_kept_on_misses_and_hits(site: Site) -> None:
    bucket, data, client = site.bucket(), payload(5000), site.boto3()
    site.put(bucket, "o", data)
    head = client.head_object(Bucket=bucket, Key="o")
    etag, past = head["ETag"], head["LastModified"] - timedelta(hours=1)
    for _ in ("cold", "hot"):
        met = client.get_object(Bucket=bucket, Key="o", IfMatch=etag, Range="bytes=10-19")
        assert met["Body"].read() == data[10:20]
        assert met["ETag"] == etag
        assert client.get_object(Bucket=bucket, Key="o", IfNoneMatch='"other"')["Body"].read() == data
        assert _status(client, bucket, IfNoneMatch=etag) == 304
        assert _status(client, bucket, IfModifiedSince=datetime.now(UTC) + timedelta(hours=-0.001)) in (200, 304)
        assert _status(client, bucket, IfModifiedSince=past) == 200
        if not (DIRECT and site.kind == "rclone"):  # it ignores If-Match and If-Unmodified-Since
            assert _status(client, bucket, IfMatch='"other"') == 412
            assert _status(client, bucket, IfMatch='"other"', Range="bytes=0-1") == 412
            assert _status(client, bucket, IfUnmodifiedSince=past) == 412


def _status(client, bucket: str, **conditions: object) -> int:  # type: ignore[no-untyped-def]
    try:
        answer = client.get_object(Bucket=bucket, Key="o", **conditions)
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    answer["Body"].read()
    return int(answer["ResponseMetadata"]["HTTPStatusCode"])


def test_empty_objects_and_absent_keys(site: Site, style: str) -> None:
    bucket, client = site.bucket(), site.boto3(style)
    site.put(bucket, "empty", b"")
    for _ in ("cold", "hot"):
        assert client.get_object(Bucket=bucket, Key="empty")["Body"].read() == b""
        assert client.head_object(Bucket=bucket, Key="empty")["ContentLength"] == 0
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket=bucket, Key="absent")
        with pytest.raises(ClientError, match="404"):
            client.head_object(Bucket=bucket, Key="absent")
    site.put(bucket, "absent", b"now here")
    assert client.get_object(Bucket=bucket, Key="absent")["Body"].read() == b"now here"


def test_listings_page_through_keys_and_prefixes(site: Site, style: str) -> None:
    bucket, client = site.bucket(), site.boto3(style)
    for key in KEYS:
        site.put(bucket, key, key.encode())
    for operation in ("list_objects_v2", "list_objects"):
        pages = client.get_paginator(operation)
        every = [item["Key"] for page in pages.paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
                 for item in page.get("Contents", [])]  # fmt: skip
        assert every == sorted(KEYS, key=lambda key: key.encode())
        top = list(pages.paginate(Bucket=bucket, Prefix="a/", Delimiter="/"))
        assert [item["Key"] for page in top for item in page["Contents"]] == ["a/one.bin", "a/two words.bin"]
        assert [item["Prefix"] for page in top for item in page["CommonPrefixes"]] == ["a/b/", "a/ünï/"]
    sizes = {item["Key"]: item["Size"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert sizes == {key: len(key.encode()) for key in KEYS}


def test_buckets_are_found_and_missed(site: Site, style: str) -> None:
    bucket, client = site.bucket(), site.boto3(style)
    assert client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert bucket in [item["Name"] for item in site.boto3().list_buckets()["Buckets"]]
    assert client.get_bucket_location(Bucket=bucket)["LocationConstraint"] in (None, "us-east-1")
    with pytest.raises(ClientError, match="404"):
        client.head_bucket(Bucket="no-such-bucket-here")
    with pytest.raises(ClientError, match="NoSuchBucket"):
        client.get_object(Bucket="no-such-bucket-here", Key="o")
    with pytest.raises(ClientError, match="NoSuchBucket"):
        client.list_objects_v2(Bucket="no-such-bucket-here")


@pytest.mark.parametrize("signature", ["s3", "s3v4"])
def test_a_presigned_url_reads(site: Site, style: str, signature: str) -> None:
    if DIRECT and site.kind == "rclone" and signature == "s3":
        pytest.skip("rclone takes no SigV2")
    bucket, data = site.bucket(), payload(3000)
    site.put(bucket, "dir/two words.bin", data)
    client = site.boto3(style, signature_version=signature)
    url = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "dir/two words.bin"})
    assert ("X-Amz-Signature" in url) == (signature == "s3v4")
    for expected in ("MISS", "HIT"):
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == data
            assert DIRECT or answer.headers["x-cache"] == expected
    asked = urllib.request.Request(url, headers={"Range": "bytes=100-199"})
    with urllib.request.urlopen(asked) as answer:
        assert answer.read() == data[100:200]


def test_checksum_mode_is_kept_on_whole_objects_and_ranges(writable: Site) -> None:
    bucket, data, client = writable.bucket(), payload(MIB + 5), writable.boto3()
    writable.put(bucket, "o", data, ChecksumAlgorithm="CRC32")
    for _ in ("cold", "hot"):
        whole = client.get_object(Bucket=bucket, Key="o", ChecksumMode="ENABLED")
        assert whole["Body"].read() == data  # botocore checks the sum it was given
        if DIRECT and writable.kind == "rclone":  # it sends the whole object's checksum with a range
            continue
        part = client.get_object(Bucket=bucket, Key="o", ChecksumMode="ENABLED", Range="bytes=5-1000")
        assert part["Body"].read() == data[5:1001]
    if writable.kind == "moto":
        assert whole["ChecksumCRC32"]
