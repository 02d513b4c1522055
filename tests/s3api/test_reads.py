"""Reads through a running gateway, byte for byte."""

from __future__ import annotations

import uuid
from email.utils import formatdate, parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.s3api.running_gateway import BIG, BLOCK_BYTES, SEEDS, SUFFIX, RunningGateway

SIZE = len(BIG)


def test_second_read_is_a_hit_with_the_same_headers(site: RunningGateway) -> None:
    key = f"twice-{uuid.uuid4()}"
    site.moto.client().put_object(Bucket="real-models", Key=key, Body=BIG, **SEEDS["big.bin"].arguments)
    first, second = site.get(key), site.get(key)
    assert (first.status, first.cache, first.body) == (200, "MISS", BIG)
    assert (second.status, second.cache, second.body) == (200, "HIT", BIG)
    for answer in (first, second):
        wanted = {
            "content-type": "application/x-weights",
            "content-encoding": "gzip",
            "content-disposition": 'attachment; filename="x"',
            "content-language": "de",
            "cache-control": "max-age=60",
            "x-amz-meta-colour": "blue",
            "accept-ranges": "bytes",
            "content-length": str(SIZE),
        }
        assert wanted.items() <= answer.headers.items()
        assert answer.headers["etag"].startswith('"')
        assert "last-modified" in answer.headers
        assert not [name for name in answer.headers if name.startswith("x-amz-checksum-")]
    assert first.headers["x-amz-request-id"] != second.headers["x-amz-request-id"]


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-7", 0, 7),
        (f"bytes={BLOCK_BYTES - 1}-{BLOCK_BYTES}", BLOCK_BYTES - 1, BLOCK_BYTES),
        (f"bytes={2 * BLOCK_BYTES}-", 2 * BLOCK_BYTES, SIZE - 1),
        ("bytes=-5", SIZE - 5, SIZE - 1),
        ("bytes=-99999999", 0, SIZE - 1),
        (f"bytes=10-{SIZE + 10}", 10, SIZE - 1),
        ("bytes=5-99999999999999999999999", 5, SIZE - 1),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE - 1),
        ("BYTES = 1 - 2", 1, 2),
    ],
)
def test_range_is_206_cut_at_the_end(site: RunningGateway, header: str, first: int, last: int) -> None:
    for method in ("GET", "HEAD"):
        answer = site.ask(method, "/models/big.bin", {"Range": header})
        assert answer.status == 206
        assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
        assert answer.headers["content-length"] == str(last - first + 1)
        assert answer.body == (BIG[first : last + 1] if method == "GET" else b"")


@pytest.mark.parametrize("header", ["bytes=5-4", "bytes=0-1,4-5", "bytes=", "bytes=-", "bytes=x", "items=0-1", "0-1"])
def test_range_that_is_none_means_the_whole_object(site: RunningGateway, header: str) -> None:
    answer = site.get("big.bin", Range=header)
    assert (answer.status, answer.body) == (200, BIG)


@pytest.mark.parametrize(
    ("key", "header", "size"),
    [
        ("big.bin", f"bytes={SIZE}-", SIZE),
        ("big.bin", "bytes=9999999999999999999999-", SIZE),
        ("big.bin", "bytes=-0", SIZE),
        ("empty", "bytes=0-", 0),
        ("empty", "bytes=-1", 0),
    ],
)
def test_unsatisfiable_range_is_416(site: RunningGateway, key: str, header: str, size: int) -> None:
    answer = site.get(key, Range=header)
    assert answer.status == 416
    assert answer.headers["content-range"] == f"bytes */{size}"
    error = answer.error()
    assert error["Code"] == "InvalidRange"
    assert error["RangeRequested"] == header
    assert error["ActualObjectSize"] == str(size)
    assert error["RequestId"] == answer.headers["x-amz-request-id"]
    assert error["Resource"] == f"/models/{key}"


def test_empty_object_is_whole(site: RunningGateway) -> None:
    answer = site.get("empty")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert site.ask("HEAD", "/models/empty").headers["content-length"] == "0"


@given(first=st.integers(0, SIZE + 10), length=st.integers(1, SIZE), method=st.sampled_from(["GET", "HEAD"]))
@settings(max_examples=60)
def test_any_range_equals_the_slice(site: RunningGateway, first: int, length: int, method: str) -> None:
    answer = site.ask(method, "/models/big.bin", {"Range": f"bytes={first}-{first + length - 1}"})
    if first >= SIZE:
        assert answer.status == 416
        return
    expected = BIG[first : first + length]
    assert answer.status == 206
    assert answer.headers["content-length"] == str(len(expected))
    assert answer.body == (expected if method == "GET" else b"")


