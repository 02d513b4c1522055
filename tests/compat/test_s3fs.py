"""s3fs (aiobotocore): open, seek, cat ranges, find, glob, info, pipe, put, mv, rm."""

from __future__ import annotations

from pathlib import Path

import s3fs

from tests.compat.sites import DIRECT, MIB, REGION, Site, payload


def filesystem(site: Site, style: str) -> s3fs.S3FileSystem:
    config: dict[str, object] = {"s3": {"addressing_style": style}, "proxies": {}}
    if DIRECT and site.kind == "rclone":  # it sends the whole object's checksum with a range
        config["response_checksum_validation"] = "when_required"
    return s3fs.S3FileSystem(
        key=site.access_key_id,
        secret=site.secret_access_key,
        endpoint_url=site.virtual_url if style == "virtual" else site.url,
        client_kwargs={"region_name": REGION},
        config_kwargs=config,
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def test_a_file_is_opened_seeked_and_read_in_pieces(site: Site, style: str) -> None:
    bucket, data, files = site.bucket(), payload(5 * MIB + 9), filesystem(site, style)
    site.put(bucket, "m/a b.bin", data)
    path = f"{bucket}/m/a b.bin"
    assert files.cat_file(path) == data
    with site.no_origin_bytes():
        assert files.cat_file(path, start=100, end=MIB + 100) == data[100 : MIB + 100]
        assert files.cat_file(path, start=-8) == data[-8:]
        assert files.cat_ranges([path] * 3, [0, MIB, 5 * MIB], [8, MIB + 8, 5 * MIB + 9]) == [
            data[:8],
            data[MIB : MIB + 8],
            data[5 * MIB :],
        ]
        with files.open(path, "rb", block_size=MIB) as file:
            file.seek(3 * MIB - 5)
            assert file.read(10) == data[3 * MIB - 5 : 3 * MIB + 5]
            file.seek(0)
            assert file.read() == data


def test_a_tree_is_found_globbed_and_fetched(site: Site, style: str, tmp_path: Path) -> None:
    bucket, files = site.bucket(), filesystem(site, style)
    objects = {"m/a.bin": payload(100), "m/sub/ü.bin": payload(50), "n.txt": b"hello"}
    for key, data in objects.items():
        site.put(bucket, key, data)
    assert files.find(bucket) == sorted(f"{bucket}/{key}" for key in objects)
    assert files.glob(f"{bucket}/m/**/*.bin") == [f"{bucket}/m/a.bin", f"{bucket}/m/sub/ü.bin"]
    assert sorted(files.ls(f"{bucket}/m", detail=False)) == [f"{bucket}/m/a.bin", f"{bucket}/m/sub"]
    assert files.info(f"{bucket}/n.txt")["size"] == 5
    assert not files.exists(f"{bucket}/absent")
    files.get(f"{bucket}/m", str(tmp_path / "m"), recursive=True)
    assert (tmp_path / "m" / "sub" / "ü.bin").read_bytes() == objects["m/sub/ü.bin"]


def test_files_are_written_moved_and_removed(writable: Site, style: str) -> None:
    bucket, data, files = writable.bucket(), payload(11 * MIB), filesystem(writable, style)
    with files.open(f"{bucket}/m/big.bin", "wb", block_size=5 * MIB) as file:
        file.write(data)
    assert writable.get(bucket, "m/big.bin") == data
    files.pipe(f"{bucket}/m/small", b"one")
    assert files.cat(f"{bucket}/m/small") == b"one"
    files.pipe(f"{bucket}/m/small", b"three")
    assert files.cat(f"{bucket}/m/small") == b"three"
    files.mv(f"{bucket}/m/small", f"{bucket}/moved")
    assert files.cat(f"{bucket}/moved") == b"three"
    files.rm(f"{bucket}/m", recursive=True)
    assert files.find(bucket) == [f"{bucket}/moved"]
