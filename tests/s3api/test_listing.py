"""Listings as S3 writes them; paging brings every name once."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import InvalidRequest
from proxy.gateway.answers import ListedObject, ListPage
from proxy.origin.directory import DirectoryOrigin
from proxy.surface.page_tokens import render_page_token
from s3api.listing import (
    ListRequest,
    parse_list_request,
    parse_token,
    render_buckets,
    render_list,
    render_location,
)

S3 = "{http://s3.amazonaws.com/doc/2006-03-01/}"
OBJECT = ListedObject("a/ü&<1>", 12, '"abc"', 1_700_000_000.5)


def parse(body: bytes) -> ElementTree.Element:
    root = ElementTree.fromstring(body)
    assert root.tag.startswith(S3)
    return root


def texts(root: ElementTree.Element, path: str) -> list[str]:
    return [found.text or "" for found in root.findall("/".join(S3 + part for part in path.split("/")))]


def test_version_2_has_its_fields() -> None:
    request = parse_list_request("models", {"list-type": "2", "prefix": "a/", "delimiter": "/", "start-after": "a"})
    root = parse(render_list(request, ListPage((OBJECT,), ("a/b/",), "a/b/")))
    assert root.tag == S3 + "ListBucketResult"
    assert texts(root, "Name") == ["models"]
    assert texts(root, "Prefix") == ["a/"]
    assert texts(root, "Delimiter") == ["/"]
    assert texts(root, "StartAfter") == ["a"]
    assert texts(root, "MaxKeys") == ["1000"]
    assert texts(root, "KeyCount") == ["2"]
    assert texts(root, "IsTruncated") == ["true"]
    assert parse_token(texts(root, "NextContinuationToken")[0]) == "a/b/"
    assert texts(root, "Contents/Key") == ["a/ü&<1>"]
    assert texts(root, "Contents/Size") == ["12"]
    assert texts(root, "Contents/ETag") == ['"abc"']
    assert texts(root, "Contents/LastModified") == ["2023-11-14T22:13:20.500Z"]
    assert texts(root, "Contents/StorageClass") == ["STANDARD"]
    assert texts(root, "CommonPrefixes/Prefix") == ["a/b/"]
    assert texts(root, "Contents/Owner/ID") == []
    assert texts(root, "Marker") == []
    assert texts(root, "EncodingType") == []


def test_version_1_has_its_fields() -> None:
    request = parse_list_request("models", {"marker": "a", "delimiter": "/"})
    root = parse(render_list(request, ListPage((OBJECT,), (), "a/ü")))
    assert texts(root, "Marker") == ["a"]
    assert texts(root, "NextMarker") == ["a/ü"]
    assert texts(root, "Contents/Owner/ID") == ["warmstart"]
    assert texts(root, "KeyCount") == []
    assert texts(root, "NextContinuationToken") == []


def test_next_marker_comes_only_with_a_delimiter() -> None:
    root = parse(render_list(ListRequest("models"), ListPage((OBJECT,), (), "a")))
    assert texts(root, "IsTruncated") == ["true"]
    assert texts(root, "NextMarker") == []


def test_owners_are_fetched_on_demand() -> None:
    request = parse_list_request("models", {"list-type": "2", "fetch-owner": "true"})
    assert texts(parse(render_list(request, ListPage((OBJECT,), (), None))), "Contents/Owner/ID") == ["warmstart"]


def test_last_page_is_not_truncated() -> None:
    for parameters in ({}, {"list-type": "2"}):
        root = parse(render_list(parse_list_request("models", parameters), ListPage((), (), None)))
        assert texts(root, "IsTruncated") == ["false"]
        assert texts(root, "NextContinuationToken") == []


def test_no_keys_asked_for_is_an_end() -> None:
    request = parse_list_request("models", {"list-type": "2", "max-keys": "0"})
    root = parse(render_list(request, ListPage((), (), "a")))
    assert request.max_keys == 0
    assert texts(root, "IsTruncated") == ["false"]


@pytest.mark.parametrize(("value", "expected"), [("", 1000), ("1", 1), ("1000", 1000), ("1001", 1000)])
def test_max_keys_is_at_most_a_thousand(value: str, expected: int) -> None:
    assert parse_list_request("models", {"max-keys": value}).max_keys == expected


@pytest.mark.parametrize(
    "parameters",
    [
        {"max-keys": "-1"},
        {"max-keys": "x"},
        {"max-keys": "1.0"},
        {"max-keys": "2147483648"},
        {"max-keys": "٣"},
        {"encoding-type": "base64"},
        {"list-type": "2", "continuation-token": ""},
        {"list-type": "2", "continuation-token": "a"},
        {"list-type": "2", "continuation-token": "é"},
        {"list-type": "2", "continuation-token": "1ueGcxLPRx1Tr/XYExHnhbYLgveDs2J/wm36Hy4vbOwM="},
        {"list-type": "2", "continuation-token": render_page_token("a")[:-4] + "AAAA"},
        {"list-type": "2", "continuation-token": render_page_token("")},
    ],
)
def test_bad_parameters_are_invalid_arguments(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_list_request("models", parameters)
    assert caught.value.code == "InvalidArgument"


def test_token_beats_start_after_and_is_repeated() -> None:
    token = render_page_token("m")
    request = parse_list_request("models", {"list-type": "2", "start-after": "a", "continuation-token": token})
    assert request.after == "m"
    root = parse(render_list(request, ListPage((), (), None)))
    assert texts(root, "ContinuationToken") == [token]
    assert texts(root, "StartAfter") == ["a"]


@given(place=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_token_brings_any_place_back(place: str) -> None:
    assert parse_token(render_page_token(place)) == place


def test_url_encoding_is_decoded_by_any_decoder() -> None:
    key = "a b+c%/é\x01&"
    request = parse_list_request(
        "models", {"encoding-type": "url", "prefix": "a b", "delimiter": "+", "marker": "\x02"}
    )
    page = ListPage((ListedObject(key, 0, '"e"', 0.0),), ("a b+",), "a b+")
    root = parse(render_list(request, page))
    assert texts(root, "EncodingType") == ["url"]
    assert texts(root, "Contents/Key") == ["a%20b%2Bc%25/%C3%A9%01%26"]
    assert unquote(texts(root, "Contents/Key")[0]) == key
    assert texts(root, "Prefix") == ["a%20b"]
    assert texts(root, "Delimiter") == ["%2B"]
    assert texts(root, "Marker") == ["%02"]
    assert texts(root, "NextMarker") == ["a%20b%2B"]
    assert texts(root, "CommonPrefixes/Prefix") == ["a%20b%2B"]


def test_key_that_xml_cannot_hold_leaves_the_page_readable() -> None:
    page = ListPage((ListedObject("a\x01b", 0, '"e"', 0.0), ListedObject("c\r", 0, '"e"', 0.0)), (), None)
    assert texts(parse(render_list(ListRequest("models"), page)), "Contents/Key") == ["a\ufffdb", "c\r"]


def test_buckets_are_listed_by_name() -> None:
    root = parse(render_buckets([("zeta", 0.0), ("alpha", 1.25)]))
    assert root.tag == S3 + "ListAllMyBucketsResult"
    assert texts(root, "Buckets/Bucket/Name") == ["alpha", "zeta"]
    assert texts(root, "Buckets/Bucket/CreationDate") == ["1970-01-01T00:00:01.250Z", "1970-01-01T00:00:00.000Z"]
    assert texts(root, "Owner/ID") == ["warmstart"]


def test_location_is_the_empty_one() -> None:
    root = parse(render_location())
    assert root.tag == S3 + "LocationConstraint"
    assert not root.text


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("delimiter", ["", "/"])
@pytest.mark.parametrize("max_keys", [1, 2, 3, 1000])
async def test_pages_of_a_directory_bring_every_name_once(
    tmp_path: Path, version: int, delimiter: str, max_keys: int
) -> None:
    keys = ["a", "a b", "a/1", "a/2", "a/b/3", "a+", "a0", "b/x", "z"]
    for key in keys:
        path = tmp_path / "models" / key if key not in ("a", "b") else tmp_path / "models" / (key + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    keys[0] = "a.txt"
    origin = DirectoryOrigin(tmp_path)
    parameters = {"delimiter": delimiter, "max-keys": str(max_keys)} | ({"list-type": "2"} if version == 2 else {})
    names: list[str] = []
    while True:
        request = parse_list_request("models", parameters)
        page = await origin.list_objects(
            "models", prefix="", delimiter=delimiter, after=request.after, limit=request.max_keys
        )
        root = parse(render_list(request, page))
        here = texts(root, "Contents/Key") + texts(root, "CommonPrefixes/Prefix")
        assert 0 < len(here) <= max_keys
        names += sorted(here)
        if texts(root, "IsTruncated") == ["false"]:
            break
        if version == 2:
            parameters["continuation-token"] = texts(root, "NextContinuationToken")[0]
        else:
            parameters["marker"] = texts(root, "NextMarker")[0] if delimiter else texts(root, "Contents/Key")[-1]
    await origin.aclose()
    expected = {key.partition("/")[0] + "/" if "/" in key and delimiter else key for key in keys}
    assert names == sorted(expected)
