"""boto3 beyond plain reads and writes: odd keys, versions, parts, tags, and operations the gateway does not know.

Against moto alone, which has them all.
"""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.compat.sites import DIRECT, MIB, Site, Sites, payload

ODD_KEYS = [
    "a//b",
    "//",
    "/lead",
    "a/./b",
    "a/../b",
    "../up",
    "tail/",
    "a+b c%20d&e=f?g#h",
    "x" * 1024,
    "ü" * 512,
    "~-._",
]


@pytest.fixture
def moto(sites: Sites) -> Site:
    return sites["moto"]


def test_odd_keys_are_byte_exact(moto: Site, style: str) -> None:
    bucket, client = moto.bucket(), moto.boto3(style)
    for number, key in enumerate(ODD_KEYS):
        client.put_object(Bucket=bucket, Key=key, Body=payload(100, number))
    listed = {item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert listed == set(ODD_KEYS)
    for expected in ("MISS", "HIT"):
        for number, key in enumerate(ODD_KEYS):
            answer = client.get_object(Bucket=bucket, Key=key)
            assert answer["Body"].read() == payload(100, number) == moto.get(bucket, key)
            moto.assert_cache(answer, expected)
    for key in ODD_KEYS:
        client.delete_object(Bucket=bucket, Key=key)
        with pytest.raises(ClientError, match="NoSuchKey"):
            client.get_object(Bucket=bucket, Key=key)


def test_versions_are_told_apart(moto: Site, style: str) -> None:
    bucket, client = moto.bucket(), moto.boto3(style)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    stored = [client.put_object(Bucket=bucket, Key="o", Body=payload(1000, number))["VersionId"] for number in range(3)]
    for expected in ("MISS", "HIT"):
        for number, version in enumerate(stored):
            answer = client.get_object(Bucket=bucket, Key="o", VersionId=version)
            assert answer["Body"].read() == payload(1000, number)
            assert answer["VersionId"] == version
            moto.assert_cache(answer, expected)
    assert client.get_object(Bucket=bucket, Key="o")["Body"].read() == payload(1000, 2)
    listed = client.list_object_versions(Bucket=bucket)["Versions"]
    assert sorted(item["VersionId"] for item in listed) == sorted(stored)
    client.delete_object(Bucket=bucket, Key="o")
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket=bucket, Key="o")
    client.delete_object(Bucket=bucket, Key="o", VersionId=stored[0])
    with pytest.raises(ClientError, match="NoSuchVersion"):
        client.get_object(Bucket=bucket, Key="o", VersionId=stored[0])
    assert client.get_object(Bucket=bucket, Key="o", VersionId=stored[1])["Body"].read() == payload(1000, 1)


@pytest.mark.skipif(DIRECT, reason="moto answers partNumber with wrong bytes")
def test_parts_of_an_upload_are_read_by_number(moto: Site) -> None:
    bucket, client, pieces = moto.bucket(), moto.boto3(), [payload(5 * MIB, 1), payload(5 * MIB, 2), payload(7, 3)]
    ids = {"Bucket": bucket, "Key": "o"}
    upload = ids | {"UploadId": client.create_multipart_upload(**ids)["UploadId"]}
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces, 1):
        etag = client.upload_part(**upload, PartNumber=number, Body=piece)["ETag"]
        parts.append({"PartNumber": number, "ETag": etag})
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
    for _ in ("cold", "hot"):
        for number, piece in enumerate(pieces, 1):
            answer = client.get_object(**ids, PartNumber=number)
            assert answer["Body"].read() == piece
            assert answer["PartsCount"] == len(pieces)
            assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
            head = client.head_object(**ids, PartNumber=number)
            assert (head["ContentLength"], head["PartsCount"]) == (len(piece), len(pieces))
    assert client.get_object(**ids)["Body"].read() == b"".join(pieces)


def test_other_operations_pass_through(moto: Site, style: str) -> None:
    bucket, client = moto.bucket(), moto.boto3(style)
    client.put_object(Bucket=bucket, Key="o p", Body=b"data", Tagging="kind=weights")
    assert client.get_object_tagging(Bucket=bucket, Key="o p")["TagSet"] == [{"Key": "kind", "Value": "weights"}]
    client.put_object_tagging(Bucket=bucket, Key="o p", Tagging={"TagSet": [{"Key": "kind", "Value": "other"}]})
    assert client.get_object_tagging(Bucket=bucket, Key="o p")["TagSet"][0]["Value"] == "other"
    attributes = client.get_object_attributes(Bucket=bucket, Key="o p", ObjectAttributes=["ObjectSize", "ETag"])
    assert attributes["ObjectSize"] == 4
    rules = {"Rules": [{"ID": "x", "Status": "Enabled", "Filter": {"Prefix": "t/"}, "Expiration": {"Days": 1}}]}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
    assert client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"][0]["ID"] == "x"
    with pytest.raises(ClientError, match="NoSuchBucketPolicy"):
        client.get_bucket_policy(Bucket=bucket)
    upload = client.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
    assert [item["UploadId"] for item in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    client.upload_part(Bucket=bucket, Key="big", UploadId=upload, PartNumber=1, Body=b"part")
    assert [part["Size"] for part in client.list_parts(Bucket=bucket, Key="big", UploadId=upload)["Parts"]] == [4]
    client.abort_multipart_upload(Bucket=bucket, Key="big", UploadId=upload)


def test_a_browser_form_replaces_what_was_cached(moto: Site) -> None:
    bucket, client = moto.bucket(), moto.boto3()
    client.put_object(Bucket=bucket, Key="o", Body=b"old")
    assert client.get_object(Bucket=bucket, Key="o")["Body"].read() == b"old"
    form = client.generate_presigned_post(bucket, "o")
    boundary = "----form"
    fields = [*form["fields"].items(), ("file", "new")]
    lines = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields
    ]
    body = ("".join(lines) + f"--{boundary}--\r\n").encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    with urllib.request.urlopen(urllib.request.Request(form["url"], data=body, headers=headers)) as answer:
        assert answer.status in (200, 204)
    assert client.get_object(Bucket=bucket, Key="o")["Body"].read() == b"new"
