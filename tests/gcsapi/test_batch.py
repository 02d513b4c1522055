"""A batch's parts become requests, their answers parts again, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email import message_from_bytes
from typing import Any

import pytest

from gcsapi.batch import ANSWERS_BYTES_MAX, HEAD_BYTES_MAX, REQUESTS_MAX, Inner, parse_batch, render_batch
from proxy.errors import InvalidRequest
from proxy.lanes.asgi import PiecesResponse
from tests.gcsapi.passing import Surface

MIXED = "multipart/mixed; boundary=b"


def part(request: bytes, content_id: bytes = b"<id+1>") -> bytes:
    return b"Content-Type: application/http\r\nMIME-Version: 1.0\r\nContent-ID: " + content_id + b"\r\n\r\n" + request


def batch(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + one + b"\r\n" for one in parts) + b"--b--\r\n"


def test_parts_are_requests_with_bodies() -> None:
    patch = b'PATCH /storage/v1/b/w/o/x HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'
    delete = b"DELETE http://gateway:9/storage/v1/b/w/o/y HTTP/1.1\r\nHost: gateway:9\r\n\r\n"
    first, second = parse_batch(MIXED, batch(part(patch), part(delete, b"<id+2>")))
    assert (first.method, first.target, first.body) == ("PATCH", b"/storage/v1/b/w/o/x", b'{"a":1}')
    assert dict(first.headers)[b"content-type"] == b"application/json"
    assert (second.method, second.target, second.body) == ("DELETE", b"http://gateway:9/storage/v1/b/w/o/y", b"")
    assert (first.content_id, second.content_id) == ("<id+1>", "<id+2>")


def test_bare_newlines_and_a_missing_length_will_do() -> None:
    content = b"--b\nContent-Type: application/http\n\nGET /storage/v1/b/w/o HTTP/1.1\nAccept: */*\n\n--b--"
    (only,) = parse_batch(MIXED, content)
    assert (only.method, only.target, only.content_id, only.body) == ("GET", b"/storage/v1/b/w/o", "", b"")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"--b--",
        batch(part(b"nonsense")),
        b"--b \tjunk\r\n" + part(b"GET /storage/v1/b/w HTTP/1.1\r\n\r\n"),  # a boundary is a line of its own
        batch(part(b"GET /storage/v1/b/w HTTP/1.1\r\n" + b"a:\n" * HEAD_BYTES_MAX)),
        batch(b"a:\n" * HEAD_BYTES_MAX),
        batch(*[part(b"GET /storage/v1/b/w HTTP/1.1\r\n\r\n")] * (REQUESTS_MAX + 1)),
    ],
)
def test_what_is_no_batch_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_batch(MIXED, content)


async def test_answers_refer_to_their_requests_in_order() -> None:
    async def body(content: bytes) -> AsyncIterator[bytes]:
        yield content

    async def answer(inner: Inner) -> PiecesResponse:
        if inner.method == "DELETE":
            return PiecesResponse(204, (("x-cache", "BYPASS"),))
        return PiecesResponse(200, (("content-type", "application/json"),), body(b'{"name": "x"}'), 13)

    requests = [
        Inner("<id+1>", "DELETE", b"/storage/v1/b/w/o/y", (), b""),
        Inner("<id+2>", "GET", b"/storage/v1/b/w/o/x", (), b""),
    ]
    reply = await render_batch(requests, answer)
    content_type = dict(reply.headers)["content-type"]
    message = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + reply.body)
    parts: Any = message.get_payload()
    first, second = parts
    assert [one["Content-ID"] for one in (first, second)] == ["<response-id+1>", "<response-id+2>"]
    assert first.get_payload().startswith("HTTP/1.1 204 No Content\r\n")
    assert second.get_payload().startswith("HTTP/1.1 200 OK\r\n")
    assert second.get_payload().rstrip().endswith('\r\n\r\n{"name": "x"}')


OBJECT = b"/storage/v1/b/w/o/x"
BYTES = [
    b"GET " + OBJECT + b"?alt=media",
    b"GET " + OBJECT + b"?alt=medi%61",
    b"GET " + OBJECT + b"?%61lt=media",
    b"GET " + OBJECT + b"?alt=medi%61&projection=full",
    b"GET " + OBJECT + b"?alt=json&alt=media&projection=full",
    b"GET " + OBJECT + b"?alt=media&alt=json&softDeleted=true",
    b"GET " + OBJECT + b"?$alt=media&projection=full",
    b"GET http://gateway" + OBJECT + b"?alt=medi%61",
    b"GET /download" + OBJECT,
    b"GET /d%6fwnload" + OBJECT,
    b"GET /w/x",  # the XML API
    b"POST /upload/storage/v1/b/w/o?name=x",
    b"POST /batch",
]


@pytest.mark.parametrize("line", BYTES, ids=bytes.decode)
async def test_bytes_of_objects_are_no_part_of_a_batch_however_they_are_asked_for(line: bytes) -> None:
    surface = Surface()
    content = batch(part(line + b" HTTP/1.1\r\n\r\n"), part(b"GET /storage/v1/b/w HTTP/1.1\r\n\r\n", b"<id+2>"))
    found = await surface.ask("POST", "/batch", content=content, headers={"content-type": MIXED})
    assert found.status_code == 200
    assert [found.text.count(status) for status in ("HTTP/1.1 400", "HTTP/1.1 200")] == [1, 1]
    assert [sent.request.path for sent in surface.origin.sent] == ["/storage/v1/b/real-w"]


async def test_a_batch_gathers_no_more_than_its_bound() -> None:
    closed = []

    async def body() -> AsyncIterator[bytes]:
        try:
            for _ in range(1000):
                yield b"x" * (ANSWERS_BYTES_MAX // 16)
        finally:
            closed.append(True)

    async def answer(inner: Inner) -> PiecesResponse:
        return PiecesResponse(200, (("content-type", "application/json"),), body(), None)

    requests = [Inner(f"<{number}>", "GET", OBJECT, (), b"") for number in range(20)]
    reply = await render_batch(requests, answer)
    assert len(reply.body) < ANSWERS_BYTES_MAX + (1 << 16)
    assert reply.body.count(b"HTTP/1.1 400") == len(closed) == 20
    assert reply.body.count(b"responseTooLarge") == 20
