"""Listings of a directory, page by page, against the sorted list of its keys."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.origin import ListPage
from proxy.origin.directory.tree import Tree
from proxy.origin.directory.walk import FolderCache, list_page

# Around `/` in byte order, and beyond ASCII: `a-`, `a.`, `a/`, `a0`; U+FFFD sorts before U+10000 as UTF-8 only.
NAMES = st.text(st.sampled_from(["a", "b", "-", ".", "0", "é", "\ufffd", "\U00010000"]), min_size=1, max_size=3).filter(
    lambda name: name not in (".", "..")
)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TEXTS = st.text(st.sampled_from(["a", "b", "-", ".", "/", "0", "é", "\ufffd"]), max_size=4)


def plant(root: Path, keys: list[str]) -> list[str]:
    """Makes those keys files, as far as a tree can hold them together; returns the ones that are, in order."""
    for key in keys:
        path = root / "bkt" / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_dir():
                path.write_bytes(key.encode())
        except (NotADirectoryError, FileExistsError):
            pass  # another key is a file on this one's way
    found = [path.relative_to(root / "bkt").as_posix() for path in (root / "bkt").rglob("*") if path.is_file()]
    return sorted(found, key=str.encode)


def model(keys: list[str], prefix: str, delimiter: str, after: str) -> list[tuple[str, bool]]:
    """Keys and common prefixes (True) beyond `after`, by the definition."""
    items: dict[str, bool] = {}
    for key in keys:
        if not key.startswith(prefix):
            continue
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        item = key[: cut + len(delimiter)] if cut >= 0 else key
        if key.encode() > after.encode() and (item != after or cut < 0):
            items[item] = cut >= 0
    return sorted(items.items(), key=lambda item: item[0].encode())


def pages(root: Path, prefix: str, delimiter: str, after: str, limit: int, folders: FolderCache) -> Iterator[ListPage]:
    tree = Tree(root)
    while True:
        page = list_page(tree, folders, "bkt", prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        yield page
        if page.next_after is None:
            return
        after = page.next_after


def items(page: ListPage) -> list[tuple[str, bool]]:
    found = [(listed.key, False) for listed in page.objects] + [(prefix, True) for prefix in page.prefixes]
    return sorted(found, key=lambda item: item[0].encode())


@given(keys=st.lists(KEYS, max_size=25), prefix=TEXTS, delimiter=TEXTS, after=TEXTS, limit=st.integers(1, 7))
@example(keys=["a/x", "a-b", "a.b", "a0", "a/y/z"], prefix="", delimiter="/", after="", limit=1)
@example(keys=["a/x", "a/y", "b"], prefix="", delimiter="/", after="a/", limit=5)
@example(keys=["a/x", "a/y", "b"], prefix="", delimiter="/", after="a/x", limit=5)
@example(keys=["a/x", "a/y", "b"], prefix="a", delimiter="", after="a/x", limit=5)
@example(keys=["aab", "aba", "abb/ab"], prefix="a", delimiter="ab", after="", limit=2)
@settings(max_examples=250)
def test_pages_of_any_listing_are_the_sorted_keys(
    keys: list[str], prefix: str, delimiter: str, after: str, limit: int
) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        (root / "bkt").mkdir()
        present = plant(root, keys)
        folders = FolderCache(clock=lambda: 1e12)  # everything has settled: directories are kept
        listed = list(pages(root, prefix, delimiter, after, limit, folders))
    finally:
        shutil.rmtree(root)
    assert [item for page in listed for item in items(page)] == model(present, prefix, delimiter, after)
    assert all(len(items(page)) == limit for page in listed[:-1])
    assert len(items(listed[-1])) <= limit


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "bkt").mkdir()
    return tmp_path


def whole(root: Path, folders: FolderCache, **wanted: str) -> list[str]:
    wanted = {"prefix": "", "delimiter": "", "after": "", **wanted}
    page = list_page(Tree(root), folders, "bkt", limit=10**6, **wanted)
    return [name for name, _ in items(page)]


def test_objects_carry_size_time_and_the_etag_of_a_head(tree: Path) -> None:
    (tree / "bkt/k").write_bytes(b"abc")
    page = list_page(Tree(tree), FolderCache(), "bkt", prefix="", delimiter="", after="", limit=5)
    (listed,) = page.objects
    _, file = Tree(tree).open_file("bkt", "k")
    assert (listed.key, listed.size_bytes, listed.etag) == ("k", 3, file.etag)
    assert listed.last_modified_s == (tree / "bkt/k").stat().st_mtime


def test_a_limit_of_zero_gives_an_empty_final_page(tree: Path) -> None:
    plant(tree, ["a", "b"])
    page = list_page(Tree(tree), FolderCache(), "bkt", prefix="", delimiter="", after="", limit=0)
    assert page == ListPage((), (), None)


def test_a_page_that_just_fits_is_the_last_one(tree: Path) -> None:
    plant(tree, ["a", "b"])
    page = list_page(Tree(tree), FolderCache(), "bkt", prefix="", delimiter="", after="", limit=2)
    assert page.next_after is None


def test_empty_directories_are_no_common_prefixes(tree: Path) -> None:
    (tree / "bkt/empty/er").mkdir(parents=True)
    plant(tree, ["full/k"])
    assert whole(tree, FolderCache(), delimiter="/") == ["full/"]


@pytest.mark.parametrize("prefix", ["..", "../", "../bkt/", "./", "/", "a//", "a/../", "k/", "\0", "a/\0/", "\udcff"])
def test_prefixes_that_no_file_can_have_list_nothing(tree: Path, prefix: str) -> None:
    plant(tree, ["a/b", "k"])
    assert whole(tree, FolderCache(), prefix=prefix) == []


def test_names_that_are_no_utf8_are_passed_over(tree: Path) -> None:
    plant(tree, ["k"])
    with open(os.fsencode(tree / "bkt") + b"/\xff", "wb"):
        pass
    assert whole(tree, FolderCache()) == ["k"]


def test_a_loop_of_links_is_walked_once(tree: Path) -> None:
    plant(tree, ["a/k"])
    (tree / "bkt/a/loop").symlink_to("..")
    assert whole(tree, FolderCache()) == ["a/k"]


@pytest.mark.parametrize("settled", [True, False])
def test_what_changes_between_listings_is_seen(tree: Path, settled: bool) -> None:
    folders = FolderCache(clock=(lambda: 1e12) if settled else (lambda: 0.0))
    plant(tree, ["a/k", "b"])
    assert whole(tree, folders) == ["a/k", "b"]
    (tree / "bkt/b").unlink()
    plant(tree, ["a/l", "c/d"])
    os.utime(tree / "bkt", ns=(1, 1))
    os.utime(tree / "bkt/a", ns=(1, 1))  # told apart even on file systems with coarse time stamps
    assert whole(tree, folders) == ["a/k", "a/l", "c/d"]


def record_scans(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The directories that are read from now on."""
    scans: list[object] = []
    scandir = os.scandir

    def recording(path: bytes) -> object:
        scans.append(path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", recording)
    return scans


def test_paging_looks_at_each_directory_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tree, [f"d{folder}/k{number:02}" for folder in range(5) for number in range(20)])
    scans = record_scans(monkeypatch)
    folders = FolderCache(clock=lambda: 1e12)
    assert sum(len(page.objects) for page in pages(tree, "", "", "", 7, folders)) == 100
    assert len(scans) == 6
    scans.clear()
    assert len(list(pages(tree, "d3/", "/", "", 1000, FolderCache()))) == 1
    assert len(scans) == 1


