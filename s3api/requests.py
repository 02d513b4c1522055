"""From an HTTP request's head to one operation value. Pure: no I/O, no configuration but the host suffixes.

How it works. A GET or HEAD of an object is a `Read`, answered from the cache, as long as everything in it is
understood: `versionId`, `partNumber`, `response-*`, the odd `x-id`. Everything else is a `Pass`, sent on to the origin
with the list of names it writes: other methods, buckets, sub-resources (`?acl`), parameters that nobody here knows
(they may change the answer), SSE-C reads (bytes that may not be stored), and reads that only the origin can judge
(who pays, who owns the bucket, which web pages may look).
Signatures, hop-by-hop headers and `aws-chunked` framing end here; an operation carries none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from proxy.conditions import Conditions
from proxy.errors import InvalidRequest, NotSupported
from proxy.gateway.answers import ReadObject
from proxy.http.dialects import sniff
from proxy.http.headers import FRAMING, connection_headers, join_fields
from proxy.objects import ObjectName
from proxy.ranges import parse_range
from s3api.auth import SIGNATURE_HEADERS, is_signed, without_signature
from s3api.chunked import ChunkedForm, parse_chunked_form, without_framing
from s3api.operations import (
    METHODS,
    mutates,
    name_bucket_operation,
    name_object_operation,
    name_service_operation,
    writes_key,
)
from s3api.targets import Query, S3Target, parse_target

OVERRIDES = {  # S3 API reference, GetObject, "Overriding response header values"
    "response-cache-control": "cache-control",
    "response-content-disposition": "content-disposition",
    "response-content-encoding": "content-encoding",
    "response-content-language": "content-language",
    "response-content-type": "content-type",
    "response-expires": "expires",
}
ANONYMOUS_OVERRIDE = "Request specific response headers cannot be used for anonymous GET requests."
COPY_SOURCE = "x-amz-copy-source"
PART_NUMBER_MAX = 10_000
# A client offers to move the data by RDMA (NVIDIA cuObject, NIXL, aws-c-s3's RDMA protocol specification). A server
# without it says so in each answer, serves reads by HTTP, and refuses uploads: they come without their data.
RDMA_PREFIX = "x-amz-rdma-"
RDMA_TOKEN = "x-amz-rdma-token"
RDMA_DECLINED = ("x-amz-rdma-reply", "501")
_READ_PARAMETERS = frozenset({"versionId", "partNumber", "x-id", *OVERRIDES})
_PASS_HEADERS = frozenset(
    {
        "origin",  # a browser: the CORS headers of the answer are the origin's, for this very page
        "x-amz-expected-bucket-owner",
        "x-amz-request-payer",
        "x-amz-server-side-encryption-customer-algorithm",
        "x-amz-server-side-encryption-customer-key",
        "x-amz-server-side-encryption-customer-key-md5",
    }
)
_METHOD_HEADERS = frozenset({"x-http-method", "x-http-method-override", "x-method-override"})  # by which others judge
PASS_HEADERS = frozenset(name.encode() for name in _PASS_HEADERS)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Read:
    """GetObject or HeadObject, and what of the request only its rendering needs.

    `bare`: nothing in the request says which dialect's client asks.
    """

    operation: str
    request: ReadObject
    overrides: Headers = ()  # response header and its value
    wants_checksum: bool = False
    bare: bool = False


@dataclass(frozen=True, slots=True)
class BodyForm:
    """How a request's body comes. `length_bytes` is the decoded body's, None if unknown (chunked coding)."""

    present: bool = False
    length_bytes: int | None = None
    chunked: ChunkedForm | None = None
    payload_hash: str | None = None
    expects_continue: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """An operation that goes on to the origin. `bucket` is "" for the service, `key` None for the bucket.

    `written` are the names whose cached record ends with it; where the body holds them, `body_names` says how
    ("delete": DeleteObjects' XML, "form": a POST form). `instead` is the read that it is at an origin which has none of
    S3's parameters and payers (a directory).
    """

    operation: str
    method: str
    bucket: str
    key: str | None
    query: Query
    headers: Headers
    body: BodyForm = field(default_factory=BodyForm)
    mutates: bool = False
    written: tuple[ObjectName, ...] = ()
    body_names: str | None = None
    instead: Read | None = None


Operation = Read | Pass


def parse_request(
    method: str, target: bytes, raw_headers: Iterable[tuple[bytes, bytes]], host_suffixes: Sequence[str] = ()
) -> Operation:
    """`raw_headers` have lower-case names. Raises InvalidRequest with S3's code."""
    if method not in METHODS:
        raise InvalidRequest("MethodNotAllowed", "The specified method is not allowed against this resource.")
    raw = tuple(raw_headers)
    headers = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw])
    fields = join_fields(headers)
    parsed = parse_target(target, fields.get("host"), host_suffixes)
    query = without_signature(parsed.query)
    if method in ("GET", "HEAD") and parsed.key is not None:
        operation = _parse_object_read(method, parsed, query, headers, fields)
        if sniff(dict(raw), target.partition(b"?")[2]) is not None:
            return operation
        if isinstance(operation, Read):
            return replace(operation, bare=True)
        return (
            operation
            if operation.instead is None
            else replace(operation, instead=replace(operation.instead, bare=True))
        )
    return _parse_pass(method, parsed, query, headers, fields)


