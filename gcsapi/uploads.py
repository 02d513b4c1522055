"""Uploads: which object a request writes, where only its body or an earlier request says so.

How it works. The JSON API's uploads name their object in the query, or in a JSON resource: the whole body of a
resumable upload's first request, or the first part of a multipart one. Only these are read ahead, and then they go on
with the rest.
The later requests of a resumable upload say nothing but a session: see `sessions`.
Source: Cloud Storage documentation, "Uploads and downloads", "Resumable uploads", "Performing resumable uploads".
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from proxy.errors import InvalidRequest
from proxy.surface.multipart import parse_delimiter

RESOURCE_BYTES_MAX = 1 << 20


def parse_resource(content: bytes) -> dict[str, Any]:
    """A JSON object; nothing is an empty one. Raises InvalidRequest("parseError")."""
    if len(content) > RESOURCE_BYTES_MAX:
        raise InvalidRequest("parseError", f"A resource has up to {RESOURCE_BYTES_MAX} bytes.")
    try:
        resource = json.loads(content) if content.strip() else {}
    except (ValueError, RecursionError):
        resource = None
    if not isinstance(resource, dict):
        raise InvalidRequest("parseError", "The request's body is no JSON object.")
    return resource


def object_name(parameters: Mapping[str, str], resource: Mapping[str, Any]) -> str:
    """The name that an upload writes: the query's, which outranks the resource's. Raises InvalidRequest."""
    name = parameters.get("name") or resource.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("required", "Required parameter: name")
    return name


async def read_first_part(content_type: str, body: AsyncIterator[bytes]) -> tuple[dict[str, Any], bytes]:
    """The resource in a multipart upload's first part, and the bytes that were read to find it.

    Raises InvalidRequest: the body is malformed, or the part too long.
    """
    delimiter = boundary_of(content_type)
    read, worth_parsing_bytes = bytearray(), 0
    async for data in body:
        read += data
        if len(read) < worth_parsing_bytes:
            continue
        part = first_part(bytes(read), delimiter)
        if part is not None:
            return parse_resource(part), bytes(read)
        worth_parsing_bytes = len(read) * 5 // 4  # a part that trickles in is not parsed anew for each byte
        if len(read) > RESOURCE_BYTES_MAX:
            break
    part = first_part(bytes(read), delimiter)
    if part is not None:
        return parse_resource(part), bytes(read)
    raise InvalidRequest("parseError", "The multipart body has no first part, or one that is too long.")


def boundary_of(content_type: str) -> bytes:
    """The line that delimits the parts. Raises InvalidRequest."""
    delimiter = parse_delimiter(content_type)
    if delimiter is None:
        raise InvalidRequest("invalid", "A Content-Type of multipart/related or multipart/mixed names its boundary.")
    return delimiter


def first_part(read: bytes, delimiter: bytes) -> bytes | None:
    """The content of the first part, once the second has begun; None: more is needed."""
    begin = read.find(delimiter)
    end = _next_delimiter(delimiter).search(read, begin + len(delimiter)) if begin >= 0 else None
    return _cut_head(read[begin : end.start()])[1] if end is not None else None


def second_part(content: bytes, delimiter: bytes) -> tuple[dict[str, str], bytes]:
    """Headers and content of the second part of a whole body. Raises InvalidRequest."""
    parts = _next_delimiter(delimiter).split(b"\r\n" + content, maxsplit=4)
    if len(parts) != 4 or not parts[3].startswith(b"--"):
        raise InvalidRequest("parseError", "The multipart body has not two parts.")
    head, data = _cut_head(parts[2])
    lines = (line.partition(b":") for line in head.splitlines() if b":" in line)
    return {name.strip().lower().decode("latin-1"): value.strip().decode("latin-1") for name, _, value in lines}, data


def _next_delimiter(delimiter: bytes) -> re.Pattern[bytes]:
    """Lines end as RFC 2046 has it, or, as gcsfs sends them, with a bare newline."""
    return re.compile(rb"\r?\n" + re.escape(delimiter))


def _cut_head(part: bytes) -> tuple[bytes, bytes]:
    """A part's head and content; what is left of the delimiter's line counts to the head."""
    found = re.search(rb"\r?\n\r?\n", part)
    return (part[: found.start()], part[found.end() :]) if found is not None else (part, b"")
