"""pyarrow's GcsFileSystem (google-cloud-cpp): info, reads, selectors, streams out."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pyarrow.fs
import pytest

from tests.compat.sites import MIB, Site, payload


def files(site: Site) -> Any:
    return pyarrow.fs.GcsFileSystem(
        anonymous=True,
        scheme="http",
        endpoint_override=site.url.removeprefix("http://"),
        retry_time_limit=timedelta(seconds=20),
    )


def test_a_file_is_read_whole_and_at_places(goog: Site) -> None:
    bucket, data = goog.bucket(), payload(3 * MIB + 11)
    goog.put(bucket, "m/a b.bin", data)
    fs = files(goog)
    path = f"{bucket}/m/a b.bin"
    info = fs.get_file_info(path)
    assert (info.type, info.size) == (pyarrow.fs.FileType.File, len(data))
    with fs.open_input_stream(path) as stream:
        assert stream.read() == data
    with goog.no_origin_bytes(), fs.open_input_file(path) as file:
        assert file.read_at(8, MIB - 4) == data[MIB - 4 : MIB + 4]
        assert file.read_at(100, 3 * MIB) == data[3 * MIB :]
        assert file.read_at(5, 0) == data[:5]
    assert fs.get_file_info(f"{bucket}/absent").type == pyarrow.fs.FileType.NotFound


def test_files_are_selected(goog: Site) -> None:
    bucket = goog.bucket()
    for key in ("a/1", "a/2", "b/3", "top"):
        goog.put(bucket, key, key.encode())
    found = files(goog).get_file_info(pyarrow.fs.FileSelector(bucket, recursive=True))
    names = {info.path.removeprefix(bucket + "/") for info in found if info.type == pyarrow.fs.FileType.File}
    assert names == {"a/1", "a/2", "b/3", "top"}


@pytest.mark.parametrize("size", [0, 10, 2 * MIB])
def test_files_are_written_and_deleted(goog_writable: Site, size: int) -> None:
    bucket, data = goog_writable.bucket(), payload(size)
    fs = files(goog_writable)
    with fs.open_output_stream(f"{bucket}/w") as stream:
        stream.write(data)
    with fs.open_input_stream(f"{bucket}/w") as stream:
        assert stream.read() == data
    fs.delete_file(f"{bucket}/w")
    assert fs.get_file_info(f"{bucket}/w").type == pyarrow.fs.FileType.NotFound
