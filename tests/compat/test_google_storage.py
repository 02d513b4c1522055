"""google-cloud-storage: downloads with checksums on, in chunks and side by side; uploads of every kind; batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.exceptions import NotFound, PreconditionFailed
from google.cloud.storage import transfer_manager

from tests.compat.sites import MIB, Site, payload

DATA = payload(3 * MIB + 11)


def connect(site: Site, monkeypatch: pytest.MonkeyPatch, setting: str) -> Any:
    options = None
    if setting == "environment":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", site.url)
    else:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
        options = {"api_endpoint": site.url}
    anonymous = AnonymousCredentials()  # type: ignore[no-untyped-call]
    return storage.Client(project="tests", credentials=anonymous, client_options=options)


@pytest.fixture(params=["environment", "api_endpoint"])
def client(goog: Site, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Any]:
    made = connect(goog, monkeypatch, request.param)
    yield made
    made.close()


@pytest.fixture
def writer(goog_writable: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    made = connect(goog_writable, monkeypatch, "environment")
    yield made
    made.close()


@pytest.mark.parametrize("checksum", ["md5", "crc32c", "auto"])
def test_objects_are_downloaded_with_their_checksums_checked(goog: Site, client: Any, checksum: str) -> None:
    bucket = goog.bucket()
    goog.put(bucket, "m/a b.bin", DATA)
    found = client.bucket(bucket)
    assert found.blob("m/a b.bin").download_as_bytes(checksum=checksum) == DATA
    with goog.no_origin_bytes():
        assert found.blob("m/a b.bin").download_as_bytes(checksum=checksum) == DATA
        assert found.get_blob("m/a b.bin").download_as_bytes(checksum=checksum) == DATA


def test_ranges_chunks_and_streams_are_read(goog: Site, client: Any) -> None:
    bucket = goog.bucket()
    goog.put(bucket, "m.bin", DATA)
    found = client.get_bucket(bucket)
    assert found.blob("m.bin").download_as_bytes(start=MIB - 2, end=MIB + 1) == DATA[MIB - 2 : MIB + 2]
    assert found.blob("m.bin").download_as_bytes(start=3 * MIB) == DATA[3 * MIB :]
    assert found.blob("m.bin", chunk_size=MIB).download_as_bytes() == DATA
    with found.blob("m.bin").open("rb") as stream:
        assert stream.read(8) == DATA[:8]
        stream.seek(2 * MIB)
        assert stream.read(5) == DATA[2 * MIB : 2 * MIB + 5]


def test_parts_are_loaded_side_by_side_and_compared_with_the_whole(goog: Site, client: Any, tmp_path: Path) -> None:
    """A directory tells no CRC32C to compare with, nor does an S3 store unless the object was stored with one."""
    bucket = goog.bucket()
    goog.put(bucket, "m.bin", DATA, **({"ChecksumAlgorithm": "CRC32C"} if goog.kind == "moto" else {}))
    found = client.bucket(bucket)
    transfer_manager.download_chunks_concurrently(
        found.get_blob("m.bin"),
        str(tmp_path / "m"),
        chunk_size=MIB,
        worker_type=transfer_manager.THREAD,
        max_workers=3,
        crc32c_checksum=goog.kind != "directory",
    )
    assert (tmp_path / "m").read_bytes() == DATA


def test_objects_are_listed_by_prefix_and_by_page(goog: Site, client: Any) -> None:
    bucket = goog.bucket()
    for key in ("a/1", "a/2 ü", "b/3", "top"):
        goog.put(bucket, key, key.encode())
    assert [blob.name for blob in client.list_blobs(bucket)] == ["a/1", "a/2 ü", "b/3", "top"]
    assert [blob.name for blob in client.list_blobs(bucket, prefix="a/")] == ["a/1", "a/2 ü"]
    listing = client.list_blobs(bucket, delimiter="/")
    assert [blob.name for blob in listing] == ["top"]
    assert listing.prefixes == {"a/", "b/"}
    for blob in client.list_blobs(bucket, page_size=2):
        assert blob.download_as_bytes() == blob.name.encode()


def test_what_is_missing_is_not_found(goog: Site, client: Any) -> None:
    bucket = goog.bucket()
    assert client.bucket(bucket).get_blob("none") is None
    assert not client.bucket(bucket).blob("none").exists()
    with pytest.raises(NotFound):
        client.bucket(bucket).blob("none").download_as_bytes()


def test_generations_are_pinned_and_conditions_hold(goog: Site, client: Any) -> None:
    bucket = goog.bucket()
    goog.put(bucket, "m.bin", DATA)
    blob = client.bucket(bucket).get_blob("m.bin")
    pinned = client.bucket(bucket).blob("m.bin", generation=blob.generation)
    assert pinned.download_as_bytes(if_generation_match=blob.generation) == DATA
    with pytest.raises(PreconditionFailed):
        pinned.download_as_bytes(if_generation_match=blob.generation + 1)
    with pytest.raises(NotFound):
        client.bucket(bucket).blob("m.bin", generation=5).download_as_bytes()


@pytest.mark.parametrize("size", [0, 5, 3 * MIB])
@pytest.mark.parametrize("chunk", [None, MIB], ids=["multipart", "resumable"])
def test_uploads_of_every_kind_arrive_and_are_read_back(
    goog_writable: Site, writer: Any, size: int, chunk: int | None
) -> None:
    bucket, data = goog_writable.bucket(), payload(size)
    blob = writer.bucket(bucket).blob("up load", chunk_size=chunk)
    blob.metadata = {"colour": "blue"}
    blob.upload_from_string(b"what was there before")
    assert writer.bucket(bucket).blob("up load").download_as_bytes() == b"what was there before"
    blob.upload_from_string(data, content_type="x/y", checksum="crc32c")
    found = writer.bucket(bucket).get_blob("up load")
    assert (found.download_as_bytes(), found.content_type, found.metadata) == (data, "x/y", {"colour": "blue"})


def test_objects_are_copied_composed_patched_and_deleted(goog_writable: Site, writer: Any) -> None:
    bucket = writer.bucket(goog_writable.bucket())
    for name in ("one", "two"):
        bucket.blob(name).upload_from_string(name.encode())
    bucket.blob("both").compose([bucket.blob("one"), bucket.blob("two")])
    assert bucket.blob("both").download_as_bytes() == b"onetwo"
    bucket.blob("both").rewrite(bucket.blob("two"))
    assert bucket.blob("both").download_as_bytes() == b"two"
    bucket.copy_blob(bucket.blob("one"), bucket, "three")
    blob = bucket.get_blob("three")
    blob.metadata = {"a": "b"}
    blob.patch()
    assert bucket.get_blob("three").metadata == {"a": "b"}
    with writer.batch():
        bucket.blob("one").delete()
        bucket.blob("two").delete()
    assert [found.name for found in writer.list_blobs(bucket)] == ["both", "three"]
    bucket.blob("both").delete()
    with pytest.raises(NotFound):
        bucket.blob("both").delete()


def test_small_uploads_and_deletions_work_at_an_s3_store(sites: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = sites["moto"]
    client = connect(site, monkeypatch, "environment")
    blob = client.bucket(site.bucket()).blob("up")
    blob.upload_from_string(DATA, content_type="x/y")
    assert blob.download_as_bytes() == DATA
    assert site.get(blob.bucket.name, "up") == DATA
    blob.delete()
    assert not blob.exists()
    client.close()