def written_names(bucket: str, key: str, version_id: str | None = None) -> tuple[ObjectName, ...]:
    """What a write of a key may change: the key's current version, its null version, and the version it names.

    Other versions never change: a versioned bucket gives each write an id of its own.
    """
    plain = (ObjectName(bucket, key), ObjectName(bucket, key, "null"))
    return plain if version_id in (None, "", "null") else (*plain, ObjectName(bucket, key, version_id))


def _parse_object_read(
    method: str, parsed: S3Target, query: Query, headers: Headers, fields: Mapping[str, str]
) -> Operation:
    parameters = dict(reversed(query))  # the first of equal names counts
    if any(name.lower() in OVERRIDES for name in parameters) and not is_signed(parsed.query, fields):
        raise InvalidRequest("InvalidRequest", ANONYMOUS_OVERRIDE)
    checksum_mode = fields.get("x-amz-checksum-mode")
    strange = [name for name in parameters if name not in _READ_PARAMETERS]
    if strange and "x-amz-checksum-mode" in (name.lower() for name in strange):  # presigners hoist it into the query
        checksum_mode = next(parameters[name] for name in strange if name.lower() == "x-amz-checksum-mode")
        strange = [name for name in strange if name.lower() != "x-amz-checksum-mode"]
    if not strange and _PASS_HEADERS.isdisjoint(fields):
        return _parse_read(method, parsed, parameters, fields, checksum_mode)
    passed = _parse_pass(method, parsed, query, headers, fields)
    known = name_object_operation("GET", parameters.keys()) != "GetObject"
    encrypted = any(name.startswith("x-amz-server-side-encryption") for name in (*fields, *map(str.lower, strange)))
    if known or encrypted:
        return passed
    return Pass(
        passed.operation,
        method,
        parsed.bucket,
        parsed.key,
        query,
        passed.headers,
        instead=_parse_read(method, parsed, parameters, fields, checksum_mode),
    )


def _parse_read(
    method: str, parsed: S3Target, parameters: Mapping[str, str], fields: Mapping[str, str], checksum_mode: str | None
) -> Read:
    assert parsed.key is not None
    version_id = parameters.get("versionId")
    if version_id == "":
        raise InvalidRequest("InvalidArgument", "Version id cannot be the empty string.")
    part_number = _parse_part_number(parameters.get("partNumber"))
    if part_number is not None and "range" in fields:
        raise InvalidRequest("InvalidRequest", "Cannot specify both Range header and partNumber query parameter.")
    wants_checksum = checksum_mode is not None and checksum_mode.upper() == "ENABLED"
    request = ReadObject(
        name=ObjectName(parsed.bucket, parsed.key, version_id),
        head_only=method == "HEAD",
        range=parse_range(fields.get("range")),
        part_number=part_number,
        conditions=Conditions(
            if_match=fields.get("if-match"),
            if_none_match=fields.get("if-none-match"),
            if_modified_since=fields.get("if-modified-since"),
            if_unmodified_since=fields.get("if-unmodified-since"),
            if_range=fields.get("if-range"),
        ),
        revalidate=_wants_revalidation(fields.get("cache-control")),
        wants_sums=wants_checksum,
    )
    return Read("HeadObject" if request.head_only else "GetObject", request, _overrides(parameters), wants_checksum)


def _parse_part_number(value: str | None) -> int | None:
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value) is None or not 1 <= int(value) <= PART_NUMBER_MAX:
        raise InvalidRequest("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive.")
    return int(value)


def _wants_revalidation(cache_control: str | None) -> bool:
    if cache_control is None:
        return False
    words = {word.strip().lower() for word in cache_control.split(",")}
    return "no-cache" in words or "max-age=0" in words


