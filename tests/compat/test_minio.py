"""MinIO's SDK: it asks for the bucket's location first, then gets, stats, lists, puts in parts, removes in batches."""

from __future__ import annotations

import io
import urllib.request

import pytest
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject
from minio.error import S3Error

from tests.compat.sites import MIB, Site, payload


def client(site: Site, style: str) -> Minio:
    endpoint = site.virtual_url if style == "virtual" else site.url
    made = Minio(
        endpoint.removeprefix("http://"), access_key=site.access_key_id, secret_key=site.secret_access_key, secure=False
    )
    if style == "virtual":
        made.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    return made


def test_objects_are_read_and_listed(site: Site, style: str) -> None:
    bucket, data, minio = site.bucket(), payload(3 * MIB + 7), client(site, style)
    site.put(bucket, "m/a b.bin", data)
    site.put(bucket, "m/sub/ü.txt", b"hello")
    with minio.get_object(bucket, "m/a b.bin") as answer:
        assert answer.read() == data
    with site.no_origin_bytes():
        with minio.get_object(bucket, "m/a b.bin", offset=MIB - 4, length=8) as answer:
            assert answer.read() == data[MIB - 4 : MIB + 4]
        with urllib.request.urlopen(minio.presigned_get_object(bucket, "m/a b.bin")) as answer:
            assert answer.read() == data
    assert minio.stat_object(bucket, "m/a b.bin").size == len(data)
    listed = {item.object_name: item.size for item in minio.list_objects(bucket, recursive=True)}
    assert listed == {"m/a b.bin": len(data), "m/sub/ü.txt": 5}
    assert minio.bucket_exists(bucket)
    with pytest.raises(S3Error, match="NoSuchKey"):
        minio.get_object(bucket, "m/absent")


def test_objects_are_put_copied_and_removed(writable: Site, style: str) -> None:
    bucket, data, minio = writable.bucket(), payload(11 * MIB), client(writable, style)
    minio.put_object(bucket, "m/big.bin", io.BytesIO(data), len(data), part_size=5 * MIB)
    assert writable.get(bucket, "m/big.bin") == data
    for text in (b"one", b"three"):
        minio.put_object(bucket, "m/small", io.BytesIO(text), len(text))
        with minio.get_object(bucket, "m/small") as answer:
            assert answer.read() == text
    minio.copy_object(bucket, "m/copy", CopySource(bucket, "m/small"))
    with minio.get_object(bucket, "m/copy") as answer:
        assert answer.read() == b"three"
    failed = list(minio.remove_objects(bucket, [DeleteObject("m/small"), DeleteObject("m/copy")]))
    assert not failed
    with pytest.raises(S3Error, match="NoSuchKey"):
        minio.get_object(bucket, "m/copy")
