"""A directory as an origin: files as objects, and nothing outside of the root."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from proxy.errors import AccessDenied, InvalidRequest, NotFound, NotSupported, OriginUnavailable, VersionChanged
from proxy.origin import ForwardRequest
from proxy.origin.directory import DirectoryOrigin
from proxy.ranges import ByteRange
from tests.origin.asking import Received, counted

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    bucket = tmp_path / "root" / "models"
    bucket.mkdir(parents=True)
    (bucket / "config.json").write_bytes(b"{}")
    (bucket / "deep" / "er").mkdir(parents=True)
    (bucket / "deep" / "er" / "ü b+%.bin").write_bytes(b"0123456789")
    (tmp_path / "root" / "secret").write_bytes(b"not in a bucket")
    (tmp_path / "outside").write_bytes(b"outside")
    return tmp_path / "root"


@pytest.fixture
async def origin(root: Path) -> AsyncIterator[DirectoryOrigin]:
    made = DirectoryOrigin(root)
    yield made
    await made.aclose()


async def read(origin: DirectoryOrigin, key: str, bucket: str = "models") -> bytes:
    record = await origin.head(bucket, key)
    sink = Received(slow=True)
    await origin.read_range(record.version, ByteRange(0, record.size_bytes), sink)
    return bytes(sink.data)


async def test_the_origin_is_named_by_its_absolute_path(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    assert DirectoryOrigin(Path("root")).id == f"file://{root}"
    assert DirectoryOrigin(root).dialect == "file"


async def test_a_record_tells_what_a_file_tells(origin: DirectoryOrigin, root: Path) -> None:
    record = await origin.head("models", "config.json")
    assert (record.size_bytes, record.cacheable, record.strong_etag) == (2, True, True)
    assert dict(record.headers)["content-type"] == "application/json"
    assert dict(record.headers)["etag"] == record.etag
    assert dict(record.headers)["last-modified"].endswith("GMT")
    assert record.last_modified_s == int((root / "models/config.json").stat().st_mtime)
    assert record.version.validator == f"etag {record.etag}"


@pytest.mark.parametrize(
    ("size", "parts"), [(0, 1), (1, 1), (8 * MIB, 1), (8 * MIB + 1, 2), (16 * MIB, 2), (16 * MIB + 5, 3)]
)
async def test_the_etag_counts_the_parts_and_the_parts_fill_the_object(
    origin: DirectoryOrigin, root: Path, size: int, parts: int
) -> None:
    with open(root / "models/large", "wb") as file:
        file.truncate(size)
    record = await origin.head("models", "large")
    assert record.etag.endswith(f'-{parts}"')
    assert record.md5 is None
    found = [await origin.head_part(record, number) for number in range(1, parts + 1)]
    assert [(part.number, part.count) for part in found] == [(number, parts) for number in range(1, parts + 1)]
    assert found[0].span.start == 0
    assert found[-1].span.end == size
    assert all(before.span.end == after.span.start for before, after in pairwise(found))
    for number in (0, parts + 1):
        with pytest.raises(InvalidRequest) as caught:
            await origin.head_part(record, number)
        assert caught.value.code == "InvalidPartNumber"


async def test_a_range_of_several_pieces_is_delivered_in_order(origin: DirectoryOrigin, root: Path) -> None:
    data = os.urandom(5 * MIB + 123)
    (root / "models/large").write_bytes(data)
    record = await origin.head("models", "large")
    for start, end in [(0, len(data)), (MIB - 1, 3 * MIB + 1), (len(data) - 1, len(data)), (7, 7)]:
        sink = Received(slow=start % 2 == 1)
        await origin.read_range(record.version, ByteRange(start, end), sink)
        assert sink.data == data[start:end]
    assert counted("origin_bytes", origin.id) > len(data)


async def test_keys_are_paths_and_names_are_utf8(origin: DirectoryOrigin) -> None:
    assert await read(origin, "deep/er/ü b+%.bin") == b"0123456789"


@pytest.mark.parametrize(
    "key",
    [
        "none",
        "deep",
        "deep/",
        "config.json/",
        "config.json/x",
        "/config.json",
        "deep//er/ü b+%.bin",
        "./config.json",
        "deep/../config.json",
        "../secret",
        "../../outside",
        "..",
        ".",
        "",
        "con\0fig",
        "x" * 256,
        "x/" * 3000 + "x",
        "\udcff",
    ],
)
async def test_keys_that_a_tree_does_not_hold_do_not_exist(origin: DirectoryOrigin, key: str) -> None:
    with pytest.raises(NotFound) as caught:
        await origin.head("models", key)
    assert caught.value.what == "key"


@pytest.mark.parametrize("bucket", ["none", "..", "models/deep", "/", "", "secret", "models/.", "\0"])
async def test_only_directories_below_the_root_are_buckets(origin: DirectoryOrigin, bucket: str) -> None:
    with pytest.raises(NotFound) as caught:
        await origin.head(bucket, "config.json")
    assert caught.value.what == "bucket"
    with pytest.raises(NotFound):
        await origin.list_objects(bucket, prefix="", delimiter="", after="", limit=10)


async def test_the_bucket_dot_is_the_root_itself(origin: DirectoryOrigin) -> None:
    assert await read(origin, "secret", ".") == b"not in a bucket"
    assert await read(origin, "models/config.json", ".") == b"{}"


async def test_links_inside_a_bucket_work_and_links_out_of_it_do_not_exist(origin: DirectoryOrigin, root: Path) -> None:
    models = root / "models"
    (models / "near").symlink_to("deep/er/ü b+%.bin")
    (models / "absolute").symlink_to(models / "config.json")
    (models / "folder").symlink_to(models / "deep")
    (root / "private/deep").mkdir(parents=True)
    (root / "private/deep/key").write_bytes(b"another bucket's")
    (models / "other").symlink_to(root / "secret")
    (models / "theirs").symlink_to("../private/deep/key")
    (models / "theirfolder").symlink_to(root / "private")
    (root / "alias").symlink_to("private")
    (models / "hidden").symlink_to(root / "alias/deep")
    (models / "out").symlink_to(root.parent / "outside")
    (models / "outfolder").symlink_to(root.parent)
    (models / "dangling").symlink_to("nowhere")
    (models / "self").symlink_to("self")
    (root / "outbucket").symlink_to("/etc")
    assert await read(origin, "near") == b"0123456789"
    assert await read(origin, "absolute") == b"{}"
    assert await read(origin, "folder/er/ü b+%.bin") == b"0123456789"
    assert await read(origin, "deep/key", "alias") == b"another bucket's"  # a bucket that is a link itself
    others = ("other", "theirs", "theirfolder/deep/key", "hidden/key")
    for key in ("out", "outfolder/outside", "dangling", "self", *others):
        with pytest.raises(NotFound):
            await origin.head("models", key)
    with pytest.raises(NotFound):
        await origin.head("outbucket", "passwd")
    page = await origin.list_objects("models", prefix="", delimiter="", after="", limit=100)
    keys = [listed.key for listed in page.objects]
    assert keys == sorted(
        ["absolute", "config.json", "deep/er/ü b+%.bin", "folder/er/ü b+%.bin", "near"], key=str.encode
    )
    for prefix in ("outfolder/", "outfolder/o", "theirfolder/", "theirfolder/deep/k", "hidden/"):
        assert (await origin.list_objects("models", prefix=prefix, delimiter="", after="", limit=9)).objects == ()
    assert await read(origin, "models/other", ".") == b"not in a bucket"  # there the root is the bucket
    assert [name for name, _ in await origin.list_buckets()] == ["alias", "models", "private"]


async def test_the_root_may_be_a_link_itself(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    origin = DirectoryOrigin(link)
    assert await read(origin, "config.json") == b"{}"
    await origin.aclose()


async def test_special_files_do_not_exist_and_do_not_block(origin: DirectoryOrigin, root: Path) -> None:
    os.mkfifo(root / "models/pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "models/sock"))
        async with asyncio.timeout(10):
            for key in ("pipe", "sock"):
                with pytest.raises(NotFound):
                    await origin.head("models", key)
            page = await origin.list_objects("models", prefix="", delimiter="", after="", limit=100)
    assert [listed.key for listed in page.objects] == ["config.json", "deep/er/ü b+%.bin"]


async def test_every_change_of_a_file_is_another_version(origin: DirectoryOrigin, root: Path) -> None:
    path = root / "models/config.json"
    seen = set()
    for content in (b"{}", b"[]", b"[]", b"[1]"):
        path.write_bytes(content)
        seen.add((await origin.head("models", "config.json")).version)
    os.utime(path, ns=(0, 0))
    seen.add((await origin.head("models", "config.json")).version)
    assert len(seen) == 5


async def test_a_version_that_is_not_there_any_more_is_told_before_a_byte(origin: DirectoryOrigin, root: Path) -> None:
    path, sink = root / "models/config.json", Received()
    version = (await origin.head("models", "config.json")).version
    path.write_bytes(b"[]")
    with pytest.raises(VersionChanged):
        await origin.read_range(version, ByteRange(0, 2), sink)
    path.unlink()
    with pytest.raises(VersionChanged):
        await origin.read_range(version, ByteRange(0, 2), sink)
    assert sink.writes == 0


@pytest.mark.parametrize("how", ["rewrite", "truncate", "replace", "append"])
async def test_a_change_in_mid_read_is_caught_before_a_changed_byte_is_given_on(
    origin: DirectoryOrigin, root: Path, how: str
) -> None:
    path = root / "models/large"
    path.write_bytes(b"a" * (4 * MIB))
    record = await origin.head("models", "large")

    class Changing(Received):
        def write(self, data: memoryview) -> None:
            super().write(data)
            if self.writes == 2:
                if how == "rewrite":
                    path.write_bytes(b"b" * (4 * MIB))
                elif how == "truncate":
                    os.truncate(path, MIB)
                elif how == "append":
                    with path.open("ab") as file:
                        file.write(b"b")
                else:
                    (root / "new").write_bytes(b"b" * (4 * MIB))
                    os.replace(root / "new", path)

    sink = Changing()
    with pytest.raises(VersionChanged):
        await origin.read_range(record.version, ByteRange(0, record.size_bytes), sink)
    assert sink.data == b"a" * (2 * MIB)


async def test_a_file_that_changed_a_moment_ago_is_looked_at_until_it_has_settled(root: Path) -> None:
    path = root / "models/config.json"
    now_s = path.stat().st_ctime_ns / 1e9 + 0.001
    looks: list[float] = []

    def clock() -> float:
        looks.append(now_s + 0.02 * (len(looks) > 1))
        return looks[-1]

    origin = DirectoryOrigin(root, clock=clock)
    await origin.head("models", "config.json")
    assert len(looks) == 3
    await origin.aclose()


async def test_the_only_version_id_is_null(origin: DirectoryOrigin) -> None:
    assert (await origin.head("models", "config.json", "null")).size_bytes == 2
    with pytest.raises(NotFound) as caught:
        await origin.head("models", "config.json", "v1")
    assert caught.value.what == "version"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
async def test_an_unreadable_file_is_denied(origin: DirectoryOrigin, root: Path) -> None:
    (root / "models/config.json").chmod(0)
    with pytest.raises(AccessDenied):
        await origin.head("models", "config.json")


async def test_a_root_that_is_not_there_is_unavailable_until_it_is(tmp_path: Path) -> None:
    origin = DirectoryOrigin(tmp_path / "later")
    for _ in range(2):
        with pytest.raises(OriginUnavailable, match="later"):
            await origin.head("models", "k")
    with pytest.raises(OriginUnavailable):
        await origin.list_buckets()
    (tmp_path / "later/models").mkdir(parents=True)
    (tmp_path / "later/models/k").write_bytes(b"x")
    assert await read(origin, "k") == b"x"
    await origin.aclose()


async def test_buckets_are_the_visible_directories_by_name(origin: DirectoryOrigin, root: Path) -> None:
    for name in ("zz", ".hidden", "a-b", "a"):
        (root / name).mkdir()
    (root / "zlink").symlink_to("models")
    found = await origin.list_buckets()
    assert [name for name, _ in found] == ["a", "a-b", "models", "zlink", "zz"]
    assert all(created_s > 0 for _, created_s in found)


async def test_foreign_operations_are_not_supported(origin: DirectoryOrigin) -> None:
    with pytest.raises(NotSupported):
        await origin.forward(ForwardRequest("PUT", "models", "k", (), ()))


async def test_no_descriptor_stays_open(origin: DirectoryOrigin) -> None:
    await read(origin, "config.json")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        await read(origin, "config.json")
        with pytest.raises(NotFound):
            await origin.head("models", "deep")
    assert len(os.listdir("/proc/self/fd")) <= before + 5  # each idle thread may hold on to its last call
