"""Heads become operations: what is read from the cache, what passes, what is written, and what is nonsense."""

from __future__ import annotations

import pytest

from gcsapi.passing import upload_kind
from gcsapi.requests import Api, api_of
from proxy.conditions import GenerationConditions
from proxy.errors import InvalidRequest
from proxy.objects import ObjectName
from proxy.ranges import RangeRequest
from tests.gcsapi.heads import parse, passed, read

OBJECT = "/storage/v1/b/w/o/a%2Fb"


@pytest.mark.parametrize("target", [OBJECT + "?alt=media", "/download" + OBJECT + "?alt=media", "/download" + OBJECT])
def test_media_is_read_with_its_range(target: str) -> None:
    found = read("GET", target, range="bytes=1-2")
    assert (found.operation, found.api, found.media) == ("storage.objects.get", Api.JSON, True)
    assert found.request.name == ObjectName("w", "a/b")
    assert (found.request.range, found.request.head_only) == (RangeRequest(1, 2), False)


@pytest.mark.parametrize("query", ["", "?alt=json", "?projection=noAcl&prettyPrint=false&userProject=p&unknown=1"])
def test_a_resource_is_read_without_the_bytes(query: str) -> None:
    found = read("GET", OBJECT + query, range="bytes=1-2")
    assert (found.media, found.request.head_only, found.request.range) == (False, True, None)


def test_generations_and_entity_tags_are_conditions() -> None:
    query = (
        "?generation=5&ifGenerationMatch=5&ifGenerationNotMatch=6&ifMetagenerationMatch=1&ifMetagenerationNotMatch=2"
    )
    found = read("GET", OBJECT + query, if_match="CAE=", if_none_match="CAI=")
    assert found.pin == 5
    assert found.request.conditions.if_match is None
    assert found.request.conditions.generations == GenerationConditions(5, 5, 6, 1, 2, "CAE=", "CAI=")
    xml = read("GET", "/w/x?generation=7", x_goog_if_generation_match="7", x_goog_if_metageneration_match="1")
    assert xml.request.conditions.generations == GenerationConditions(7, 7, None, 1)
    assert read("GET", "/w/x", if_match='"e"').request.conditions.if_match == '"e"'


