"""Writing and deleting where the bucket is at an S3 store: what is simple there, too. The rest is NotSupported.

How it works. An upload in one request (`uploadType=media`, or `multipart` of a small object, or a PUT of the XML API)
becomes a PutObject with the same metadata and checksums, inside the object's fence; the answer is the resource of what
is there then. A deletion looks first, for GCS says 404 where S3 says nothing; one of a generation carries the ETag that
the generation was made of, for stores that heed it. `ifGenerationMatch=0` is S3's
`If-None-Match: *`; other conditions can't be kept there, and are refused rather than dropped, like all that S3 has no
word for.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from gcsapi.exchange import Exchange
from gcsapi.operations import written_names
from gcsapi.passing import upload_kind
from gcsapi.requests import Pass
from gcsapi.resources import RESOURCE_HEADERS
from gcsapi.targets import JsonTarget
from gcsapi.uploads import boundary_of, first_part, object_name, parse_resource, second_part
from proxy.blocks import update_sum
from proxy.errors import (
    AccessDenied,
    InvalidRequest,
    NotFound,
    NotSupported,
    OriginRefused,
    OriginUnavailable,
    OtherGeneration,
    PreconditionFailed,
    WarmstartError,
)
from proxy.gateway.forward import Forwarder, ForwardRequest, ForwardResponse, read_body
from proxy.gateway.routes import BucketRoute
from proxy.generations import generation_of
from proxy.http.dialect_headers import AMZ_METADATA, GOOG_METADATA, render_crc32c
from proxy.lanes.incoming import chain, read_whole
from proxy.objects import ObjectRecord, SumKind

Headers = tuple[tuple[str, str], ...]

WHOLE_BYTES_MAX = 16 << 20  # of a multipart upload; clients send larger objects as resumable ones
ERROR_BYTES_MAX = 64 << 10
_UNKNOWN_FIELDS = ("acl", "contexts", "customTime", "eventBasedHold", "kmsKeyName", "retention", "temporaryHold")
_UNKNOWN_PARAMETERS = ("kmsKeyName", "predefinedAcl", "ifMetagenerationMatch", "ifMetagenerationNotMatch")
_SIMPLE = frozenset({*RESOURCE_HEADERS, "content-md5", "expires"})
_MESSAGE = re.compile(rb"<Message>([^<]{1,1000})</Message>")


@dataclass(frozen=True, slots=True)
class Insert:
    """An object to be written: S3's headers for it, and its content."""

    name: str
    headers: Headers
    body: AsyncIterator[bytes] | None
    body_bytes: int | None


async def insert(exchange: Exchange, forwarder: Forwarder, route: BucketRoute, operation: Pass) -> str:
    """Writes it; returns its name. Raises NotSupported, and what the origin says."""
    forwarder.check_writable(route)
    json_api = isinstance(operation.target, JsonTarget)
    found = await (_read_json_insert if json_api else _read_xml_insert)(exchange, operation)
    request = ForwardRequest(
        "PUT", route.real_bucket, found.name, (), found.headers, body=found.body, body_bytes=found.body_bytes
    )
    try:
        response = await forwarder.forward(route, request, written_names(route.name, found.name), mutates=True)
    except Exception:
        if exchange.body_failure is not None:
            raise exchange.body_failure from None
        raise
    await _expect_success(response, route)
    return found.name


async def delete(forwarder: Forwarder, route: BucketRoute, operation: Pass, record: ObjectRecord) -> None:
    """Deletes the object, whose record is of just now; with a `generation`, that one. Raises what the origin says."""
    conditions = [parameter for parameter in operation.parameters if parameter.startswith("if")]
    conditions += [header for header, _ in operation.headers if header.startswith(("x-goog-if-", "if-"))]
    if conditions:
        raise _unknown(conditions[0])
    asked = operation.parameters.get("generation")
    if asked is not None and asked != str(generation_of(record)):
        raise OtherGeneration(f"generation {asked}")
    headers = (("if-match", record.etag),) if asked is not None and record.strong_etag else ()
    name = record.version.key
    request = ForwardRequest("DELETE", route.real_bucket, name, (), headers)
    response = await forwarder.forward(route, request, written_names(route.name, name), mutates=True)
    await _expect_success(response, route)


async def _read_json_insert(exchange: Exchange, operation: Pass) -> Insert:
    kind = upload_kind(operation)
    parameters = operation.parameters
    for parameter in _UNKNOWN_PARAMETERS:
        if parameter in parameters:
            raise _unknown(parameter)
    headers = _conditions(parameters.get("ifGenerationMatch"))
    if "ifGenerationNotMatch" in parameters:
        raise _unknown("ifGenerationNotMatch")
    body = exchange.body() if operation.body.present else None
    if kind == "media":
        name = object_name(parameters, {})
        described = (("content-type", operation.header("content-type") or "application/octet-stream"),)
        headers += described + _sums(operation.header("x-goog-hash") or "")
        return Insert(name, headers, body, operation.body.length_bytes)
    if kind != "multipart" or body is None:
        raise NotSupported(f"An upload of the kind {kind!r} is not possible for a bucket at an S3 store.")
    delimiter = boundary_of(operation.header("content-type") or "")
    content = await read_whole(exchange.held.counted(body), WHOLE_BYTES_MAX)
    resource, part_headers, data = await asyncio.to_thread(_parse_multipart, content, delimiter)
    resource.setdefault("contentType", part_headers.get("content-type", "application/octet-stream"))
    headers += described_by(resource) + _sums(operation.header("x-goog-hash") or "")
    return Insert(object_name(parameters, resource), headers, chain(data) if data else None, len(data))


