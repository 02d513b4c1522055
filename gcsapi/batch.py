"""The batch endpoint: many requests of the JSON API in one multipart/mixed body, and their answers in another.

How it works. Each part is an HTTP request, whose target may be absolute, and each is answered as if it had come alone,
a few at a time; so it makes no difference where its bucket is. Bytes of objects are no part of a batch, as at GCS.
Source: Cloud Storage documentation, "Batch requests".
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from gcsapi.targets import json_door
from gcsapi.uploads import boundary_of
from proxy.blocks import Piece
from proxy.errors import InvalidRequest, WarmstartError
from proxy.lanes.asgi import PiecesResponse
from proxy.surface.heads import Reply
from proxy.targets import split_target

BATCH_BYTES_MAX = 10 << 20  # as at GCS
REQUESTS_MAX = 100  # as at GCS
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
    """Raises InvalidRequest."""
    found = re.split(rb"(?:^|\r?\n)" + re.escape(boundary_of(content_type)), content)[1:]
    requests = [_parse_part(part) for part in found if not part.startswith(b"--")]
    if not requests or len(requests) > REQUESTS_MAX:
        raise InvalidRequest("invalid", f"A batch has 1 to {REQUESTS_MAX} requests; this one has {len(requests)}.")
    return requests


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
    _check(method, words[1])
    content_id = outer.get(b"content-id", b"").decode("latin-1")
    return Inner(content_id, method, words[1], tuple(headers.items()), body)


def _check(method: str, target: bytes) -> None:
    """Raises InvalidRequest for what can't be part of a batch."""
    try:
        _, path, query = split_target(target, None)
    except WarmstartError:
        path, query = b"", b""
    if json_door(path) != "" or b"alt=media" in query.split(b"&"):
        raise InvalidRequest("invalid", "A batch holds requests of the JSON API for metadata only.")


def _cut(text: bytes) -> tuple[bytes, bytes]:
    """Head and body; lines may end with either line end."""
    crlf, lf = text.find(b"\r\n\r\n"), text.find(b"\n\n")
    if crlf >= 0 and (lf < 0 or crlf < lf):
        return text[:crlf], text[crlf + 4 :]
    return (text[:lf], text[lf + 2 :]) if lf >= 0 else (text, b"")


def _parse_headers(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    pairs = (line.partition(b":") for line in lines if b":" in line)
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs]


async def render_batch(requests: list[Inner], answer: Callable[[Inner], Awaitable[PiecesResponse]]) -> Reply:
    """All answers, in the requests' order."""
    room = asyncio.Semaphore(AT_ONCE_MAX)

    async def ask(inner: Inner) -> bytes:
        async with room:
            return await _render_part(inner, await answer(inner))

    boundary = f"batch_{secrets.token_hex(16)}"
    parts = await asyncio.gather(*(ask(inner) for inner in requests))
    content = b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts)
    headers = (("content-type", f"multipart/mixed; boundary={boundary}"),)
    return Reply(200, headers, b"%b--%b--\r\n" % (content, boundary.encode()))


async def _render_part(inner: Inner, response: PiecesResponse) -> bytes:
    body = await _read(response)
    status = response.status
    reason = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    lines = ["Content-Type: application/http"]
    if inner.content_id:
        lines.append(f"Content-ID: <response-{inner.content_id.removeprefix('<')}")
    lines += ["", f"HTTP/1.1 {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers if name not in ("content-length", "connection")]
    lines += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body


async def _read(response: PiecesResponse) -> bytes:
    content = bytearray()
    if response.body is None:
        return b""
    try:
        async for item in response.body:
            assert not isinstance(item, Piece), "no bytes of objects in a batch"
            content += item
    finally:
        if (aclose := getattr(response.body, "aclose", None)) is not None:
            await aclose()
    return bytes(content)
