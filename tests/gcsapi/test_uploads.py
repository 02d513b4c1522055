"""Uploads: which object they write, found in query or resource."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcsapi.uploads import (
    RESOURCE_BYTES_MAX,
    boundary_of,
    object_name,
    parse_resource,
    read_first_part,
    second_part,
)
from proxy.errors import InvalidRequest

RELATED = 'multipart/related; boundary="==x=="'


def body(resource: bytes, data: bytes, end: bytes = b"\r\n", begin: bytes = b"") -> bytes:
    """As RFC 2046 has it; `end` is the line end."""
    line = b"--==x=="
    head = begin + line + end + b"Content-Type: application/json; charset=UTF-8" + end + end + resource + end
    return head + line + end + b"Content-Type: text/plain" + end + end + data + end + line + b"--" + end


async def stream(content: bytes, step: int) -> AsyncIterator[bytes]:
    for offset in range(0, len(content), step):
        yield content[offset : offset + step]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("step", [1, 13, 10_000])
async def test_the_first_parts_resource_is_read_and_no_byte_is_lost(end: bytes, step: int) -> None:
    content = body(b'{"name": "a/b", "metadata": {"x": "--=="}}', b"data" * 1000, end)
    source = stream(content, step)
    resource, read = await read_first_part(RELATED, source)
    assert resource["name"] == "a/b"
    rest = b"".join([data async for data in source])
    assert read + rest == content


@pytest.mark.parametrize(
    "content", [b"", b"--==x==\r\n", body(b"", b"")[:30], b"no part at all", b"x" * 2 * RESOURCE_BYTES_MAX]
)
async def test_a_body_without_parts_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        await read_first_part(RELATED, stream(content, 100_000))


@pytest.mark.parametrize("text", ["multipart/related", "text/plain", "multipart/related; boundary=", ""])
def test_a_multipart_upload_needs_a_boundary(text: str) -> None:
    with pytest.raises(InvalidRequest):
        boundary_of(text)


@pytest.mark.parametrize(
    "text", ["multipart/related; boundary=b", "Multipart/Related; type=x; boundary='b'", 'multipart/mixed;boundary="b"']
)
def test_boundaries_are_found_however_they_are_written(text: str) -> None:
    assert boundary_of(text) == b"--b"


@given(st.binary(max_size=50).filter(lambda data: b"--==x==" not in data), st.sampled_from([b"\r\n", b"\n"]))
def test_the_second_parts_content_is_byte_exact(data: bytes, end: bytes) -> None:
    if end == b"\n" and data.endswith(b"\r"):
        return  # nobody can tell that from a line end
    headers, found = second_part(body(b"{}", data, end), boundary_of(RELATED))
    assert (headers, found) == ({"content-type": "text/plain"}, data)


def test_a_body_of_one_or_three_parts_is_refused() -> None:
    whole = body(b"{}", b"data")
    for content in (whole.replace(b"--==x==--", b"--==x=="), b"--==x==--\r\n", body(b"{}", b"a\r\n--==x==\r\n\r\nb")):
        with pytest.raises(InvalidRequest):
            second_part(content, boundary_of(RELATED))


def test_the_querys_name_outranks_the_resources() -> None:
    assert object_name({"name": "q"}, {"name": "r"}) == "q"
    assert object_name({}, {"name": "r"}) == "r"
    for resource in ({}, {"name": ""}, {"name": 5}):
        with pytest.raises(InvalidRequest) as caught:
            object_name({}, resource)
        assert caught.value.code == "required"


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff", b"5", b"[" * 100_000])
def test_a_resource_is_a_json_object(content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_resource(content)
    assert parse_resource(b" ") == {}


def test_a_resource_may_hold_anything_json_can() -> None:
    assert parse_resource(json.dumps({"name": "ü", "x": [1]}).encode()) == {"name": "ü", "x": [1]}
