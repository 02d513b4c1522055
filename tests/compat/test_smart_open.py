"""smart_open over boto3: streams, seeks, writes in parts."""

from __future__ import annotations

from smart_open import open as smart_open

from tests.compat.sites import MIB, Site, payload


def test_a_stream_is_read_and_seeked(site: Site, style: str) -> None:
    bucket, data = site.bucket(), payload(3 * MIB + 7)
    site.put(bucket, "m/a b.bin", data)
    parameters = {"client": site.boto3(style)}
    with smart_open(f"s3://{bucket}/m/a b.bin", "rb", transport_params=parameters) as file:
        assert file.read() == data
    with site.no_origin_bytes(), smart_open(f"s3://{bucket}/m/a b.bin", "rb", transport_params=parameters) as file:
        file.seek(2 * MIB - 3)
        assert file.read(6) == data[2 * MIB - 3 : 2 * MIB + 3]
        file.seek(-4, 2)
        assert file.read() == data[-4:]


def test_a_stream_is_written_in_parts(writable: Site, style: str) -> None:
    bucket, data = writable.bucket(), payload(11 * MIB)
    parameters = {"client": writable.boto3(style), "min_part_size": 5 * MIB}
    with smart_open(f"s3://{bucket}/m/big.bin", "wb", transport_params=parameters) as file:
        file.write(data)
    assert writable.get(bucket, "m/big.bin") == data
    with smart_open(f"s3://{bucket}/m/big.bin", "rb", transport_params=parameters) as file:
        assert file.read() == data