@pytest.mark.parametrize(
    ("target", "headers", "code"),
    [
        (OBJECT + "?alt=xml", {}, "invalidAltValue"),
        ("/storage/v1/b/w/o?alt=proto", {}, "invalidAltValue"),
        (OBJECT + "?generation=x", {}, "invalid"),
        (OBJECT + "?generation=", {}, "invalid"),
        (OBJECT + "?generation=-1", {}, "invalid"),
        (OBJECT + f"?generation={1 << 63}", {}, "invalid"),
        (OBJECT + "?generation=\u0665", {}, "invalid"),
        (OBJECT + "?ifGenerationMatch=1.5", {}, "invalid"),
        (OBJECT + "?ifMetagenerationNotMatch=one", {}, "invalid"),
        ("/w/x?generation=abc", {}, "invalid"),
        ("/w/x", {"x_goog_if_generation_match": "abc"}, "invalid"),
        ("/w/x?response-content-type=a%0Ab", {}, "InvalidArgument"),
        (OBJECT + "?alt=%zz", {}, "InvalidURI"),
    ],
)
def test_nonsense_is_refused(target: str, headers: dict[str, str], code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("GET", target, **headers)
    assert caught.value.code == code


def test_tokens_and_signatures_are_no_part_of_an_operation() -> None:
    found = passed("GET", "/storage/v1/b/w/o?prefix=p&access_token=t&key=k", authorization="Bearer t", x_goog_date="d")
    assert found.query == (("prefix", "p"),)
    assert not {"authorization", "x-goog-date", "host"} & {name for name, _ in found.headers}
    signed = "?X-Goog-Algorithm=a&X-Goog-Credential=c&X-Goog-Date=d"
    signed += "&X-Goog-Expires=9&X-Goog-SignedHeaders=host&X-Goog-Signature=s"
    assert read("GET", "/w/x" + signed).request == read("GET", "/w/x").request
    assert passed("GET", "/w?prefix=p&GoogleAccessId=a&Expires=1&Signature=s").query == (("prefix", "p"),)
    assert passed("GET", "/w?key=k").query == (("key", "k"),)  # no credential in the XML API


@pytest.mark.parametrize("value", ["gzip", "deflate, gzip", "GZIP;q=0.5", "br;q=1.0, gzip;q=0.8"])
def test_gzip_is_accepted(value: str) -> None:
    assert read("GET", "/w/x", accept_encoding=value).accepts_gzip


@pytest.mark.parametrize("value", ["", "identity", "gzip;q=0", "gzip; q=0.000", "x-gzipped", "*"])
def test_gzip_is_not_accepted(value: str) -> None:
    assert not read("GET", "/w/x", accept_encoding=value).accepts_gzip


def test_no_cache_is_a_wish_and_no_transform_is_none() -> None:
    assert read("GET", "/w/x", cache_control="no-cache").request.revalidate
    assert not read("GET", "/w/x", cache_control="no-transform").request.revalidate


@pytest.mark.parametrize(
    ("target", "headers", "media"),
    [
        (OBJECT + "?projection=full", {}, False),
        (OBJECT + "?softDeleted=true&alt=media", {}, True),
        ("/w/x", {"origin": "https://page"}, True),
    ],
)
def test_what_only_gcs_can_answer_passes_there_and_is_a_read_elsewhere(
    target: str, headers: dict[str, str], media: bool
) -> None:
    found = passed("GET", target, **headers)
    assert (found.media, found.instead is not None) == (media, True)


@pytest.mark.parametrize(
    ("target", "headers", "media"),
    [
        (OBJECT + "?alt=media", {"x_goog_encryption_key": "k"}, True),
        (OBJECT, {"x_goog_encryption_key": "k"}, False),
        ("/w/x", {"x_goog_encryption_algorithm": "AES256"}, True),
    ],
)
def test_a_read_with_the_customers_own_key_is_for_gcs_alone(target: str, headers: dict[str, str], media: bool) -> None:
    found = passed("GET", target, **headers)
    assert (found.media, found.instead) == (media, None)


@pytest.mark.parametrize(
    ("method", "target", "operation"),
    [
        ("GET", "/storage/v1/b", "storage.buckets.list"),
        ("POST", "/storage/v1/b", "storage.buckets.insert"),
        ("GET", "/storage/v1/b/w", "storage.buckets.get"),
        ("DELETE", "/storage/v1/b/w", "storage.buckets.delete"),
        ("GET", "/storage/v1/b/w/o", "storage.objects.list"),
        ("POST", "/storage/v1/b/w/o", "storage.objects.insert"),
        ("PUT", "/upload/storage/v1/b/w/o?upload_id=x", "storage.objects.insert"),
        ("PATCH", OBJECT, "storage.objects.patch"),
        ("PUT", OBJECT, "storage.objects.update"),
        ("POST", OBJECT + "/compose", "storage.objects.compose"),
        ("POST", OBJECT + "/rewriteTo/b/v/o/y", "storage.objects.rewrite"),
        ("POST", OBJECT + "/moveTo/o/y", "storage.objects.move"),
        ("GET", OBJECT + "/acl/allUsers", "storage.objects.acl.get"),
        ("PUT", "/storage/v1/b/w/iam", "storage.buckets.iam.update"),
        ("GET", "/storage/v1/projects/p/serviceAccount", "storage.projects"),
        ("POST", "/batch", "storage.batch"),
        ("GET", "/w", "storage.objects.list"),
        ("HEAD", "/w", "storage.buckets.get"),
        ("GET", "/w?acl", "storage.buckets.acl.get"),
        ("GET", "/w/x?acl", "storage.objects.acl.get"),
        ("PUT", "/w/x", "storage.objects.insert"),
        ("POST", "/w/x?uploads", "storage.objects.uploads.insert"),
        ("DELETE", "/w/x", "storage.objects.delete"),
        ("GET", "/", "storage.buckets.list"),
    ],
)
def test_everything_else_passes_under_its_name(method: str, target: str, operation: str) -> None:
    assert passed(method, target).operation == operation


def test_the_method_may_be_overridden_by_a_header() -> None:
    found = passed("POST", OBJECT, x_http_method_override="PATCH")
    assert (found.method, found.operation) == ("PATCH", "storage.objects.patch")
    assert found.header("x-http-method-override") is None


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "LOCK", "get", ""])
def test_methods_that_gcs_does_not_know_are_refused(method: str) -> None:
    for target in (OBJECT, "/storage/v1/b", "/w/x"):
        with pytest.raises(InvalidRequest, match="not allowed"):
            parse(method, target)
        with pytest.raises(InvalidRequest, match="not allowed"):
            parse("POST", target, x_http_method_override=f"X{method}")


