"""rclone as a client: copy with several streams, check, lsl, cat, copy up, delete."""

from __future__ import annotations

from pathlib import Path

from tests.compat.sites import MIB, REGION, Site, payload


class Rclone:
    """The program with its remote given by environment variables: `:s3:bucket/path`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._settings = {
            "RCLONE_CONFIG": "/dev/null",
            "RCLONE_S3_PROVIDER": "Other",
            "RCLONE_S3_ENDPOINT": site.endpoint,
            "RCLONE_S3_REGION": REGION,
            "RCLONE_S3_ACCESS_KEY_ID": site.access_key_id,
            "RCLONE_S3_SECRET_ACCESS_KEY": site.secret_access_key,
            "RCLONE_S3_FORCE_PATH_STYLE": "false" if site.by_host else "true",
            "RCLONE_S3_UPLOAD_CUTOFF": "5M",
            "RCLONE_S3_CHUNK_SIZE": "5M",
            "RCLONE_RETRIES": "1",
        }

    def __call__(self, *arguments: str | Path) -> str:
        return self._site.run("rclone", *arguments, **self._settings)


def test_a_tree_is_copied_checked_and_listed(outside: Site, tmp_path: Path) -> None:
    site, rclone, bucket = outside, Rclone(outside), outside.bucket()
    objects = {"a b.bin": payload(6 * MIB), "sub/ü.txt": b"hello", "empty": b""}
    for key, data in objects.items():
        site.put(bucket, f"m/{key}", data)
    streams = ("--multi-thread-cutoff", "2M", "--multi-thread-streams", "3", "--multi-thread-chunk-size", "1M")
    rclone("copy", *streams, f":s3:{bucket}/m", tmp_path / "cold")
    with site.no_origin_bytes():
        rclone("copy", *streams, f":s3:{bucket}/m", tmp_path / "hot")
        rclone("check", "--download", f":s3:{bucket}/m", tmp_path / "hot")
        assert rclone("cat", "--offset", "1", "--count", "3", f":s3:{bucket}/m/sub/ü.txt") == "ell"
    for key, data in objects.items():
        assert (tmp_path / "cold" / key).read_bytes() == (tmp_path / "hot" / key).read_bytes() == data
    lines = [line.split(maxsplit=3) for line in rclone("lsl", f":s3:{bucket}/m").splitlines()]
    assert {name: int(size) for size, _, _, name in lines} == {key: len(data) for key, data in objects.items()}


def test_files_are_copied_up_and_deleted(outside_writable: Site, tmp_path: Path) -> None:
    site, rclone, bucket = outside_writable, Rclone(outside_writable), outside_writable.bucket()
    objects = {"big.bin": payload(11 * MIB), "small.txt": b"hello"}
    for key, data in objects.items():
        (tmp_path / key).write_bytes(data)
        rclone("copyto", tmp_path / key, f":s3:{bucket}/m/{key}")
    for key, data in objects.items():
        assert site.get(bucket, f"m/{key}") == data
    rclone("check", "--download", "--include", "*.{bin,txt}", tmp_path, f":s3:{bucket}/m")
    rclone("deletefile", f":s3:{bucket}/m/big.bin")
    assert sorted(rclone("lsf", "-R", f":s3:{bucket}").splitlines()) == ["m/", "m/small.txt"]
