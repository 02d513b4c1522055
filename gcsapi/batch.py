"""The batch endpoint: many requests of the JSON API in one multipart/mixed body, and their answers in another.

How it works. Each part is an HTTP request, whose target may be absolute, and each is answered as if it had come alone,
a few at a time; so it makes no difference where its bucket is. Bytes of objects are no part of a batch, as at GCS.
Source: Cloud Storage documentation, "Batch requests".
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from gcsapi.errors import render_json_error
from gcsapi.requests import Api, Operation, Read
from gcsapi.responses import JSON_TYPE
from gcsapi.targets import JsonTarget
from gcsapi.uploads import boundary_of
from proxy.blocks import Piece
from proxy.errors import InvalidRequest
from proxy.lanes.asgi import PiecesResponse
from proxy.surface.heads import Reply
from proxy.surface.multipart import split_parts

BATCH_BYTES_MAX = 10 << 20  # as at GCS
REQUESTS_MAX = 100  # as at GCS
HEAD_BYTES_MAX = 16 << 10  # of one request, and of the part around it
ANSWERS_BYTES_MAX = 32 << 20  # gathered for one batch; a page of a thousand objects has a megabyte
AT_ONCE_MAX = 16


@dataclass(frozen=True, slots=True)
class Inner:
    """One request of a batch. `content_id` is what its answer refers to."""

    content_id: str
    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    async def receive(self) -> MutableMapping[str, Any]:
        """An ASGI `receive` for one who asks for the body, once."""
        return {"type": "http.request", "body": self.body, "more_body": False}


def parse_batch(content_type: str, content: bytes) -> list[Inner]:
    """Raises InvalidRequest. What each part asks for is judged where it is parsed as a request: see `GcsApp`."""
    found = split_parts(content, boundary_of(content_type), REQUESTS_MAX)
    if not found:
        raise InvalidRequest(
            "invalid", f"A batch has 1 to {REQUESTS_MAX} requests, each behind a line of its boundary."
        )
    return [_parse_part(part) for part in found]


def _parse_part(part: bytes) -> Inner:
    head, request = _cut(part.lstrip(b"\r\n"))
    outer = dict(_parse_headers(head.splitlines()))
    inner_head, body = _cut(request.lstrip(b"\r\n"))
    lines = inner_head.splitlines()
    words = lines[0].split() if lines else []
    if len(words) not in (2, 3):
        raise InvalidRequest("parseError", "A part of the batch is no HTTP request.")
    method = words[0].decode("latin-1").upper()
    headers = dict(_parse_headers(lines[1:]))
    length = headers.get(b"content-length", b"")
    body = body[: int(length)] if length.isdigit() and len(length) < 10 else body.rstrip(b"\r\n")
    headers[b"content-length"] = b"%d" % len(body)
    content_id = outer.get(b"content-id", b"").decode("latin-1")
    return Inner(content_id, method, words[1], tuple(headers.items()), body)


def fits_batch(operation: Operation) -> bool:
    """Whether it may be part of a batch: a request of the JSON API that no bytes of objects answer, in any reading."""
    if operation.api is not Api.JSON or operation.media:
        return False
    if isinstance(operation, Read):
        return True
    told = {value for name, value in operation.query if name in ("alt", "$alt")}
    return isinstance(operation.target, JsonTarget) and operation.target.endpoint == "" and told <= {"json"}


def _cut(text: bytes) -> tuple[bytes, bytes]:
    """Head and body; lines may end with either line end. Raises InvalidRequest for a head that is too long."""
    crlf, lf = (text.find(end, 0, HEAD_BYTES_MAX) for end in (b"\r\n\r\n", b"\n\n"))
    if crlf >= 0 and (lf < 0 or crlf < lf):
        return text[:crlf], text[crlf + 4 :]
    if lf < 0 and len(text) > HEAD_BYTES_MAX:
        raise InvalidRequest("invalid", f"The headers of a batch's part have up to {HEAD_BYTES_MAX} bytes.")
    return (text[:lf], text[lf + 2 :]) if lf >= 0 else (text, b"")


def _parse_headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    pairs = (line.partition(b":") for line in lines if b":" in line)
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs]


async def render_batch(requests: list[Inner], answer: Callable[[Inner], Awaitable[PiecesResponse]]) -> Reply:
    """All answers, in the requests' order."""
    room = asyncio.Semaphore(AT_ONCE_MAX)
    left = _Left(ANSWERS_BYTES_MAX)

    async def ask(inner: Inner) -> bytes:
        async with room:
            return await _render_part(inner, await answer(inner), left)

    boundary = f"batch_{secrets.token_hex(16)}"
    parts = await asyncio.gather(*(ask(inner) for inner in requests))
    content = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    headers = (("content-type", f"multipart/mixed; boundary={boundary}"),)
    return Reply(200, headers, b"%b--%b--\r\n" % (content, boundary.encode()))


@dataclass(slots=True)
class _Left:
    """How many bytes of answers a batch may still gather."""

    left_bytes: int


async def _render_part(inner: Inner, response: PiecesResponse, left: _Left) -> bytes:
    status, headers = response.status, response.headers
    body = await _read(response, left)
    if body is None:
        status, headers = 400, (("content-type", JSON_TYPE),)
        body = render_json_error(
            400, "responseTooLarge", "The answers of this batch are too large: ask for fewer at once."
        )
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    lines = ["Content-Type: application/http"]
    if inner.content_id:
        lines.append(f"Content-ID: <response-{inner.content_id.removeprefix('<')}")
    lines += ["", f"HTTP/1.1 {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in headers if name not in ("content-length", "connection")]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body


async def _read(response: PiecesResponse, left: _Left) -> bytes | None:
    """The whole body; None: it is an object's bytes, or more than a batch may gather."""
    content = bytearray()
    if response.body is None:
        return b""
    try:
        async for item in response.body:
            if isinstance(item, Piece) or len(item) > left.left_bytes:
                return None
            left.left_bytes -= len(item)
            content += item
    finally:
        if (aclose := getattr(response.body, "aclose", None)) is not None:
            await aclose()
    return bytes(content)