_ETAGS = st.sampled_from(["same", "other", "any", "weak"])
_DATES = st.sampled_from([-10, 0, 10, None])


@given(
    if_match=st.none() | _ETAGS,
    if_none_match=st.none() | _ETAGS,
    modified=st.none() | _DATES,
    unmodified=st.none() | _DATES,
    ranged=st.booleans(),
)
@settings(max_examples=120)
def test_conditions_follow_s3s_precedence(
    site: RunningGateway, if_match: str | None, if_none_match: str | None, modified: Any, unmodified: Any, ranged: bool
) -> None:
    head = site.ask("HEAD", "/models/big.bin")
    etag = head.headers["etag"]
    changed_s = int(_seconds(head.headers["last-modified"]))
    tags = {"same": etag, "other": '"0"', "any": "*", "weak": "W/" + etag}
    headers = {"Range": "bytes=0-9"} if ranged else {}
    for name, tag in (("If-Match", if_match), ("If-None-Match", if_none_match)):
        if tag is not None:
            headers[name] = tags[tag]
    for name, shift in (("If-Modified-Since", modified), ("If-Unmodified-Since", unmodified)):
        if shift is not None:
            headers[name] = formatdate(changed_s + shift, usegmt=True)
    expected = 206 if ranged else 200
    if if_none_match in ("same", "any", "weak") or (if_none_match is None and modified is not None and modified >= 0):
        expected = 304
    if if_match in ("other", "weak") or (if_match is None and unmodified is not None and unmodified < 0):
        expected = 412
    answer = site.ask("GET", "/models/big.bin", headers)
    assert answer.status == expected
    if expected == 412:
        condition = "If-Match" if if_match is not None else "If-Unmodified-Since"
        assert answer.error()["Condition"] == condition
    if expected == 304:
        assert answer.body == b""
        assert answer.headers["etag"] == etag
        assert "content-length" not in answer.headers


def _seconds(date: str) -> float:
    return parsedate_to_datetime(date).timestamp()


def test_if_range_lets_the_range_count_only_for_the_same_version(site: RunningGateway) -> None:
    etag = site.ask("HEAD", "/models/big.bin").headers["etag"]
    assert site.get("big.bin", Range="bytes=0-9", If_Range=etag).status == 206
    assert site.get("big.bin", Range="bytes=0-9", If_Range='"0"').body == BIG


def test_part_number_of_a_whole_upload(site: RunningGateway) -> None:
    answer = site.ask("GET", "/models/empty?partNumber=1")
    assert answer.status in (200, 206)
    answer = site.ask("HEAD", "/models/big.bin?partNumber=1")
    assert (answer.status, answer.headers["content-range"]) == (206, f"bytes 0-{SIZE - 1}/{SIZE}")
    assert answer.headers["x-amz-mp-parts-count"] == "1"
    refused = site.ask("GET", "/models/big.bin?partNumber=1", {"Range": "bytes=0-1"})
    assert (refused.status, refused.error()["Code"]) == (400, "InvalidRequest")
    assert site.ask("GET", "/models/big.bin?partNumber=0").error()["Code"] == "InvalidArgument"


def test_checksum_comes_with_the_whole_object_to_who_asks(site: RunningGateway) -> None:
    asked = {"x-amz-checksum-mode": "ENABLED"}
    for method in ("GET", "HEAD"):
        assert site.ask(method, "/models/big.bin", asked).headers["x-amz-checksum-crc32"]
        ranged = site.ask(method, "/models/big.bin", {**asked, "Range": "bytes=0-"})
        assert ranged.status == 206
        assert "x-amz-checksum-crc32" not in ranged.headers


def test_response_overrides(site: RunningGateway) -> None:
    target = "/models/big.bin?response-content-type=text%2Fplain&response-content-disposition=inline"
    for headers, signature in (({"Authorization": "AWS4-HMAC-SHA256 x"}, ""), ({}, "&X-Amz-Signature=x")):
        for _ in range(3):  # whatever lane answers
            answer = site.ask("GET", target + signature, headers)
            assert answer.headers["content-type"] == "text/plain"
            assert answer.headers["content-disposition"] == "inline"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "content-security-policy" not in answer.headers
            assert answer.body == BIG
            refused = site.ask("GET", target, {"x-amz-date": "x"})
            assert (refused.status, refused.error()["Code"]) == (400, "InvalidRequest")
    page = site.ask("GET", "/models/big.bin?response-content-type=Text%2FHtml&X-Amz-Signature=x")
    assert (page.headers["content-type"], page.headers["content-security-policy"]) == ("Text/Html", "sandbox")


