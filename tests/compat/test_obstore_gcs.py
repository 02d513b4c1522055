"""obstore's GCSStore (Rust object_store), which speaks the XML API: get, ranges, head, list; writes to an S3 store."""

from __future__ import annotations

import json
from typing import Any

import obstore
import pytest
from obstore.store import GCSStore

from tests.compat.sites import MIB, Site, payload


def store(site: Site, bucket: str) -> GCSStore:
    """Its endpoint is a field of the service account, as its documentation has it."""
    account = {"gcs_base_url": site.url, "disable_oauth": True, "client_email": "", "private_key": ""}
    return GCSStore(
        bucket,
        config={"service_account_key": json.dumps(account | {"private_key_id": ""})},
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )


def test_objects_are_read_whole_and_by_range(goog: Site) -> None:
    bucket, data = goog.bucket(), payload(3 * MIB + 11)
    goog.put(bucket, "m/a b.bin", data)
    objects = store(goog, bucket)
    assert bytes(obstore.get(objects, "m/a b.bin").bytes()) == data
    with goog.no_origin_bytes():
        assert bytes(obstore.get_range(objects, "m/a b.bin", start=5, end=MIB + 5)) == data[5 : MIB + 5]
        assert bytes(obstore.get(objects, "m/a b.bin", options={"range": {"suffix": 5}}).bytes()) == data[-5:]
    head = obstore.head(objects, "m/a b.bin")
    assert head["size"] == len(data)
    assert head["version"]
    assert bytes(obstore.get(objects, "m/a b.bin", options={"if_match": head["e_tag"]}).bytes()) == data
    assert bytes(obstore.get(objects, "m/a b.bin", options={"version": head["version"]}).bytes()) == data
    with pytest.raises(FileNotFoundError):
        obstore.get(objects, "absent")


def test_objects_are_listed(goog: Site) -> None:
    bucket = goog.bucket()
    for key in ("a/1", "a/2 ü", "b/3", "top"):
        goog.put(bucket, key, key.encode())
    objects = store(goog, bucket)
    found = [item["path"] for chunk in obstore.list(objects) for item in chunk]
    assert found == ["a/1", "a/2 ü", "b/3", "top"]
    shallow = obstore.list_with_delimiter(objects)
    assert shallow["common_prefixes"] == ["a", "b"]
    assert [item["path"] for item in shallow["objects"]] == ["top"]


def test_objects_are_written_and_deleted_at_an_s3_store(sites: Any) -> None:
    """fake-gcs-server has no uploads by the XML API, which this client uses."""
    site = sites["moto"]
    objects = store(site, site.bucket())
    obstore.put(objects, "w", b"one", use_multipart=False)
    assert bytes(obstore.get(objects, "w").bytes()) == b"one"
    obstore.put(objects, "w", b"two", use_multipart=False)
    assert bytes(obstore.get(objects, "w").bytes()) == b"two"
    obstore.delete(objects, "w")
    with pytest.raises(FileNotFoundError):
        obstore.head(objects, "w")
