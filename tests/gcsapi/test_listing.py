"""What GCS's listings have beyond the neutral one: offsets, globs, trailing delimiters, pages that go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcsapi.globs import Glob
from gcsapi.listing import (
    GLOB_STEPS_MAX,
    SLICE_STEPS,
    TRAILING_MAX,
    ListRequest,
    generation_of,
    list_page,
    parse_json_list,
    parse_xml_list,
)
from gcsapi.pages import json_page, xml_buckets, xml_page
from proxy.errors import InvalidRequest
from proxy.gateway.routes import BucketRoute
from proxy.generations import derive_generation
from proxy.objects import ObjectVersion
from proxy.origin import ListedObject, ListPage, Origin
from proxy.surface.page_tokens import parse_page_token, render_page_token

NAMES = st.lists(st.text(alphabet="a/b0é", min_size=1, max_size=4), max_size=12, unique=True)
TEXTS = st.text(alphabet="a/b0é", max_size=3)


def order(name: str) -> bytes:
    return name.encode()


class ListedOrigin:
    """`Origin.list_objects` over a list of names, as its contract has it."""

    id = "file:///shelf"
    dialect = "file"

    def __init__(self, names: Sequence[str], page: int = 1000) -> None:
        self.names = sorted(names, key=order)
        self.page = page
        self.asked = 0

    async def list_objects(self, bucket: str, *, prefix: str, delimiter: str, after: str, limit: int) -> ListPage:
        self.asked += 1
        entries: dict[str, bool] = {}
        for name in self.names:
            found = name.find(delimiter, len(prefix)) if delimiter and name.startswith(prefix) else -1
            entry = name[: found + len(delimiter)] if found >= 0 else name
            shown = found >= 0 and entry == after
            if name.startswith(prefix) and order(name) > order(after) and not shown and entry not in entries:
                if len(entries) == min(limit, self.page):
                    return self._page(entries, more=limit > 0)
                entries[entry] = found >= 0
        return self._page(entries, more=False)

    def _page(self, entries: dict[str, bool], *, more: bool) -> ListPage:
        objects = tuple(
            ListedObject(name, len(name), f'"{name}"', 5.0) for name, rolled in entries.items() if not rolled
        )
        prefixes = tuple(name for name, rolled in entries.items() if rolled)
        return ListPage(objects, prefixes, list(entries)[-1] if more and entries else None)


def route_to(shelf: ListedOrigin) -> BucketRoute:
    return BucketRoute("w", cast(Origin, shelf), "real-w", writes_through=False)


async def walk(shelf: ListedOrigin, parameters: dict[str, str]) -> tuple[list[str], list[str]]:
    """Names and prefixes of all pages, asked for by their tokens."""
    names: list[str] = []
    prefixes: list[str] = []
    for _ in range(200):
        request = parse_json_list(parameters)
        page = await list_page(route_to(shelf), request)
        assert request.trailing or len(page.objects) + len(page.prefixes) <= request.limit
        names += [item.key for item in page.objects]
        prefixes += page.prefixes
        if page.next_after is None:
            return names, prefixes
        parameters = {**parameters, "pageToken": render_page_token(page.next_after)}
    raise AssertionError("a listing without end")


def expected(names: Sequence[str], prefix: str, delimiter: str, start: str, end: str) -> tuple[list[str], list[str]]:
    """As GCS describes it: the names within the offsets, then rolled up."""
    objects: list[str] = []
    prefixes: list[str] = []
    for name in sorted(names, key=order):
        if not name.startswith(prefix) or order(name) < order(start) or (end and order(name) >= order(end)):
            continue
        found = name.find(delimiter, len(prefix)) if delimiter else -1
        if found < 0:
            objects.append(name)
        elif (rolled := name[: found + len(delimiter)]) not in prefixes:
            prefixes.append(rolled)
    return objects, prefixes


@given(NAMES, TEXTS, st.sampled_from(["", "/", "b"]), TEXTS, TEXTS, st.integers(1, 4), st.integers(1, 5))
async def test_offsets_cut_a_listing_exactly(
    names: list[str], prefix: str, delimiter: str, start: str, end: str, limit: int, page: int
) -> None:
    parameters = {"prefix": prefix, "delimiter": delimiter, "startOffset": start, "endOffset": end}
    found = await walk(ListedOrigin(names, page), {**parameters, "maxResults": str(limit)})
    assert found == expected(names, prefix, delimiter, start, end)


@given(NAMES, st.text(alphabet="a/b*?", max_size=5), st.integers(1, 4))
async def test_a_glob_keeps_the_names_that_match(names: list[str], pattern: str, limit: int) -> None:
    found, prefixes = await walk(ListedOrigin(names, 3), {"matchGlob": pattern, "maxResults": str(limit)})
    glob = Glob(pattern)
    matching = [name for name in sorted(names, key=order) if not pattern or glob.matches(name)]
    assert (found, prefixes) == (matching, [])


async def test_a_glob_begins_where_its_literal_beginning_says() -> None:
    shelf = ListedOrigin([f"a{number}" for number in range(1000)] + ["models/x.bin", "models/y.txt"], page=10)
    assert await walk(shelf, {"matchGlob": "models/*.bin"}) == (["models/x.bin"], [])
    assert shelf.asked == 1


async def test_a_glob_that_matches_little_gives_short_pages_and_goes_on() -> None:
    shelf = ListedOrigin([f"a{number:03}" for number in range(100)] + ["z"], page=2)
    first = await list_page(route_to(shelf), parse_json_list({"matchGlob": "*z"}))
    assert (first.objects, first.next_after, shelf.asked) == ([], "a019", 10)
    assert await walk(shelf, {"matchGlob": "*z"}) == (["z"], [])


async def test_matching_names_lets_others_have_their_turn_and_ends_with_its_share() -> None:
    names = [f"{number:04}" + "".join(chr(0x4E00 + number * 8 + n) for n in range(100)) for number in range(1000)]
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(take_turns())
    request = parse_json_list({"matchGlob": "**a" * 300 + "?"})
    page = await list_page(route_to(ListedOrigin(names)), request)
    other.cancel()
    assert request.glob is not None
    assert request.glob.steps < GLOB_STEPS_MAX * 1.1
    assert turns > GLOB_STEPS_MAX / SLICE_STEPS / 2
    assert page.next_after is not None
    assert page.next_after < names[-1]
    rest = await list_page(route_to(ListedOrigin(names)), replace(request, after=page.next_after))
    assert rest.next_after is None or rest.next_after > page.next_after


async def test_a_page_with_objects_called_like_prefixes_asks_for_few_of_them() -> None:
    shelf = ListedOrigin([f"{number:04}/x" for number in range(500)])
    asked = {"delimiter": "/", "includeTrailingDelimiter": "true"}
    page = await list_page(route_to(shelf), parse_json_list(asked))
    assert (len(page.prefixes), page.next_after is None) == (TRAILING_MAX, False)
    assert shelf.asked <= TRAILING_MAX + 1
    names, prefixes = await walk(shelf, asked)
    assert (names, len(prefixes)) == ([], 500)


async def test_a_glob_names_common_prefixes_with_or_without_their_delimiter() -> None:
    shelf = ListedOrigin(["abc/1", "abd/2", "x/1", "ab"])
    assert await walk(shelf, {"matchGlob": "ab*", "delimiter": "/"}) == (["ab"], ["abc/", "abd/"])


async def test_objects_called_like_a_prefix_are_shown_where_they_are_asked_for() -> None:
    shelf = ListedOrigin(["a/", "a/1", "b/1", "c"])
    assert await walk(shelf, {"delimiter": "/"}) == (["c"], ["a/", "b/"])
    assert await walk(shelf, {"delimiter": "/", "includeTrailingDelimiter": "true"}) == (["c", "a/"], ["a/", "b/"])


@pytest.mark.parametrize(
    "parameters",
    [
        {"maxResults": "-1"},
        {"maxResults": "x"},
        {"maxResults": "99999999999"},
        {"pageToken": "CAE="},
        {"pageToken": "é"},
        {"matchGlob": "x" * 1025},
    ],
)
def test_nonsense_is_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        parse_json_list(parameters)


def test_limits_are_gcss() -> None:
    assert [parse_json_list({"maxResults": text}).limit for text in ("", "0", "5", "5000")] == [1000, 1000, 5, 1000]
    assert [parse_xml_list({"max-keys": text}).limit for text in ("", "0", "5", "5000")] == [1000, 0, 5, 1000]
    with pytest.raises(InvalidRequest):
        parse_xml_list({"encoding-type": "base64"})


def test_an_entrys_generation_is_the_objects() -> None:
    route = route_to(ListedOrigin([]))
    listed = ListedObject("x", 3, '"e"', 1_700_000_000.9)
    version = ObjectVersion("file:///shelf", "real-w", "x", 'etag "e"', 3)
    assert generation_of(route, listed) == derive_generation(version, 1_700_000_000)
    assert generation_of(route, ListedObject("x", 3, '"e"', 5.0, generation=77)) == 77


async def test_a_json_page_is_gcss() -> None:
    route = route_to(ListedOrigin(["a b", "d/1", "e"]))
    request = parse_json_list({"delimiter": "/", "maxResults": "2"})
    document: Any = json.loads(json.dumps(json_page(route, await list_page(route, request), "http://here")))
    assert document["kind"] == "storage#objects"
    assert document["prefixes"] == ["d/"]
    assert parse_page_token(document["nextPageToken"]) == "d/"
    (item,) = document["items"]
    assert (item["name"], item["bucket"], item["size"]) == ("a b", "w", "3")
    assert item["selfLink"] == "http://here/storage/v1/b/w/o/a%20b"
    assert item["updated"] == "1970-01-01T00:00:05.000Z"
    assert json_page(route, await list_page(route, ListRequest(prefix="none")), "http://here") == {
        "kind": "storage#objects"
    }


@pytest.mark.parametrize("second", [False, True])
async def test_an_xml_page_is_gcss_of_either_version(second: bool) -> None:
    route = route_to(ListedOrigin(["a b", "d/1", "e&"]))
    parameters = {"delimiter": "/", "max-keys": "2"} | ({"list-type": "2"} if second else {})
    request = parse_xml_list(parameters)
    root = ElementTree.fromstring(xml_page(route, request, parameters, await list_page(route, request)))
    texts = {node.tag.rpartition("}")[2]: node.text for node in root}
    assert root.tag == "{http://doc.s3.amazonaws.com/2006-03-01}ListBucketResult"
    assert (texts["Name"], texts["IsTruncated"], texts["MaxKeys"]) == ("w", "true", "2")
    if second:
        assert texts["KeyCount"] == "2"
        rest = {"list-type": "2", "continuation-token": texts["NextContinuationToken"] or ""}
    else:
        assert texts["NextMarker"] == "d/"
        rest = {"marker": "d/"}
    contents = root.find("{*}Contents")
    assert contents is not None
    assert contents.findtext("{*}Key") == "a b"
    assert int(contents.findtext("{*}Generation") or "") > 0
    request = parse_xml_list({"delimiter": "/", **rest})
    last = ElementTree.fromstring(xml_page(route, request, rest, await list_page(route, request)))
    assert [node.text for node in last.iterfind("{*}Contents/{*}Key")] == ["e&"]
    assert last.findtext("{*}IsTruncated") == "false"


def test_buckets_are_listed_as_xml() -> None:
    root = ElementTree.fromstring(xml_buckets([("b", 5.0), ("a", 0.0)]))
    assert [node.text for node in root.iterfind("{*}Buckets/{*}Bucket/{*}Name")] == ["a", "b"]
