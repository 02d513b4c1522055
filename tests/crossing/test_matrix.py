"""Every dialect over every origin: the same bytes, ranges and verdicts, the right headers, one copy."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import random
from base64 import b64encode
from xml.etree import ElementTree

import pytest

from tests.crossing.three_origins import BLOCK_BYTES, DIALECTS, ORIGINS, Crossing

BIG = random.Random(11).randbytes(3 * BLOCK_BYTES + 77)
PACKED = gzip.compress(b"packed " * 50_000, mtime=0)
PLAIN_KEYS = ["a b+c%20.bin", "é/✓🚀", "~!*'()", "q?x#y", "deep/er/still"]
AWKWARD_KEYS = ["//double", "/lead", "../up", "a/../b", "./here", "tail/"]  # no file can be called so

matrix = pytest.mark.parametrize(("dialect", "origin"), list(itertools.product(DIALECTS, ORIGINS)))


@pytest.fixture(scope="module", autouse=True)
def objects(crossing: Crossing) -> None:
    for origin in ORIGINS:
        crossing.put(origin, "big.bin", BIG, metadata={"colour": "blue"})
        crossing.put(origin, "empty", b"")
        for key in PLAIN_KEYS + (AWKWARD_KEYS if origin != "shelf" else []):
            crossing.put(origin, "odd/" + key, key.encode())
        if origin != "shelf":
            crossing.put(origin, "packed", PACKED, gzip=True)


@pytest.mark.parametrize("order", list(itertools.permutations(DIALECTS)), ids="-".join)
@pytest.mark.parametrize("origin", ORIGINS)
def test_one_copy_is_kept_whichever_dialect_asks_first(crossing: Crossing, origin: str, order: tuple[str, ...]) -> None:
    key, data = "copies/" + "-".join(order), BIG[:-5]
    crossing.put(origin, key, data)
    before = crossing.origin_bytes()
    for place, dialect in enumerate(order):
        found = crossing.read(dialect, origin, key)
        assert (found.status, found.body) == (200, data)
        assert found.headers["x-cache"] == ("HIT" if place else "MISS")
    assert crossing.origin_bytes() - before == len(data)


@matrix
def test_a_whole_object_has_its_dialects_headers(crossing: Crossing, dialect: str, origin: str) -> None:
    for _ in range(2):
        found = crossing.read(dialect, origin, "big.bin")
        assert (found.status, found.body) == (200, BIG)
        headers = found.headers
        assert headers["content-length"] == str(len(BIG))
        assert headers["accept-ranges"] == "bytes"
        assert "last-modified" in headers
        if dialect == "s3":
            assert not [name for name in headers if name.startswith("x-goog-")]
            assert headers["x-amz-request-id"]
        else:
            assert not [name for name in headers if name.startswith("x-amz-")]
            assert headers["x-guploader-uploadid"]
            assert 0 < int(headers["x-goog-generation"]) < 1 << 63
            assert int(headers["x-goog-metageneration"]) == 1
            assert headers["x-goog-stored-content-encoding"] == "identity"
            assert headers["x-goog-stored-content-length"] == str(len(BIG))
            assert headers["x-goog-storage-class"] == "STANDARD"
        if dialect != "s3" and origin != "shelf":
            assert f"md5={b64encode(hashlib.md5(BIG).digest()).decode()}" in headers["x-goog-hash"]
        if origin != "shelf":
            family = "x-amz-meta-" if dialect == "s3" else "x-goog-meta-"
            assert headers[family + "colour"] == "blue"
            if dialect != "json":
                assert headers["etag"] == f'"{hashlib.md5(BIG).hexdigest()}"'


@matrix
def test_a_head_tells_what_a_get_would(crossing: Crossing, dialect: str, origin: str) -> None:
    found, got = crossing.read(dialect, origin, "big.bin", "HEAD"), crossing.read(dialect, origin, "big.bin")
    assert (found.status, found.body) == (200, b"")
    changing = {"date", "x-cache", "x-guploader-uploadid", "x-amz-request-id", "x-amz-id-2"}
    assert {k: v for k, v in found.headers.items() if k not in changing} == {
        k: v for k, v in got.headers.items() if k not in changing
    }


@matrix
def test_ranges_are_exact(crossing: Crossing, dialect: str, origin: str) -> None:
    size = len(BIG)
    for asked, start, end in (
        ("0-0", 0, 1),
        (f"{BLOCK_BYTES - 1}-{BLOCK_BYTES}", BLOCK_BYTES - 1, BLOCK_BYTES + 1),
        ("100-", 100, size),
        ("-7", size - 7, size),
        (f"5-{10 * size}", 5, size),
    ):
        found = crossing.read(dialect, origin, "big.bin", range=f"bytes={asked}")
        assert (found.status, found.body) == (206, BIG[start:end])
        assert found.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert found.headers["content-length"] == str(end - start)
    beyond = crossing.read(dialect, origin, "big.bin", range=f"bytes={size}-")
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    whole = crossing.read(dialect, origin, "big.bin", range="bytes=9-3")
    assert (whole.status, whole.body) == (200, BIG)


@matrix
def test_conditions_hold_or_not(crossing: Crossing, dialect: str, origin: str) -> None:
    known = crossing.read(dialect, origin, "big.bin", "HEAD").headers
    etag, modified = known["etag"], known["last-modified"]
    for headers, status in (
        ({"If_Match": etag}, 206),
        ({"If_Match": '"other"'}, 412),
        ({"If_None_Match": etag}, 304),
        ({"If_None_Match": '"other"'}, 206),
        ({"If_Modified_Since": modified}, 304),
        ({"If_Unmodified_Since": modified}, 206),
        ({"If_Unmodified_Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 412),
    ):
        found = crossing.read(dialect, origin, "big.bin", range="bytes=3-5", **headers)
        assert found.status == status, headers
        assert found.body == (BIG[3:6] if status == 206 else found.body if status == 412 else b"")


@pytest.mark.parametrize("origin", ORIGINS)
def test_generations_pin_and_decide(crossing: Crossing, origin: str) -> None:
    generation = int(crossing.read("json", origin, "big.bin", "HEAD").headers["x-goog-generation"])
    for query, status in (
        (f"generation={generation}", 206),
        (f"generation={generation + 1}", 404),
        (f"ifGenerationMatch={generation}", 206),
        (f"ifGenerationMatch={generation + 1}", 412),
        (f"ifGenerationNotMatch={generation}", 304),
        (f"ifGenerationNotMatch={generation + 1}", 206),
        ("ifMetagenerationMatch=1", 206),
        ("ifMetagenerationMatch=2", 412),
        ("ifMetagenerationNotMatch=1", 304),
        ("ifMetagenerationNotMatch=2", 206),
    ):
        assert crossing.read("json", origin, "big.bin", query=query, range="bytes=0-9").status == status, query
    for number, status in ((generation, 206), (generation + 1, 412)):
        named = {"x_goog_if_generation_match": str(number)}
        assert crossing.read("xml", origin, "big.bin", range="bytes=0-9", **named).status == status
    pinned = crossing.read("xml", origin, "big.bin", query=f"generation={generation}")
    assert (pinned.status, pinned.body) == (200, BIG)
    listed = crossing.ask("GET", f"/storage/v1/b/{origin}/o?prefix=big.bin").json()["items"]
    assert [item["generation"] for item in listed] == [str(generation)]


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_resource_tells_what_the_headers_tell(crossing: Crossing, origin: str) -> None:
    headers = crossing.read("json", origin, "big.bin", "HEAD").headers
    found = crossing.resource(origin, "big.bin")
    resource, host = found.json(), crossing.gateway.url
    assert found.headers["content-type"] == "application/json; charset=UTF-8"
    assert resource["kind"] == "storage#object"
    assert (resource["bucket"], resource["name"], resource["size"]) == (origin, "big.bin", str(len(BIG)))
    assert resource["generation"] == headers["x-goog-generation"]
    assert resource["etag"] == headers["etag"] == found.headers["etag"]
    assert resource["id"] == f"{origin}/big.bin/{resource['generation']}"
    assert resource["selfLink"] == f"{host}/storage/v1/b/{origin}/o/big.bin"
    media = resource["mediaLink"]
    assert media.startswith(f"{host}/download/storage/v1/b/{origin}/o/big.bin?")
    assert crossing.ask("GET", media.removeprefix(host)).body == BIG
    if origin != "shelf":
        assert resource["metadata"] == {"colour": "blue"}
        assert f"md5={resource['md5Hash']}" in headers["x-goog-hash"]
        assert f"crc32c={resource['crc32c']}" in headers["x-goog-hash"]


@matrix
def test_odd_keys_are_byte_exact_cold_and_hot(crossing: Crossing, dialect: str, origin: str) -> None:
    for key in PLAIN_KEYS + AWKWARD_KEYS:
        for _ in range(2):
            found = crossing.read(dialect, origin, "odd/" + key)
            if key in AWKWARD_KEYS and origin == "shelf":
                assert found.status == 404
            else:
                assert (found.status, found.body) == (200, key.encode()), key


@matrix
def test_zero_bytes_are_an_object(crossing: Crossing, dialect: str, origin: str) -> None:
    for _ in range(2):
        found = crossing.read(dialect, origin, "empty")
        assert (found.status, found.body, found.headers["content-length"]) == (200, b"", "0")
        assert crossing.read(dialect, origin, "empty", range="bytes=0-9").status == 416


@pytest.mark.parametrize("origin", ["moto", "goog"])
def test_gzip_is_stored_for_s3_and_unpacked_for_gcs(crossing: Crossing, origin: str) -> None:
    stored = crossing.read("s3", origin, "packed")
    assert (stored.body, stored.headers["content-encoding"]) == (PACKED, "gzip")
    for dialect in ("json", "xml"):
        kept = crossing.read(dialect, origin, "packed", Accept_Encoding="gzip, deflate")
        assert (kept.status, kept.body, kept.headers["content-encoding"]) == (200, PACKED, "gzip")
        part = crossing.read(dialect, origin, "packed", Accept_Encoding="gzip", range="bytes=2-9")
        assert (part.status, part.body) == (206, PACKED[2:10])
        for asked in ({}, {"range": "bytes=2-9"}, {"range": "bytes=99999999-"}):
            loose = crossing.read(dialect, origin, "packed", **asked)
            assert (loose.status, loose.body) == (200, gzip.decompress(PACKED))
            assert not {"content-encoding", "content-length", "content-range"} & loose.headers.keys()
            assert loose.headers["x-goog-stored-content-encoding"] == "gzip"
            assert loose.headers["x-goog-stored-content-length"] == str(len(PACKED))
            assert f"md5={b64encode(hashlib.md5(PACKED).digest()).decode()}" in loose.headers["x-goog-hash"]
            assert loose.headers["x-cache"] == "HIT"


@pytest.mark.parametrize("origin", ORIGINS)
def test_listings_name_the_same_objects(crossing: Crossing, origin: str) -> None:
    for key in ("a", "b/1", "b/2", "c d", "é"):
        crossing.put(origin, "listing/" + key, key.encode())
    expected = ["listing/a", "listing/b/", "listing/c d", "listing/é"]
    names = [*expected[:1], *expected[2:]]

    def xml_names(body: bytes, path: str) -> list[str]:
        root = ElementTree.fromstring(body)
        return [node.text or "" for node in root.iterfind(path)]

    query = "?prefix=listing/&delimiter=/"
    signed = {"Authorization": "AWS x:y"}
    s3 = crossing.ask("GET", f"/{origin}{query}&list-type=2", signed).body
    found = [xml_names(s3, "{*}Contents/{*}Key"), xml_names(s3, "{*}CommonPrefixes/{*}Prefix")]
    assert found == [names, ["listing/b/"]]
    goog = crossing.ask("GET", f"/{origin}{query}", {"Authorization": "Bearer x"}).body
    found = [xml_names(goog, "{*}Contents/{*}Key"), xml_names(goog, "{*}CommonPrefixes/{*}Prefix")]
    assert found == [names, ["listing/b/"]]
    document = crossing.ask("GET", f"/storage/v1/b/{origin}/o{query}").json()
    assert [item["name"] for item in document["items"]] == names
    assert document["prefixes"] == ["listing/b/"]
    assert {item["bucket"] for item in document["items"]} == {origin}
    assert all(item["mediaLink"].startswith(crossing.gateway.url) for item in document["items"])


@matrix
def test_what_is_missing_is_told_in_the_dialect(crossing: Crossing, dialect: str, origin: str) -> None:
    found = crossing.read(dialect, origin, "not/there")
    assert found.status == 404
    if dialect == "json":
        error = found.json()["error"]
        assert (error["code"], error["errors"][0]["reason"]) == (404, "notFound")
        assert error["message"] == f"No such object: {origin}/not/there"
    else:
        root = ElementTree.fromstring(found.body)
        assert (root.tag, root.findtext("Code")) == ("Error", "NoSuchKey")
        assert (root.find("Details") is not None) == (dialect == "xml")


@pytest.mark.parametrize("origin", ["moto", "goog"])
@pytest.mark.parametrize("dialect", ["json", "xml"])
def test_the_first_answer_tells_the_checksums_of_the_whole(crossing: Crossing, dialect: str, origin: str) -> None:
    key = f"summed-{dialect}"
    crossing.put(origin, key, BIG)
    for _ in range(2):
        found = crossing.read(dialect, origin, key)
        assert found.body == BIG
        assert {item.strip().partition("=")[0] for item in found.headers["x-goog-hash"].split(",")} == {"crc32c", "md5"}
