"""s5cmd (sdk-go): cp up and down in parts, ls, cat, rm. It knows path style only at an endpoint of one's own."""

from __future__ import annotations

from pathlib import Path

from tests.compat.sites import MIB, Site, payload


def test_objects_are_copied_down_listed_and_shown(outside: Site, tmp_path: Path) -> None:
    site, bucket, data = outside, outside.bucket(), payload(3 * MIB + 5)
    site.put(bucket, "m/a b.bin", data)
    site.put(bucket, "m/sub/ü.txt", b"hello")
    command = ("--endpoint-url", site.endpoint)
    site.run("s5cmd", *command, "cp", "--part-size", "5", f"s3://{bucket}/m/*", f"{tmp_path}/cold/")
    with site.no_origin_bytes():
        site.run("s5cmd", *command, "cp", f"s3://{bucket}/m/*", f"{tmp_path}/hot/")
        assert site.run("s5cmd", *command, "cat", f"s3://{bucket}/m/sub/ü.txt") == "hello"
    for folder in ("cold", "hot"):
        assert (tmp_path / folder / "a b.bin").read_bytes() == data
        assert (tmp_path / folder / "sub" / "ü.txt").read_bytes() == b"hello"
    listing = site.run("s5cmd", *command, "ls", f"s3://{bucket}/m/*")
    assert [line.split(maxsplit=2)[2].split(maxsplit=1) for line in listing.splitlines()] == [
        [str(len(data)), "a b.bin"],
        ["5", "sub/ü.txt"],
    ]


def test_a_file_is_copied_up_in_parts_and_removed(outside_writable: Site, tmp_path: Path) -> None:
    site, bucket, data = outside_writable, outside_writable.bucket(), payload(11 * MIB)
    (tmp_path / "up.bin").write_bytes(data)
    command = ("--endpoint-url", site.endpoint)
    site.run("s5cmd", *command, "cp", "--part-size", "5", tmp_path / "up.bin", f"s3://{bucket}/dir/")
    assert site.get(bucket, "dir/up.bin") == data
    site.run("s5cmd", *command, "mv", f"s3://{bucket}/dir/up.bin", f"s3://{bucket}/moved.bin")
    site.run("s5cmd", *command, "cp", f"s3://{bucket}/moved.bin", tmp_path / "down.bin")
    assert (tmp_path / "down.bin").read_bytes() == data
    assert site.run("s5cmd", *command, "ls", f"s3://{bucket}").split()[2:] == [str(len(data)), "moved.bin"]
