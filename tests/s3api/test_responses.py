"""What a read answers with: the origin's headers, and which of them not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gateway.answers import CacheStatus, PartSpan, ReadAnswer, ReadObject
from proxy.lanes.hot import render_lines
from proxy.objects import ObjectName, ObjectRecord, ObjectVersion
from proxy.ranges import ByteRange
from proxy.surface.heads import measure_lines, read_status, render_passed
from s3api.requests import Read
from s3api.responses import measure, render_read

OBJECT_HEADERS = (
    ("etag", '"abc-3"'),
    ("last-modified", "Thu, 01 Jan 1970 00:00:01 GMT"),
    ("content-type", "application/json"),
    ("content-encoding", "gzip"),
    ("content-disposition", "inline"),
    ("content-language", "de"),
    ("cache-control", "max-age=60"),
    ("expires", "never"),
    ("x-amz-meta-a", "b"),
    ("x-amz-version-id", "v1"),
    ("x-amz-storage-class", "GLACIER"),
    ("x-amz-server-side-encryption", "aws:kms"),
    ("x-amz-server-side-encryption-aws-kms-key-id", "k"),
    ("x-amz-replication-status", "COMPLETED"),
    ("x-amz-restore", 'ongoing-request="false"'),
    ("x-amz-tagging-count", "2"),
)
CHECKSUMS = (("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-type", "FULL_OBJECT"))


def record(size_bytes: int = 100, headers: tuple[tuple[str, str], ...] = OBJECT_HEADERS) -> ObjectRecord:
    version = ObjectVersion("s3://h:1", "models", "a", 'etag "abc-3"', size_bytes)
    return ObjectRecord(version, '"abc-3"', 1.0, headers, 0.0)


def read(*, head_only: bool = False, wants_checksum: bool = False, overrides: dict[str, str] | None = None) -> Read:
    request = ReadObject(ObjectName("models", "a"), head_only)
    return Read("GetObject", request, tuple((overrides or {}).items()), wants_checksum)


def answer(
    span: ByteRange | None = None, part: PartSpan | None = None, *, size_bytes: int = 100, checksums: bool = True
) -> ReadAnswer:
    headers = OBJECT_HEADERS + CHECKSUMS if checksums else OBJECT_HEADERS
    return ReadAnswer(record(size_bytes, headers), CacheStatus.HIT, span, part)


def test_whole_object_gives_back_every_header_of_the_origin() -> None:
    status, headers = render_read(read(), answer())
    assert status == 200
    assert headers == (*OBJECT_HEADERS, ("accept-ranges", "bytes"), ("content-length", "100"))


def test_range_is_206_with_its_content_range() -> None:
    status, headers = render_read(read(), answer(ByteRange(10, 30)))
    assert status == 206
    assert dict(headers)["content-length"] == "20"
    assert dict(headers)["content-range"] == "bytes 10-29/100"
    assert set(OBJECT_HEADERS) <= set(headers)


def test_range_over_the_whole_object_is_still_206() -> None:
    status, headers = render_read(read(), answer(ByteRange(0, 100)))
    assert status == 206
    assert dict(headers)["content-range"] == "bytes 0-99/100"


def test_empty_object_is_200() -> None:
    status, headers = render_read(read(), answer(size_bytes=0))
    assert status == 200
    assert dict(headers)["content-length"] == "0"
    assert "content-range" not in dict(headers)


@pytest.mark.parametrize("head_only", [False, True])
def test_checksum_goes_out_with_the_whole_object_to_who_asked(head_only: bool) -> None:
    assert set(CHECKSUMS) <= set(render_read(read(head_only=head_only, wants_checksum=True), answer())[1])


@pytest.mark.parametrize("span", [ByteRange(0, 10), ByteRange(0, 100)])
def test_checksum_never_goes_with_a_206(span: ByteRange) -> None:
    assert not set(CHECKSUMS) & set(render_read(read(wants_checksum=True), answer(span))[1])
    part = PartSpan(1, 1, span)
    assert not set(CHECKSUMS) & set(render_read(read(wants_checksum=True), answer(span, part))[1])


def test_checksum_stays_here_when_nobody_asked() -> None:
    assert not set(CHECKSUMS) & set(render_read(read(), answer())[1])


def test_part_is_206_with_the_count_of_parts() -> None:
    status, headers = render_read(read(), answer(ByteRange(0, 40), PartSpan(1, 3, ByteRange(0, 40))))
    assert status == 206
    assert dict(headers)["x-amz-mp-parts-count"] == "3"
    assert dict(headers)["content-range"] == "bytes 0-39/100"


def test_part_of_an_empty_object_has_no_content_range() -> None:
    nothing = ByteRange(0, 0)
    status, headers = render_read(read(), answer(nothing, PartSpan(1, 1, nothing), size_bytes=0))
    assert status == 200
    assert dict(headers)["x-amz-mp-parts-count"] == "1"
    assert "content-range" not in dict(headers)


def test_overrides_replace_and_add() -> None:
    overrides = {"content-type": "text/plain", "content-disposition": "attachment"}
    for span in (None, ByteRange(0, 1)):
        headers = render_read(read(overrides=overrides), answer(span))[1]
        assert [value for name, value in headers if name == "content-type"] == ["text/plain"]
        assert [value for name, value in headers if name == "content-disposition"] == ["attachment"]
        assert dict(headers)["cache-control"] == "max-age=60"


def test_not_modified_has_validators_and_no_length() -> None:
    unmodified = answer()
    unmodified.not_modified = True
    status, headers = render_read(read(), unmodified)
    assert status == 304
    assert set(dict(headers)) == {"etag", "last-modified", "cache-control", "expires", "x-amz-version-id"}


def test_object_without_a_type_gets_the_default_one() -> None:
    headers = dict(render_read(read(), ReadAnswer(record(headers=()), CacheStatus.HIT))[1])
    assert headers["content-type"] == "binary/octet-stream"
    assert headers["etag"] == '"abc-3"'
    assert headers["last-modified"] == "Thu, 01 Jan 1970 00:00:01 GMT"


@pytest.mark.parametrize("name", ["x-amz-request-id", "x-amz-id-2", "date", "server", "set-cookie", "x-cache", "age"])
def test_what_describes_one_answer_is_not_given_with_another(name: str) -> None:
    stored = ReadAnswer(record(headers=(*OBJECT_HEADERS, (name, "x"))), CacheStatus.HIT)
    assert name not in dict(render_read(read(), stored)[1])


def test_passed_answer_keeps_all_but_its_connections_headers() -> None:
    headers = (
        ("x-amz-request-id", "R"),
        ("content-length", "5"),
        ("content-range", "bytes 0-4/9"),
        ("accept-ranges", "bytes"),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("access-control-allow-origin", "*"),
    )
    noise = (
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("date", "d"),
        ("server", "s"),
        ("x-cache", "m"),
    )
    assert render_passed(206, headers + noise) == headers


@pytest.mark.parametrize("status", [204, 304])
def test_passed_answer_without_a_body_has_no_length(status: int) -> None:
    assert render_passed(status, (("content-length", "5"), ("etag", '"a"'))) == (("etag", '"a"'),)


@given(size_bytes=st.integers(0, 50), first=st.integers(0, 60), last=st.none() | st.integers(0, 60))
def test_measures_are_the_same_as_lines(size_bytes: int, first: int, last: int | None) -> None:
    span = None
    if first < size_bytes and (last is None or last >= first):
        span = ByteRange(first, size_bytes if last is None else min(size_bytes, last + 1))
    for answered in (answer(span, size_bytes=size_bytes), replace(answer(size_bytes=size_bytes), not_modified=True)):
        status = read_status(answered)
        start, end = (0, size_bytes) if answered.span is None else (answered.span.start, answered.span.end)
        assert measure_lines(status, start, end, size_bytes) == render_lines(measure(answered, status))
