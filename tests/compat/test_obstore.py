"""obstore (Rust object_store): get, ranges, suffix, head, list, put, copy, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import obstore
import pytest
from obstore.store import S3Store

from tests.compat.sites import MIB, REGION, Site, payload

if TYPE_CHECKING:
    from obstore.store import ClientConfig


def store(site: Site, bucket: str) -> S3Store:
    options: ClientConfig = {"allow_http": True}
    endpoint = site.url
    if site.by_host:
        endpoint = f"http://{bucket}.{site.virtual_url.removeprefix('http://')}"
        options["proxy_url"] = site.url
    return S3Store(
        bucket,
        endpoint=endpoint,
        region=REGION,
        access_key_id=site.access_key_id,
        secret_access_key=site.secret_access_key,
        virtual_hosted_style_request=site.by_host,
        client_options=options,
        retry_config={"max_retries": 0},
    )


def test_objects_are_read_whole_by_range_and_by_suffix(outside: Site) -> None:
    bucket, data = outside.bucket(), payload(3 * MIB + 11)
    outside.put(bucket, "m/a b.bin", data)
    objects = store(outside, bucket)
    assert bytes(obstore.get(objects, "m/a b.bin").bytes()) == data
    with outside.no_origin_bytes():
        assert bytes(obstore.get_range(objects, "m/a b.bin", start=5, end=MIB + 5)) == data[5 : MIB + 5]
        starts, ends = [0, MIB - 2, 3 * MIB], [8, MIB + 2, 3 * MIB + 11]
        pieces = obstore.get_ranges(objects, "m/a b.bin", starts=starts, ends=ends)
        assert [bytes(piece) for piece in pieces] == [data[a:b] for a, b in zip(starts, ends, strict=True)]
        assert bytes(obstore.get(objects, "m/a b.bin", options={"range": {"suffix": 5}}).bytes()) == data[-5:]
        assert (
            bytes(obstore.get(objects, "m/a b.bin", options={"range": {"offset": 3 * MIB}}).bytes()) == data[3 * MIB :]
        )
    head = obstore.head(objects, "m/a b.bin")
    assert head["size"] == len(data)
    assert bytes(obstore.get(objects, "m/a b.bin", options={"if_match": head["e_tag"]}).bytes()) == data
    with pytest.raises(FileNotFoundError):
        obstore.get(objects, "m/absent")


def test_objects_are_listed(outside: Site) -> None:
    bucket = outside.bucket()
    for key in ("a/1", "a/2 ü", "b/3", "top"):
        outside.put(bucket, key, key.encode())
    objects = store(outside, bucket)
    every = [item["path"] for page in obstore.list(objects) for item in page]
    assert sorted(every) == ["a/1", "a/2 ü", "b/3", "top"]
    level = obstore.list_with_delimiter(objects)
    assert sorted(level["common_prefixes"]) == ["a", "b"]
    assert [item["path"] for item in level["objects"]] == ["top"]


def test_objects_are_put_copied_and_deleted(outside_writable: Site) -> None:
    site, bucket, data = outside_writable, outside_writable.bucket(), payload(11 * MIB)
    objects = store(site, bucket)
    obstore.put(objects, "m/big.bin", data, chunk_size=5 * MIB, use_multipart=True)
    assert site.get(bucket, "m/big.bin") == data
    for text in (b"one", b"three"):
        obstore.put(objects, "m/small", text)
        assert bytes(obstore.get(objects, "m/small").bytes()) == text
    obstore.copy(objects, "m/small", "m/copy")
    assert bytes(obstore.get(objects, "m/copy").bytes()) == b"three"
    obstore.delete(objects, ["m/small", "m/copy"])
    with pytest.raises(FileNotFoundError):
        obstore.get(objects, "m/small")