async def _read_xml_insert(exchange: Exchange, operation: Pass) -> Insert:
    name = operation.target.name
    if name is None or operation.method != "PUT" or operation.parameters:
        raise NotSupported(f"{operation.operation} by {operation.method} is not possible for a bucket at an S3 store.")
    headers = _conditions(operation.header("x-goog-if-generation-match"))
    for header, value in operation.headers:
        if header.startswith(GOOG_METADATA):
            headers += ((AMZ_METADATA + header.removeprefix(GOOG_METADATA), value),)
        elif header == "x-goog-hash":
            headers += _sums(value)
        elif header in _SIMPLE:
            headers += ((header, value),)
        elif header.startswith("if-") or (header.startswith("x-goog-") and not _is_idle(header, value)):
            raise _unknown(header)
    body = exchange.body() if operation.body.present else None
    return Insert(name, headers, body, operation.body.length_bytes)


def described_by(resource: Mapping[str, Any]) -> Headers:
    """S3's headers of a JSON resource. Raises NotSupported for what they can't say."""
    for field in _UNKNOWN_FIELDS:
        if resource.get(field):
            raise _unknown(field)
    if resource.get("storageClass") not in (None, "STANDARD"):
        raise _unknown("storageClass")
    headers = tuple(
        (header, _wire(resource[field])) for header, field in RESOURCE_HEADERS.items() if resource.get(field)
    )
    metadata = resource.get("metadata")
    if isinstance(metadata, dict):
        headers += tuple((AMZ_METADATA + _wire(name).lower(), _wire(value)) for name, value in metadata.items())
    claimed = ",".join(f"{kind}={resource[field]}" for kind, field in _HASHES if isinstance(resource.get(field), str))
    return headers + _sums(claimed)


def _parse_multipart(content: bytes, delimiter: bytes) -> tuple[dict[str, Any], dict[str, str], bytes]:
    """Resource, and headers and content of the data's part. Raises InvalidRequest."""
    resource = parse_resource(first_part(content, delimiter) or b"")
    part_headers, data = second_part(content, delimiter)
    _check_sums(resource, data)
    return resource, part_headers, data


def _check_sums(resource: Mapping[str, Any], data: bytes) -> None:
    """Raises InvalidRequest where the resource's checksums are not the data's; not every store looks."""
    found = {
        "md5Hash": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode("ascii"),
        "crc32c": render_crc32c(update_sum(SumKind.CRC32C, memoryview(data))),
    }
    for field, value in found.items():
        if resource.get(field) not in (None, value):
            raise InvalidRequest("invalid", f"Provided {field} {str(resource[field])[:100]!r} doesn't match {value!r}.")


_HASHES = (("md5", "md5Hash"), ("crc32c", "crc32c"))


def _sums(claimed: str) -> Headers:
    """The checksums of an `x-goog-hash`, as S3 takes them: it refuses data that has others."""
    names = {"md5": "content-md5", "crc32c": "x-amz-checksum-crc32c"}
    pairs = (item.strip().partition("=") for item in claimed.split(","))
    return tuple((names[kind], value) for kind, _, value in pairs if kind in names and value)


def _conditions(generation: str | None) -> Headers:
    if generation is None:
        return ()
    if generation.strip() != "0":
        raise _unknown("ifGenerationMatch")
    return (("if-none-match", "*"),)


def _is_idle(header: str, value: str) -> bool:
    """Wishes that S3 fulfils anyhow, and words about the client."""
    return header in ("x-goog-api-client", "x-goog-user-project") or (header, value) == (
        "x-goog-storage-class",
        "STANDARD",
    )


def _wire(value: object) -> str:
    """A text as header values are written everywhere here: its UTF-8 bytes as latin-1."""
    return str(value).encode("utf-8", "replace").decode("latin-1")


async def _expect_success(response: ForwardResponse, route: BucketRoute) -> None:
    """Raises the error that an S3 store's answer is."""
    body = await read_body(response, ERROR_BYTES_MAX)
    if response.status >= 300:
        raise _error(response.status, body, route)


def _error(status: int, body: bytes, route: BucketRoute) -> WarmstartError:
    found = _MESSAGE.search(body)
    said = found[1].decode("utf-8", "replace") if found is not None else ""
    match status:
        case 412:
            return PreconditionFailed("ifGenerationMatch")
        case 404:
            return NotFound("bucket", route.name)
        case 403:
            return AccessDenied(f"the origin refuses: {said or status}")
        case 429 | 503:
            return OriginUnavailable(f"the origin throttles ({status})", throttled=True)
    if status >= 500 and status != 501:
        return OriginUnavailable(f"the origin answered {status}")
    return OriginRefused(status, (), b"", said)


def _unknown(what: str) -> NotSupported:
    return NotSupported(f"{what} means nothing to the S3 store where this bucket lives.")
