"""What GCS's metadata says of an object becomes a record, with the headers of a download."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import parse_qs

import pytest

from proxy.errors import AccessDenied, InvalidRequest, NotFound, OriginUnavailable, WarmstartError
from proxy.objects import ObjectRecord, SumKind
from proxy.origin.gcs.record import RESOURCE_FIELDS, parse_time, read_resource
from proxy.ranges import ByteRange
from tests.fakes.scripted import Handler, ScriptedServer, answer, in_turn
from tests.origin.asking import NOW_S, Tokens, counted, gcs_origin
from tests.origin.gcs_answers import document, resource, said

RESOURCE = {
    "kind": "storage#object",
    "name": "weights",
    "generation": "1641528999530024",
    "metageneration": "3",
    "size": "11",
    "md5Hash": "XrY7u+Ae7tCTyyK7j1rNww==",
    "crc32c": "yZRlqg==",
    "contentType": "application/x-weights",
    "contentEncoding": "gzip",
    "contentLanguage": "de",
    "contentDisposition": "attachment",
    "cacheControl": "no-transform",
    "storageClass": "NEARLINE",
    "updated": "2022-01-07T04:16:39.530Z",
    "componentCount": 2,
    "customTime": "2020-01-01T00:00:00Z",
    "metadata": {"Colour": "blue", "word": "\u00fc", "bad name": "x", "lines": "a\r\nb: c"},
}
HEADERS = (
    ("etag", '"5eb63bbbe01eeed093cb22bb8f5acdc3"'),
    ("content-type", "application/x-weights"),
    ("content-encoding", "gzip"),
    ("content-language", "de"),
    ("content-disposition", "attachment"),
    ("cache-control", "no-transform"),
    ("x-goog-storage-class", "NEARLINE"),
    ("x-goog-component-count", "2"),
    ("x-goog-custom-time", "2020-01-01T00:00:00Z"),
    ("last-modified", "Fri, 07 Jan 2022 04:16:39 GMT"),
    ("x-goog-generation", "1641528999530024"),
    ("x-goog-metageneration", "3"),
    ("x-goog-stored-content-encoding", "gzip"),
    ("x-goog-stored-content-length", "11"),
    ("x-goog-hash", "crc32c=yZRlqg=="),
    ("x-goog-hash", "md5=XrY7u+Ae7tCTyyK7j1rNww=="),
    ("x-goog-meta-colour", "blue"),
    ("x-goog-meta-word", "\u00c3\u00bc"),
    ("x-goog-meta-lines", "a b: c"),
)


def record_of(**fields: Any) -> ObjectRecord:
    record = read_resource("gcs://h", "models", "weights", RESOURCE | fields, 1.0)
    assert record is not None
    return record


async def ask(handler: Handler, *, version_id: str | None = None) -> ObjectRecord:
    async with ScriptedServer(handler) as server, gcs_origin(server.url) as origin:
        return await origin.head("models", "a b/\u00fc", version_id)


async def fail(handler: Handler, *, version_id: str | None = None) -> WarmstartError:
    with pytest.raises(WarmstartError) as caught:
        await ask(handler, version_id=version_id)
    return caught.value


def test_a_resource_becomes_a_record_with_a_downloads_headers() -> None:
    record = record_of()
    assert record.version.validator == "generation 1641528999530024"
    assert (record.generation, record.size_bytes, record.checked_at_s) == (1641528999530024, 11, 1.0)
    assert record.etag == '"5eb63bbbe01eeed093cb22bb8f5acdc3"'
    assert record.md5 == hashlib.md5(b"hello world").hexdigest()
    assert record.sums == ((SumKind.CRC32C, 0xC99465AA),)
    assert record.last_modified_s == pytest.approx(1641528999.53)
    assert record.headers[:-1] == HEADERS
    name, resource = record.headers[-1]
    assert name == "x-warmstart-resource"
    assert json.loads(resource) == {field: RESOURCE[field] for field in RESOURCE_FIELDS.split(",") if field in RESOURCE}
    assert ("Colour", "blue") in record.user_metadata
    assert ("lines", "a\r\nb: c") in record.user_metadata
    assert record.cacheable


def test_a_composite_object_has_no_md5_and_an_etag_of_its_own() -> None:
    record = record_of(md5Hash=None)
    assert (record.md5, record.etag) == (None, '"-CKicn4fknvUCEAM="')
    assert record.strong_etag


def test_what_is_not_said_is_left_out_or_is_the_default() -> None:
    record = read_resource("gcs://h", "models", "weights", {"generation": "17", "size": "0"}, 1.0)
    assert record is not None
    assert (record.sums, record.last_modified_s, record.user_metadata) == ((), None, ())
    names = [name for name, _ in record.headers]
    assert "last-modified" not in names
    assert ("content-type", "application/octet-stream") in record.headers
    assert ("x-goog-stored-content-encoding", "identity") in record.headers


def test_an_object_under_the_customers_own_key_is_not_kept() -> None:
    assert not record_of(customerEncryption={"encryptionAlgorithm": "AES256"}).cacheable


@pytest.mark.parametrize(
    "fields",
    [
        {"generation": None},
        {"generation": "0"},
        {"generation": "-5"},
        {"size": "x"},
        {"size": None},
        {"size": "1" * 20},
    ],
)
def test_what_names_no_generation_or_size_is_no_resource(fields: dict[str, Any]) -> None:
    assert read_resource("gcs://h", "models", "weights", RESOURCE | fields, 1.0) is None


@pytest.mark.parametrize("value", ["", "yesterday", None, 5])
def test_a_time_that_is_none_is_not_guessed(value: object) -> None:
    assert parse_time(value) is None


async def test_metadata_is_asked_for_by_name_and_generation() -> None:
    async with ScriptedServer(document(**RESOURCE)) as server, gcs_origin(server.url, Tokens()) as origin:
        await origin.head("models", "a b/\u00fc", "23")
        record = await origin.head("models", "a b/\u00fc", "null")
        assert record.checked_at_s == NOW_S
        first, second = server.requests
        assert counted("origin_requests", origin.id, kind="head") == 2
    path, _, query = first.target.decode().partition("?")
    assert path == "/storage/v1/b/models/o/a%20b%2F%C3%BC"
    parameters = parse_qs(query)
    assert parameters["generation"] == ["23"]
    assert "md5Hash" in parameters["fields"][0]
    assert first.get("authorization") == "Bearer t1"
    assert b"generation=" not in second.target


async def test_what_is_missing_is_named() -> None:
    for handler, version_id, what in (
        (said(404, "notFound", "No such object: models/weights"), None, "key"),
        (said(404, "notFound", "The specified bucket does not exist."), None, "bucket"),
        (said(404, "notFound", "No such object: models/weights"), "23", "version"),
        (said(404, "notFound", "The specified bucket does not exist."), "23", "bucket"),
    ):
        error = await fail(handler, version_id=version_id)
        assert isinstance(error, NotFound)
        assert error.what == what


async def test_a_server_that_does_not_say_what_is_missing_is_asked_for_the_bucket() -> None:
    vague = said(404, "notFound", "Not Found")
    for answers, version_id, what in (
        ((vague, document(name="models")), None, "key"),
        ((vague, document(name="models")), "23", "version"),
        ((vague, said(403, "forbidden")), None, "key"),
        ((vague, vague), None, "bucket"),
    ):
        error = await fail(in_turn(*answers), version_id=version_id)
        assert isinstance(error, NotFound)
        assert error.what == what


@pytest.mark.parametrize("version_id", ["", "abc", "-1", "1" * 20, "\u0663"])
async def test_a_version_that_is_no_generation_does_not_exist(version_id: str) -> None:
    error = await fail(resource(), version_id=version_id)
    assert isinstance(error, NotFound)
    assert error.what == "version"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"{}", b'{"generation": "1"}', b"{" * 100_000])
async def test_a_document_that_makes_no_sense_is_unavailable(body: bytes) -> None:
    assert isinstance(await fail(answer(200, body)), OriginUnavailable)


async def test_a_refused_token_is_renewed_once() -> None:
    async with (
        ScriptedServer(in_turn(said(401, "authError"), resource())) as server,
        gcs_origin(server.url, Tokens()) as origin,
    ):
        assert (await origin.head("models", "weights")).generation == 17
        assert [request.get("authorization") for request in server.requests] == ["Bearer t1", "Bearer t2"]


async def test_who_may_not_look_is_told_why() -> None:
    error = await fail(said(401, "required", "Anonymous caller does not have storage.objects.get access"))
    assert isinstance(error, AccessDenied)
    assert "Anonymous caller" in str(error)


async def test_an_object_has_one_part() -> None:
    async with gcs_origin("http://127.0.0.1:9") as origin:
        record = record_of()
        assert (await origin.head_part(record, 1)).span == ByteRange(0, 11)
        with pytest.raises(InvalidRequest) as caught:
            await origin.head_part(record, 2)
    assert caught.value.code == "InvalidPartNumber"


async def test_a_name_that_is_no_unicode_is_refused() -> None:
    async with gcs_origin("http://127.0.0.1:9") as origin:
        with pytest.raises(InvalidRequest):
            await origin.head("models", "\ud800")
