"""gcsfs: cat, ranges, open, ls, info, writes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.compat.sites import MIB, Site, payload


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this it asks the endpoint by gRPC for the bucket's layout, for a minute."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def files(site: Site) -> Any:
    import gcsfs

    return gcsfs.GCSFileSystem(endpoint_url=site.url, token="anon", project="tests", skip_instance_cache=True)


def test_files_are_read_whole_and_in_ranges(goog: Site) -> None:
    bucket, data = goog.bucket(), payload(3 * MIB + 11)
    goog.put(bucket, "m/a b.bin", data)
    fs = files(goog)
    path = f"{bucket}/m/a b.bin"
    assert fs.cat_file(path) == data
    with goog.no_origin_bytes():
        assert fs.cat_file(path, MIB - 2, MIB + 2) == data[MIB - 2 : MIB + 2]
        with fs.open(path, "rb", block_size=MIB, cache_type="readahead") as file:
            assert file.read(8) == data[:8]
            file.seek(2 * MIB)
            assert file.read(5) == data[2 * MIB : 2 * MIB + 5]
    info = fs.info(path)
    assert (info["size"], info["type"]) == (len(data), "file")
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{bucket}/absent")


def test_files_are_listed(goog: Site) -> None:
    bucket = goog.bucket()
    for key in ("a/1", "a/2 ü", "b/3", "top"):
        goog.put(bucket, key, key.encode())
    fs = files(goog)
    assert fs.ls(bucket, detail=False) == [f"{bucket}/{name}" for name in ("a", "b", "top")]
    assert fs.find(bucket) == [f"{bucket}/{name}" for name in ("a/1", "a/2 ü", "b/3", "top")]
    assert fs.glob(f"{bucket}/a/*") == [f"{bucket}/a/1", f"{bucket}/a/2 ü"]


@pytest.mark.parametrize("kind", ["gcs", "moto"])
def test_small_files_are_written_and_removed(goog_writable: Site, sites: Any, kind: str) -> None:
    site = sites[kind]
    bucket, data = site.bucket(), payload(MIB)
    fs = files(site)
    fs.pipe_file(f"{bucket}/w", b"before")
    assert fs.cat_file(f"{bucket}/w") == b"before"
    fs.pipe_file(f"{bucket}/w", data)
    assert fs.cat_file(f"{bucket}/w") == data
    fs.rm_file(f"{bucket}/w")
    fs.invalidate_cache()
    assert not fs.exists(f"{bucket}/w")
