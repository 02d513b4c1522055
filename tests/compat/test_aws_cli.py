"""The aws command: cp, ls, sync, rm, head-object."""

from __future__ import annotations

import json
from pathlib import Path

from tests.compat.sites import MIB, Site, payload


class AwsCli:
    """The program with its endpoint and addressing style set."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site = site
        self._config = folder / "aws-config"
        style = "virtual" if site.by_host else "path"
        chunks = "  multipart_threshold = 5MB\n  multipart_chunksize = 5MB\n"
        self._config.write_text(f"[default]\ns3 =\n  addressing_style = {style}\n{chunks}")

    def __call__(self, *arguments: str | Path) -> str:
        endpoint = ("--endpoint-url", self._site.endpoint)
        return self._site.run("aws", *endpoint, *arguments, AWS_CONFIG_FILE=str(self._config))


def test_a_tree_is_synced_down_and_listed(outside: Site, tmp_path: Path) -> None:
    site, aws = outside, AwsCli(outside, tmp_path)
    bucket = site.bucket()
    objects = {"m/config.json": b"{}", "m/part 1.bin": payload(6 * MIB), "m/sub/ü.txt": payload(100), "m/empty": b""}
    for key, data in objects.items():
        site.put(bucket, key, data)
    aws("s3", "sync", f"s3://{bucket}/m", tmp_path / "cold", "--only-show-errors")
    with site.no_origin_bytes():
        aws("s3", "sync", f"s3://{bucket}/m", tmp_path / "hot", "--only-show-errors")
    for key, data in objects.items():
        name = key.removeprefix("m/")
        assert (tmp_path / "cold" / name).read_bytes() == (tmp_path / "hot" / name).read_bytes() == data
    listing = [line.split(maxsplit=2)[2] for line in aws("s3", "ls", "--recursive", f"s3://{bucket}").splitlines()]
    assert sorted(listing) == sorted(f"{len(data)} {key}" for key, data in objects.items())
    head = json.loads(aws("s3api", "head-object", "--bucket", bucket, "--key", "m/part 1.bin", "--output", "json"))
    assert head["ContentLength"] == 6 * MIB


def test_files_are_copied_up_over_and_removed(outside_writable: Site, tmp_path: Path) -> None:
    site, aws = outside_writable, AwsCli(outside_writable, tmp_path)
    bucket, data = site.bucket(), payload(11 * MIB)
    site.put(bucket, "dir/up.bin", b"old")
    aws("s3", "cp", f"s3://{bucket}/dir/up.bin", tmp_path / "old", "--only-show-errors")
    (tmp_path / "up.bin").write_bytes(data)
    aws("s3", "cp", tmp_path / "up.bin", f"s3://{bucket}/dir/", "--only-show-errors")
    assert site.get(bucket, "dir/up.bin") == data
    aws("s3", "cp", f"s3://{bucket}/dir/up.bin", tmp_path / "down", "--only-show-errors")
    assert (tmp_path / "down").read_bytes() == data
    site.put(bucket, "small", b"hello")  # rclone cannot copy into the parts of a big one
    aws("s3", "mv", f"s3://{bucket}/small", f"s3://{bucket}/moved", "--only-show-errors")
    assert aws("s3", "ls", f"s3://{bucket}").split()[-2:] == ["5", "moved"]
    assert "small" not in aws("s3", "ls", f"s3://{bucket}")
