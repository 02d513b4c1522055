"""What an origin's answers cost to read: heads, and the headers that a record is made of."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings

from proxy.origin.headers import parse_content_range, parse_retry_after
from proxy.origin.s3.headers import read_record
from proxy.wire.errors import MalformedResponse
from proxy.wire.head import MAX_HEAD_BYTES, parse_head
from tests.hostile.cost import Shape, assert_linear, hostile

OF_A_RECORD = ("etag", "last-modified", "content-range", "x-amz-checksum-crc32c", "x-amz-meta-a", "cache-control")


def parse(raw: bytes) -> None:
    """Refusing is part of the cost."""
    with contextlib.suppress(MalformedResponse):
        parse_head(raw)


@settings(max_examples=12)
@given(hostile(["x-amz-meta-a: 1\r\n", "content-length: 5\r\n", "transfer-encoding: chunked\r\n", "a:", "\r\n"]))
def test_a_head_costs_what_it_is_long(shape: Shape) -> None:
    def make(length: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\n" + shape.text(length).encode("latin-1", "replace") + b"\r\n\r\n"

    assert_linear(parse, make, longest=MAX_HEAD_BYTES)


@settings(max_examples=12)
@given(hostile(["chunked", "gzip", "identity", "5"]))
def test_lists_in_a_head_cost_what_they_are_long(shape: Shape) -> None:
    def make(length: int) -> bytes:
        value = shape.text(length).encode("latin-1", "replace").replace(b"\r", b" ").replace(b"\n", b" ")
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: " + value + b"\r\nconnection: " + value + b"\r\n\r\n"

    assert_linear(parse, make, longest=MAX_HEAD_BYTES)


@settings(max_examples=12)
@given(hostile(['"', "W/", "-5", "bytes ", "0-9/10", "GMT", "Tue, 24 Nov 2026 09:00:00 "]))
def test_a_records_headers_cost_what_they_are_long(shape: Shape) -> None:
    def read(value: str) -> None:
        headers = tuple((name, value) for name in OF_A_RECORD)
        read_record("s3://origin", "bucket", "key", None, 5, headers, 0.0)

    assert_linear(read, shape.text, longest=MAX_HEAD_BYTES // len(OF_A_RECORD))


@settings(max_examples=12)
@given(hostile(["bytes ", "0-9/10", "-", "/", "Tue, 24 Nov 2026 09:00:00 GMT"]))
def test_ranges_and_pauses_of_an_answer_cost_what_they_are_long(shape: Shape) -> None:
    assert_linear(parse_content_range, shape.text, longest=MAX_HEAD_BYTES)
    assert_linear(lambda value: parse_retry_after(value, 0.0), shape.text, longest=MAX_HEAD_BYTES)
