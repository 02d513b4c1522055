"""A bucket that remembers what is missing forgets it with every kind of write, in both dialects, in every worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest

from tests.gateways import GatewayProcess, start_gateway
from tests.servers import GcsServer, S3Server, start_fake_gcs, start_moto

ASKS = 6  # each by a connection of its own: both workers get some


class Site(NamedTuple):
    gateway: GatewayProcess
    moto: S3Server
    goog: GcsServer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with start_moto() as moto, start_fake_gcs() as goog:
        moto.client().create_bucket(Bucket="moto")
        goog.create_bucket("goog")
        moto.client().put_object(Bucket="moto", Key="source", Body=b"source")
        goog.put("goog", "source", b"source")
        remember = {"negative_ttl": "1h", "writes": "through"}
        config = {
            "origins": {"goog": {"type": "gcs", "endpoint": goog.url, "anonymous": True}},
            "buckets": {"moto": {"origin": "origin", **remember}, "goog": {"origin": "goog", **remember}},
        }
        folder = tmp_path_factory.mktemp("missing")
        with start_gateway(folder, origin=moto, workers=2, config=config) as gateway:
            yield Site(gateway, moto, goog)


def statuses(site: Site, path: str, method: str = "HEAD") -> set[int]:
    return {httpx.request(method, site.gateway.url + path, trust_env=False).status_code for _ in range(ASKS)}


def put(site: Site, client: Any, key: str) -> None:
    client.put_object(Bucket="moto", Key=key, Body=b"written")


def copy(site: Site, client: Any, key: str) -> None:
    client.copy_object(Bucket="moto", Key=key, CopySource="moto/source")


def multipart(site: Site, client: Any, key: str) -> None:
    upload = client.create_multipart_upload(Bucket="moto", Key=key)["UploadId"]
    named = {"Bucket": "moto", "Key": key, "UploadId": upload}
    etag = client.upload_part(**named, PartNumber=1, Body=b"written")["ETag"]
    client.complete_multipart_upload(**named, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})


@pytest.mark.parametrize("write", [put, copy, multipart])
def test_an_s3_write_is_found_at_once(site: Site, write: Callable[[Site, Any, str], None]) -> None:
    key = write.__name__
    assert statuses(site, f"/moto/{key}") == statuses(site, f"/moto/{key}", "GET") == {404}
    write(site, site.moto.client(site.gateway.url), key)
    assert statuses(site, f"/moto/{key}") == statuses(site, f"/moto/{key}", "GET") == {200}


def media(url: str, key: str) -> httpx.Response:
    return httpx.post(f"{url}/upload/storage/v1/b/goog/o?uploadType=media&name={key}", content=b"x", trust_env=False)


def resumable(url: str, key: str) -> httpx.Response:
    begun = httpx.post(f"{url}/upload/storage/v1/b/goog/o?uploadType=resumable&name={key}", json={}, trust_env=False)
    return httpx.put(begun.headers["location"], content=b"x", trust_env=False)


def rewrite(url: str, key: str) -> httpx.Response:
    return httpx.post(f"{url}/storage/v1/b/goog/o/source/rewriteTo/b/goog/o/{key}", json={}, trust_env=False)


@pytest.mark.parametrize("write", [media, resumable, rewrite])
def test_a_gcs_write_is_found_at_once(site: Site, write: Callable[[str, str], httpx.Response]) -> None:
    path = f"/storage/v1/b/goog/o/{write.__name__}"
    assert statuses(site, path, "GET") == statuses(site, f"{path}?alt=media", "GET") == {404}
    write(site.gateway.url, write.__name__).raise_for_status()
    assert statuses(site, path, "GET") == statuses(site, f"{path}?alt=media", "GET") == {200}


def test_a_read_of_a_missing_key_says_whether_the_bucket_is_there(site: Site) -> None:
    client = site.moto.client(site.gateway.url)
    with pytest.raises(client.exceptions.NoSuchKey):
        client.get_object(Bucket="moto", Key="never")
    assert statuses(site, "/moto/never") == {404}


def test_what_was_there_and_is_deleted_at_the_origin_is_missing_in_every_worker(site: Site) -> None:
    client = site.moto.client()
    client.put_object(Bucket="moto", Key="brief", Body=b"x")
    fresh = {"Cache-Control": "no-cache"}
    url = f"{site.gateway.url}/moto/brief"
    assert httpx.get(url, headers=fresh, trust_env=False).status_code == 200
    client.delete_object(Bucket="moto", Key="brief")
    assert httpx.get(url, headers=fresh, trust_env=False).status_code == 404
    assert statuses(site, "/moto/brief") == {404}
