"""pyarrow's S3FileSystem (the C++ SDK): random access, parquet columns, listings, writes."""

from __future__ import annotations

import io

import pyarrow
import pyarrow.parquet
from pyarrow import fs

from tests.compat.sites import MIB, REGION, Site, payload


def filesystem(site: Site) -> fs.S3FileSystem:
    proxy = {"scheme": "http", "host": "127.0.0.1", "port": site.port} if site.by_host else None
    return fs.S3FileSystem(
        access_key=site.access_key_id,
        secret_key=site.secret_access_key,
        region=REGION,
        scheme="http",
        endpoint_override=site.endpoint.removeprefix("http://"),
        force_virtual_addressing=site.by_host,
        proxy_options=proxy,
        background_writes=False,
    )


def test_a_file_is_read_at_random_and_as_a_stream(outside: Site) -> None:
    bucket, data, files = outside.bucket(), payload(4 * MIB + 11), filesystem(outside)
    outside.put(bucket, "m/a b.bin", data)
    path = f"{bucket}/m/a b.bin"
    with files.open_input_stream(path) as stream:
        assert stream.read() == data
    with outside.no_origin_bytes():
        with files.open_input_file(path) as file:
            assert file.size() == len(data)
            assert file.read_at(8, 0) == data[:8]
            assert file.read_at(2 * MIB, MIB - 1) == data[MIB - 1 : 3 * MIB - 1]
            assert file.read_at(100, len(data) - 5) == data[-5:]
        with files.open_input_stream(path, buffer_size=100_000) as stream:
            assert stream.read() == data
    selected = files.get_file_info(fs.FileSelector(bucket, recursive=True))
    assert {info.path: info.size for info in selected if info.type == fs.FileType.File} == {path: len(data)}
    assert files.get_file_info(f"{bucket}/absent").type == fs.FileType.NotFound


def test_parquet_columns_are_read(outside: Site) -> None:
    bucket, files = outside.bucket(), filesystem(outside)
    table = pyarrow.table({"id": list(range(50_000)), "name": [f"row {number}" for number in range(50_000)]})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, row_group_size=10_000)
    outside.put(bucket, "t.parquet", buffer.getvalue())
    cold = pyarrow.parquet.read_table(f"{bucket}/t.parquet", filesystem=files, columns=["name"])
    whole = pyarrow.parquet.read_table(f"{bucket}/t.parquet", filesystem=files)
    with outside.no_origin_bytes():
        assert pyarrow.parquet.read_table(f"{bucket}/t.parquet", filesystem=files) == whole == table
    assert cold == table.select(["name"])


def test_files_are_written_copied_and_deleted(outside_writable: Site) -> None:
    site, bucket, data, files = (
        outside_writable,
        outside_writable.bucket(),
        payload(11 * MIB),
        filesystem(outside_writable),
    )
    with files.open_output_stream(f"{bucket}/m/big.bin") as stream:
        stream.write(data)
    assert site.get(bucket, "m/big.bin") == data
    files.copy_file(f"{bucket}/m/big.bin", f"{bucket}/copy.bin")
    with files.open_input_stream(f"{bucket}/copy.bin") as stream:
        assert stream.read() == data
    files.delete_file(f"{bucket}/copy.bin")
    assert files.get_file_info(f"{bucket}/copy.bin").type == fs.FileType.NotFound
