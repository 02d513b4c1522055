"""From heads to reads: which requests the cache answers, and what of them counts."""

from __future__ import annotations

import pytest

from proxy.conditions import Conditions
from proxy.errors import InvalidRequest
from proxy.objects import ObjectName
from proxy.ranges import RangeRequest
from s3api.requests import Read, parse_request
from tests.s3api.heads import parse, read


def test_plain_get_reads_the_object() -> None:
    operation = read("GET", "/models/a/b")
    assert operation.operation == "GetObject"
    assert operation.request.name == ObjectName("models", "a/b")
    assert not operation.request.head_only
    assert operation.request.range is None
    assert operation.request.conditions == Conditions()
    assert not operation.wants_checksum
    assert not operation.request.revalidate


def test_head_reads_the_head_only() -> None:
    operation = read("HEAD", "/models/a", range="bytes=0-9")
    assert operation.operation == "HeadObject"
    assert operation.request.head_only
    assert operation.request.range == RangeRequest(0, 9)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-99", RangeRequest(0, 99)),
        ("bytes=100-", RangeRequest(100, None)),
        ("bytes=-5", RangeRequest(None, 5)),
        ("bytes=0-18446744073709551616", RangeRequest(0, 1 << 64)),
        ("bytes=5-4", None),
        ("bytes=0-1,3-4", None),
        ("bytes=", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
        ("0-1", None),
    ],
)
def test_single_ranges_count_and_all_others_mean_the_whole_object(header: str, expected: RangeRequest | None) -> None:
    assert read("GET", "/models/a", range=header).request.range == expected


def test_conditions_are_handed_on_raw() -> None:
    operation = read(
        "GET",
        "/models/a",
        if_match='"1"',
        if_none_match='"2", W/"3"',
        if_modified_since="Thu, 01 Jan 1970 00:00:01 GMT",
        if_unmodified_since="nonsense",
        if_range='"4"',
    )
    assert operation.request.conditions == Conditions(
        '"1"', '"2", W/"3"', "Thu, 01 Jan 1970 00:00:01 GMT", "nonsense", '"4"'
    )


def test_repeated_condition_headers_are_one_list() -> None:
    raw = [(b"if-none-match", b'"1"'), (b"if-none-match", b'"2"')]
    operation = parse_request("GET", b"/models/a", raw)
    assert isinstance(operation, Read)
    assert operation.request.conditions.if_none_match == '"1", "2"'


@pytest.mark.parametrize(
    "target",
    [
        "/models/a?x-id=GetObject",
        "/models/a?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=c&X-Amz-Date=d&X-Amz-Expires=60"
        "&X-Amz-SignedHeaders=host&X-Amz-Signature=s&X-Amz-Security-Token=t&x-id=GetObject",
        "/models/a?X-Amz-Algorithm=AWS4-ECDSA-P256-SHA256&X-Amz-Region-Set=*&X-Amz-Credential=c&X-Amz-Signature=s",
        "/models/a?AWSAccessKeyId=k&Signature=s%3D&Expires=1700000000",
        "/models/a?AWSAccessKeyId=k&Signature=s%3D&Expires=1700000000&x-amz-security-token=t",
    ],
)
def test_signatures_and_odd_queries_are_no_part_of_a_read(target: str) -> None:
    assert read("GET", target).request == read("GET", "/models/a").request


@pytest.mark.parametrize(
    "authorization",
    ["AWS4-HMAC-SHA256 Credential=x", "AWS4-ECDSA-P256-SHA256 Credential=x", "AWS k:s", "Bearer t", "Basic x", "odd"],
)
def test_any_authorization_scheme_reads(authorization: str) -> None:
    assert read("GET", "/models/a", authorization=authorization, x_amz_security_token="t", x_amz_date="d")


def test_version_id_is_part_of_the_name() -> None:
    assert read("GET", "/models/a?versionId=v1").request.name.version_id == "v1"
    assert read("GET", "/models/a?versionId=null").request.name.version_id == "null"


def test_part_number_is_read() -> None:
    assert read("GET", "/models/a?partNumber=10000").request.part_number == 10000


@pytest.mark.parametrize(
    ("target", "headers", "code"),
    [
        ("/models/a?partNumber=0", {}, "InvalidArgument"),
        ("/models/a?partNumber=10001", {}, "InvalidArgument"),
        ("/models/a?partNumber=-1", {}, "InvalidArgument"),
        ("/models/a?partNumber=1.5", {}, "InvalidArgument"),
        ("/models/a?partNumber=", {}, "InvalidArgument"),
        ("/models/a?partNumber=%D9%A1", {}, "InvalidArgument"),  # an Arabic digit
        ("/models/a?partNumber=1", {"range": "bytes=0-1"}, "InvalidRequest"),
        ("/models/a?versionId=", {}, "InvalidArgument"),
        ("/models/a?response-content-type=a%0D%0Ab", {"authorization": "AWS4-HMAC-SHA256 x"}, "InvalidArgument"),
        ("/models/a?response-content-type=text%2Fhtml", {}, "InvalidRequest"),
        ("/models/a?Response-Content-Type=text%2Fhtml", {}, "InvalidRequest"),
        ("/models/a?response-expires=x&X-Amz-Date=y&x-amz-signed=z", {"x_amz_date": "y"}, "InvalidRequest"),
        ("/models/a?response-expires=x&Signature=y", {"origin": "http://page"}, "InvalidRequest"),
    ],
)
def test_bad_parameters_are_refused(target: str, headers: dict[str, str], code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse("GET", target, **headers)
    assert caught.value.code == code


def test_overrides_name_the_headers_they_replace() -> None:
    operation = read(
        "GET",
        "/models/a?response-content-type=text%2Fplain&response-cache-control=no-store&response-expires=never"
        "&response-content-language=de&response-content-encoding=gzip"
        "&response-content-disposition=attachment%3B%20filename%3D%C3%A9&X-Amz-Signature=0",
    )
    assert dict(operation.overrides) == {
        "content-type": "text/plain",
        "cache-control": "no-store",
        "expires": "never",
        "content-language": "de",
        "content-encoding": "gzip",
        "content-disposition": "attachment; filename=é".encode().decode("latin-1"),
    }


def test_checksum_mode_by_header_or_hoisted_into_the_query() -> None:
    assert read("GET", "/models/a", x_amz_checksum_mode="enabled").wants_checksum
    assert read("GET", "/models/a?X-Amz-Checksum-Mode=ENABLED").wants_checksum
    assert not read("GET", "/models/a", x_amz_checksum_mode="off").wants_checksum


@pytest.mark.parametrize(
    ("value", "expected"),
    [("no-cache", True), ("No-Cache, no-transform", True), ("max-age=0", True), ("no-transform", False), ("", False)],
)
def test_no_cache_asks_for_revalidation_and_no_transform_for_nothing(value: str, expected: bool) -> None:
    assert read("GET", "/models/a", cache_control=value).request.revalidate is expected


def test_virtual_host_reaches_the_operation() -> None:
    operation = parse_request("GET", b"/a/b", [(b"host", b"models.s3.local:9000")], ("s3.local",))
    assert isinstance(operation, Read)
    assert operation.request.name == ObjectName("models", "a/b")
