"""An S3 client writes to a bucket of GCS: S3's words become GCS's, and what is cached is forgotten."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError

from proxy.blocks import update_sum
from proxy.objects import SumKind
from tests.fakes.bucket import Buckets, etag, serve_buckets
from tests.fakes.identity import write_key_file
from tests.fakes.scripted import Request
from tests.gateways import start_gateway

PART_BYTES = 5 << 20


@pytest.fixture(scope="module")
def buckets() -> Buckets:
    return Buckets({"real-models"})


@pytest.fixture(scope="module")
def url(buckets: Buckets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("writes")
    with serve_buckets(buckets) as origin:
        credentials = {"service_account_file": str(write_key_file(folder, origin))}
        config = {
            "origins": {"origin": {"type": "gcs", "endpoint": origin, "credentials": credentials}},
            "buckets": {
                "models": {"origin": "origin", "bucket": "real-models"},
                "locked": {"origin": "origin", "bucket": "real-models", "writes": "deny"},
                "*": {"origin": "origin"},
            },
        }
        with start_gateway(folder, config=config) as gateway:
            yield gateway.url


@pytest.fixture
def s3(url: str) -> Any:
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, proxies={})
    return boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=config)


def refused(call: Any, **arguments: Any) -> tuple[int, str, str]:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    return status, answer["Error"]["Code"], answer["Error"].get("Message", "")


def last(buckets: Buckets) -> Request:
    return buckets.requests[-1]


def test_a_put_is_renamed_and_ends_what_was_cached(s3: Any, buckets: Buckets) -> None:
    arguments = {"ContentType": "text/x", "CacheControl": "no-store", "Metadata": {"colour": "blue"}, "ACL": "private"}
    for content in (b"first", b"second!", b""):
        put = s3.put_object(Bucket="models", Key="a b/ü", Body=content, ChecksumAlgorithm="CRC32C", **arguments)
        assert put["ETag"] == etag(content)
        assert put["VersionId"] == str(buckets.objects["real-models", "a b/ü"].generation)
        assert not [name for name in put["ResponseMetadata"]["HTTPHeaders"] if name.startswith("x-goog-")]
        for _ in range(2):
            found = s3.get_object(Bucket="models", Key="a b/ü", ChecksumMode="ENABLED")
            assert found["Body"].read() == content
            assert found["Metadata"] == {"colour": "blue"}
    sent = last(buckets)
    assert sent.target == b"/real-models/a%20b%2F%C3%BC"
    assert sent.get("x-goog-meta-colour") == "blue"
    assert sent.get("cache-control") == "no-store"


def test_a_checksum_of_the_client_is_checked_by_gcs(s3: Any, buckets: Buckets) -> None:
    value = base64.b64encode(update_sum(SumKind.CRC32C, memoryview(b"abc")).to_bytes(4, "big")).decode()
    s3.put_object(Bucket="models", Key="summed", Body=b"abc", ChecksumCRC32C=value)
    assert last(buckets).get("x-goog-hash") == f"crc32c={value}"


@pytest.mark.parametrize("kind", ["CRC32", "SHA256", "CRC32C"])
def test_a_checksum_that_gcs_does_not_know_is_checked_on_the_way(s3: Any, buckets: Buckets, kind: str) -> None:
    arguments = {"Bucket": "models", "Key": f"wrong-{kind}", "Body": b"abc" * 100_000}
    wrong = "A" * {"CRC32": 6, "CRC32C": 6, "SHA256": 43}[kind] + {"CRC32": "==", "CRC32C": "==", "SHA256": "="}[kind]
    assert refused(s3.put_object, **arguments, **{f"Checksum{kind}": wrong})[:2] == (400, "BadDigest")
    assert ("real-models", f"wrong-{kind}") not in buckets.objects
    s3.put_object(**arguments, ChecksumAlgorithm=kind)
    assert ("real-models", f"wrong-{kind}") in buckets.objects


def test_a_put_that_must_be_new_is_one_at_gcs_too(s3: Any) -> None:
    s3.put_object(Bucket="models", Key="new", Body=b"1", IfNoneMatch="*")
    assert refused(s3.put_object, Bucket="models", Key="new", Body=b"2", IfNoneMatch="*")[:2] == (
        412,
        "PreconditionFailed",
    )
    assert s3.get_object(Bucket="models", Key="new")["Body"].read() == b"1"


def test_a_whole_object_is_verified_by_gcss_own_checksum(s3: Any, buckets: Buckets) -> None:
    content = bytes(range(256)) * 4096
    s3.put_object(Bucket="models", Key="verified", Body=content)
    buckets.bad_reads = 1
    with pytest.raises((IncompleteReadError, ReadTimeoutError, ResponseStreamingError)):
        s3.get_object(Bucket="models", Key="verified")["Body"].read()
    assert s3.get_object(Bucket="models", Key="verified")["Body"].read() == content


def test_a_copy_names_its_source_as_gcs_does(s3: Any, buckets: Buckets) -> None:
    first = s3.put_object(Bucket="models", Key="source key", Body=b"copied")
    assert refused(s3.get_object, Bucket="models", Key="copy")[1] == "NoSuchKey"
    source = {"Bucket": "models", "Key": "source key", "VersionId": first["VersionId"]}
    made = s3.copy_object(Bucket="models", Key="copy", CopySource=source, MetadataDirective="COPY")
    assert made["CopyObjectResult"]["ETag"] == etag(b"copied")
    assert last(buckets).get("x-goog-copy-source") == "real-models/source%20key"
    assert last(buckets).get("x-goog-copy-source-generation") == first["VersionId"]
    assert last(buckets).get("x-goog-metadata-directive") == "COPY"
    assert s3.get_object(Bucket="models", Key="copy")["Body"].read() == b"copied"


def test_a_multipart_upload_is_one_at_gcs(s3: Any, buckets: Buckets) -> None:
    where = {"Bucket": "models", "Key": "parts"}
    s3.put_object(**where, Body=b"before")
    assert s3.get_object(**where)["Body"].read() == b"before"
    upload = s3.create_multipart_upload(**where, Metadata={"a": "b"}, ChecksumAlgorithm="CRC32")["UploadId"]
    parts = []
    for number, size in ((1, PART_BYTES), (2, 1000)):
        sent = s3.upload_part(**where, UploadId=upload, PartNumber=number, Body=bytes([number]) * size)
        parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumCRC32": "AAAAAA=="})
    assert [part["PartNumber"] for part in s3.list_parts(**where, UploadId=upload)["Parts"]] == [1, 2]
    assert s3.get_object(**where)["Body"].read() == b"before"
    s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    found = s3.get_object(**where)
    assert found["Body"].read() == b"\x01" * PART_BYTES + b"\x02" * 1000
    assert found["Metadata"] == {"a": "b"}
    other = s3.create_multipart_upload(Bucket="models", Key="given up")["UploadId"]
    s3.abort_multipart_upload(Bucket="models", Key="given up", UploadId=other)
    assert other not in buckets.uploads


def test_deleting_what_is_there_and_what_is_not_succeeds(s3: Any) -> None:
    s3.put_object(Bucket="models", Key="gone", Body=b"x")
    assert s3.get_object(Bucket="models", Key="gone")["Body"].read() == b"x"
    for _ in range(2):
        assert s3.delete_object(Bucket="models", Key="gone")["ResponseMetadata"]["HTTPStatusCode"] == 204
    assert refused(s3.get_object, Bucket="models", Key="gone")[1] == "NoSuchKey"
    assert refused(s3.delete_object, Bucket="no-such-bucket", Key="gone")[:2] == (404, "NoSuchBucket")


def test_many_objects_are_deleted_by_one_request(s3: Any) -> None:
    keys = [f"many/{number} & <co>" for number in range(40)]
    for key in keys[:5]:
        s3.put_object(Bucket="models", Key=key, Body=b"x")
        s3.get_object(Bucket="models", Key=key)
    objects = [{"Key": key} for key in keys]
    told = s3.delete_objects(Bucket="models", Delete={"Objects": objects})
    assert sorted(item["Key"] for item in told["Deleted"]) == sorted(keys)
    assert refused(s3.get_object, Bucket="models", Key=keys[0])[1] == "NoSuchKey"
    bad = [{"Key": "x", "VersionId": "no-generation"}, {"Key": "y"}]
    told = s3.delete_objects(Bucket="models", Delete={"Objects": bad, "Quiet": True})
    assert "Deleted" not in told
    assert [(item["Key"], item["Code"]) for item in told["Errors"]] == [("x", "InvalidArgument")]
    told = s3.delete_objects(Bucket="no-such-bucket", Delete={"Objects": objects[:1]})
    assert told["Errors"][0]["Code"] == "NoSuchBucket"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"Tagging": "a=b"}, "x-amz-tagging"),
        ({"ServerSideEncryption": "aws:kms"}, "x-amz-server-side-encryption"),
        ({"StorageClass": "GLACIER"}, "x-amz-storage-class"),
        ({"ObjectLockLegalHoldStatus": "ON"}, "x-amz-object-lock-legal-hold"),
        ({"IfMatch": '"x"'}, "if-match"),
        ({"Expires": "Fri, 07 Jan 2033 04:16:39 GMT"}, "expires"),
    ],
)
def test_what_gcs_has_no_word_for_is_refused_by_name(
    s3: Any, buckets: Buckets, arguments: dict[str, Any], named: str
) -> None:
    before = len(buckets.requests)
    status, code, message = refused(s3.put_object, Bucket="models", Key="refused", Body=b"x", **arguments)
    assert (status, code) == (501, "NotImplemented")
    assert named in message
    assert len(buckets.requests) == before


def test_operations_that_gcs_lacks_are_refused(s3: Any) -> None:
    copy = {"Bucket": "models", "Key": "x"}
    upload = s3.create_multipart_upload(Bucket="models", Key="x")["UploadId"]
    call = {"Bucket": "models", "Key": "x", "CopySource": copy, "UploadId": upload, "PartNumber": 1}
    assert refused(s3.upload_part_copy, **call)[:2] == (501, "NotImplemented")
    assert refused(s3.put_object_tagging, Bucket="models", Key="x", Tagging={"TagSet": []})[:2] == (
        501,
        "NotImplemented",
    )
    assert refused(s3.create_bucket, Bucket="another")[:2] == (501, "NotImplemented")


def test_writes_that_are_denied_never_reach_gcs(s3: Any, buckets: Buckets) -> None:
    before = len(buckets.requests)
    where = {"Bucket": "locked", "Key": "x"}
    assert refused(s3.put_object, **where, Body=b"x")[:2] == (403, "AccessDenied")
    assert refused(s3.delete_object, **where)[:2] == (403, "AccessDenied")
    assert refused(s3.delete_objects, Bucket="locked", Delete={"Objects": [{"Key": "x"}]})[:2] == (403, "AccessDenied")
    assert len(buckets.requests) == before