def test_a_delimiter_does_not_walk_what_lies_below(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tree, [f"{folder}/{sub}/k" for folder in "abc" for sub in range(10)])
    scans = record_scans(monkeypatch)
    assert whole(tree, FolderCache(clock=lambda: 1e12), delimiter="/") == ["a/", "b/", "c/"]
    assert len(scans) == 1 + 3 * 2  # the bucket, and the way to the first key below each prefix


def test_the_kept_entries_are_bounded_and_those_listed_longest_ago_go_first(tree: Path) -> None:
    kept = FolderCache(lambda: 4e9, entries_max=6)
    for name in ("a", "b", "c"):
        (tree / "bkt" / name).mkdir()
        (tree / "bkt" / name / "k").write_bytes(b"x")

    def is_kept(name: str) -> bool:
        return os.fsencode(tree / "bkt" / name) in kept._folders

    for name in ("a", "b", "a", "c", "a"):
        path = os.fsencode(tree / "bkt" / name)
        assert kept.segments(path, os.fsencode(tree / "bkt"))[1] == [b"k"]
    assert [is_kept(name) for name in ("a", "b", "c")] == [True, True, True]
    (tree / "bkt" / "d").mkdir()
    kept.segments(os.fsencode(tree / "bkt" / "d"), os.fsencode(tree / "bkt"))  # empty, and takes its place all the same
    assert [is_kept(name) for name in ("a", "b", "c", "d")] == [True, False, True, True]
    for number in range(9):
        (tree / "bkt" / "d" / str(number)).write_bytes(b"x")
    assert len(kept.segments(os.fsencode(tree / "bkt" / "d"), os.fsencode(tree / "bkt"))[1]) == 9
    assert kept._folders.currsize <= 6