@pytest.mark.parametrize(
    ("method", "target", "written"),
    [
        ("PATCH", OBJECT, {("w", "a/b", None), ("w", "a/b", "null")}),
        ("DELETE", OBJECT + "?generation=5", {("w", "a/b", None), ("w", "a/b", "null"), ("w", "a/b", "5")}),
        ("POST", OBJECT + "/acl", {("w", "a/b", None), ("w", "a/b", "null")}),
        ("POST", OBJECT + "/compose", {("w", "a/b", None), ("w", "a/b", "null")}),
        ("POST", OBJECT + "/rewriteTo/b/v/o/y", {("v", "y", None), ("v", "y", "null")}),
        ("POST", OBJECT + "/copyTo/b/v/o/y", {("v", "y", None), ("v", "y", "null")}),
        (
            "POST",
            OBJECT + "/moveTo/o/y",
            {("w", "a/b", None), ("w", "a/b", "null"), ("w", "y", None), ("w", "y", "null")},
        ),
        ("GET", OBJECT + "/acl", set()),
        ("POST", "/storage/v1/b/w/o", set()),
        ("PUT", "/w/x", {("w", "x", None), ("w", "x", "null")}),
        ("DELETE", "/w/x", {("w", "x", None), ("w", "x", "null")}),
        ("POST", "/w/x?uploads", set()),
        ("PUT", "/w/x?uploadId=1&partNumber=1", set()),
        ("POST", "/w/x?uploadId=1", {("w", "x", None), ("w", "x", "null")}),
    ],
)
def test_writes_say_what_they_write(method: str, target: str, written: set[tuple[str, str, str | None]]) -> None:
    found = passed(method, target)
    assert {(name.bucket, name.key, name.version_id) for name in found.written} == written
    assert found.mutates is (method != "GET")


@pytest.mark.parametrize(
    ("target", "content_type", "kind"),
    [
        ("/upload/storage/v1/b/w/o?uploadType=media&name=n", "text/plain", "media"),
        ("/upload/storage/v1/b/w/o?uploadType=multipart", "multipart/related; boundary=x", "multipart"),
        ("/upload/storage/v1/b/w/o?uploadType=resumable", "application/json", "resumable"),
        ("/upload/storage/v1/b/w/o?uploadType=resumable&upload_id=5", "text/plain", "session"),
        ("/upload/storage/v1/b/w/o?name=n", "text/plain", "media"),
        ("/upload/storage/v1/b/w/o", "multipart/related; boundary=x", "multipart"),
        ("/storage/v1/b/w/o", "application/json", "plain"),
    ],
)
def test_uploads_are_told_apart(target: str, content_type: str, kind: str) -> None:
    assert upload_kind(passed("POST", target, content_type=content_type)) == kind


def test_an_unknown_kind_of_upload_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        upload_kind(passed("POST", "/upload/storage/v1/b/w/o?uploadType=pigeon"))


@pytest.mark.parametrize(
    ("target", "api"),
    [
        (b"/storage/v1/b/w/o/x", Api.JSON),
        (b"/storage/v1/b/w%20/o/%ff", Api.JSON),
        (b"http://h/storage/v1/b", Api.JSON),
        (b"/w/x", Api.XML),
        (b"/storage/x", Api.XML),
        (b"nonsense", Api.XML),
    ],
)
def test_the_api_is_known_however_wrong_the_target_is(target: bytes, api: Api) -> None:
    assert api_of(target) is api