def _overrides(parameters: Mapping[str, str]) -> Headers:
    """Header values are UTF-8 on the wire, so here their bytes as latin-1."""
    found = []
    for parameter, header in OVERRIDES.items():
        value = parameters.get(parameter)
        if value is None:
            continue
        if _CONTROL.search(value) is not None:
            raise InvalidRequest("InvalidArgument", f"The value of {parameter} has characters that no header may have.")
        found.append((header, value.encode("utf-8", "surrogateescape").decode("latin-1")))
    return tuple(found)


def _parse_pass(method: str, parsed: S3Target, query: Query, headers: Headers, fields: Mapping[str, str]) -> Pass:
    parameters = dict(reversed(query))
    operation = _name_operation(method, parsed, parameters, fields)
    body_names = None
    if operation == "DeleteObjects":
        body_names = "delete"
    elif operation == "PostObject" and fields.get("content-type", "").lower().startswith("multipart/form-data"):
        body_names = "form"
    written: tuple[ObjectName, ...] = ()
    if parsed.key is not None and writes_key(method, operation):
        written = written_names(parsed.bucket, parsed.key, parameters.get("versionId"))
    body = _parse_body_form(fields)
    if method == "HEAD" and body.present:
        raise InvalidRequest("InvalidRequest", "A HEAD has no body.")
    if (
        RDMA_TOKEN in fields
        and operation in ("PutObject", "UploadPart")
        and (not body.present or body.length_bytes == 0)
    ):
        raise NotSupported("RDMA is not possible here: send the data in the request's body.")
    if "x-amz-rename-source" in fields:
        raise NotSupported("RenameObject is not possible through this gateway: copy the object, then delete it.")
    return Pass(
        operation=operation,
        method=method,
        bucket=parsed.bucket,
        key=parsed.key,
        query=query,
        headers=_passed_headers(headers, fields, body.chunked),
        body=body,
        mutates=mutates(method, operation),
        written=written,
        body_names=body_names,
    )


def _name_operation(method: str, parsed: S3Target, parameters: Mapping[str, str], fields: Mapping[str, str]) -> str:
    if not parsed.bucket:
        return name_service_operation(method)
    if parsed.key is None:
        return name_bucket_operation(method, parameters.keys())
    return name_object_operation(
        method, parameters.keys(), copies=COPY_SOURCE in fields, selects=_selects(parsed.query)
    )


def _selects(query: Query) -> bool:
    """Whether a POST is a SelectObjectContent, exactly as S3 has it: with more to it, it might be a write."""
    asked = [pair for pair in without_signature(query) if pair[0] != "x-id"]
    return sorted(asked) == [("select", ""), ("select-type", "2")]


def _parse_body_form(fields: Mapping[str, str]) -> BodyForm:
    length = fields.get("content-length")
    length_bytes = int(length) if length is not None and re.fullmatch(r"[0-9]{1,18}", length) else None
    present = "transfer-encoding" in fields or bool(length_bytes)
    chunked = parse_chunked_form(fields) if present or length is not None else None
    if chunked is not None and not present and chunked.decoded_bytes > 0:
        raise InvalidRequest("IncompleteBody", "You did not provide the number of bytes that you announced.")
    claimed = fields.get("x-amz-content-sha256")
    return BodyForm(
        present=present,
        length_bytes=length_bytes if chunked is None else chunked.decoded_bytes,
        chunked=chunked,
        payload_hash=claimed.lower() if chunked is None and claimed and _SHA256.fullmatch(claimed) else None,
        expects_continue=fields.get("expect", "").lower() == "100-continue",
    )


def _passed_headers(headers: Headers, fields: Mapping[str, str], chunked: ChunkedForm | None) -> Headers:
    dropped = connection_headers(headers) | FRAMING | SIGNATURE_HEADERS | _METHOD_HEADERS
    kept = tuple(pair for pair in headers if pair[0] not in dropped and not pair[0].startswith(RDMA_PREFIX))
    return kept if chunked is None else without_framing(kept, chunked)


def copy_source(headers: Headers) -> str | None:
    """The value of the one header that names a copy's source. Raises InvalidRequest where another vendor's does."""
    sources = [value for name, value in headers if name.endswith("-copy-source")]
    named = [value for name, value in headers if name == COPY_SOURCE]
    if len(sources) > 1 or sources != named:
        raise InvalidRequest("InvalidArgument", f"One header names a copy's source: {COPY_SOURCE}.")
    return named[0] if named else None