@pytest.mark.parametrize("key", [key for key in SEEDS if key not in ("big.bin", "empty")])
def test_keys_are_byte_exact_in_either_style(site: RunningGateway, key: str) -> None:
    for safe in ("", "/", "/~!*'()"):
        encoded = quote(key, safe=safe)
        assert site.ask("GET", f"/models/{encoded}").body == key.encode()
        assert site.ask("GET", f"/{encoded}", {"Host": f"models.{SUFFIX}:9000"}).body == key.encode()
        assert site.ask("GET", f"http://elsewhere/models/{encoded}").body == key.encode()


def test_absolute_target_names_the_bucket_by_its_own_host(site: RunningGateway) -> None:
    answer = site.ask("GET", f"http://models.{SUFFIX}/empty", {"Host": "127.0.0.1"})
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/models/%", 400, "InvalidURI"),
        ("/models/%zz", 400, "InvalidURI"),
        ("/models/%ff", 400, "InvalidURI"),
        ("/models/" + "k" * 1025, 400, "KeyTooLongError"),
        ("/models/nothing", 404, "NoSuchKey"),
        ("/no-such-bucket/k", 404, "NoSuchBucket"),
        ("/UPPER_case/k", 404, "NoSuchBucket"),
        ("/.bad/k", 400, "InvalidBucketName"),
        ("/models/big.bin?versionId=", 400, "InvalidArgument"),
    ],
)
def test_bad_requests_get_s3s_errors(site: RunningGateway, target: str, status: int, code: str) -> None:
    answer = site.ask("GET", target)
    assert (answer.status, answer.error()["Code"]) == (status, code)
    assert answer.headers["content-type"] == "application/xml"
    assert answer.error()["RequestId"] == answer.headers["x-amz-request-id"]
    head = site.ask("HEAD", target)
    assert (head.status, head.body) == (status, b"")


def test_sub_resources_unknown_parameters_and_customer_keys_pass_through(site: RunningGateway) -> None:
    assert b"AccessControlPolicy" in site.ask("GET", "/models/big.bin?acl").body
    for target, headers in (
        ("/models/big.bin?acl", {}),
        ("/models/big.bin?shiny=1", {}),
        ("/models/big.bin", {"x-amz-server-side-encryption-customer-algorithm": "AES256"}),
    ):
        assert site.ask("GET", target, headers).cache == "BYPASS"


def test_pipelined_requests_are_answered_in_order(site: RunningGateway) -> None:
    head = b"GET /models/%s HTTP/1.1\r\nHost: h\r\nRange: bytes=0-3\r\n%s\r\n"
    received = site.talk(
        head % (b"big.bin", b"") + head % (b"nothing", b"") + head % (b"%2E%2E/up", b"Connection: close\r\n")
    )
    places = [received.index(text) for text in (BIG[:4], b"NoSuchKey", b"../u")]
    assert places == sorted(places)


@pytest.mark.parametrize("signature", ["s3", "s3v4"])
def test_presigned_urls_read(site: RunningGateway, signature: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=site.gateway.url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(signature_version=signature, s3={"addressing_style": "path"}),
    )
    url = urlsplit(client.generate_presigned_url("get_object", {"Bucket": "models", "Key": "big.bin"}))
    answer = site.ask("GET", f"{url.path}?{url.query}")
    assert (answer.status, answer.body) == (200, BIG)
    assert answer.cache in ("HIT", "MISS", "PARTIAL")


def test_requests_are_counted_as_they_are_answered(site: RunningGateway) -> None:
    labels = {"operation": "GetObject", "status": "412", "lane": "asgi", "cache": "MISS"}
    before = site.gateway.metric("warmstart_requests_total", **labels)
    assert site.get("big.bin", If_Match='"0"').cache == "MISS"
    assert site.gateway.metric("warmstart_requests_total", **labels) == before + 1


def test_the_gateways_own_paths_are_keys_in_virtual_host_style(site: RunningGateway) -> None:
    assert site.ask("GET", "/-/health").status == 200
    answer = site.ask("GET", "/-/health", {"Host": f"models.{SUFFIX}"})
    assert (answer.status, answer.error()["Key"]) == (404, "-/health")
