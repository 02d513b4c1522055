"""From an HTTP request's head to one operation value. Pure: no I/O, no configuration but the host suffixes.

How it works. A GET or HEAD of an object is a `Read`, answered from the cache: its bytes (`alt=media`, `/download/`, the
XML API) or its resource (`alt=json`). Everything else is a `Pass`: sent on where the bucket is at GCS, answered in the
gateway's own words where it is not and that is possible. A read that only GCS can answer (a customer's own key, access
rules, soft-deleted objects) is a `Pass`, too.
Tokens, signatures and hop-by-hop headers end here; an operation carries none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from gcsapi.auth import SIGNATURE_HEADERS, is_signed, without_signature
from gcsapi.operations import (
    METHODS,
    XML_PARTS,
    mutates,
    name_json_operation,
    name_xml_operation,
    parameters_of,
    written_by_json,
    written_by_xml,
)
from gcsapi.targets import JsonTarget, XmlTarget, json_endpoint, parse_target
from proxy.conditions import Conditions, GenerationConditions
from proxy.errors import InvalidRequest
from proxy.gateway.answers import ReadObject
from proxy.http.dialects import sniff
from proxy.http.headers import FRAMING, connection_headers, join_fields
from proxy.http.targets import Query, split_target
from proxy.objects import ObjectName
from proxy.ranges import parse_range

Headers = tuple[tuple[str, str], ...]

OVERRIDES = {  # of the XML API
    "response-content-disposition": "content-disposition",
    "response-content-type": "content-type",
}
ANONYMOUS_OVERRIDE = "Request specific response headers cannot be used for anonymous GET requests."
_GENERATION = re.compile(r"[0-9]{1,19}")
_INT64_MAX = (1 << 63) - 1
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CUSTOMER_KEY = "x-goog-encryption-"


class Api(Enum):
    """Which of GCS's two a request speaks, and so in which its errors are told."""

    JSON = "json"
    XML = "xml"


@dataclass(frozen=True, slots=True)
class Read:
    """An object's bytes (`media`) or its resource, and what of the request only the rendering needs.

    `pin` is the generation that the request names. `bare`: nothing in it says whose client asks.
    """

    operation: str
    api: Api
    request: ReadObject
    media: bool = True
    fields: str | None = None
    overrides: Headers = ()  # response header and its value
    accepts_gzip: bool = False
    pin: int | None = None
    bare: bool = False


@dataclass(frozen=True, slots=True)
class BodyForm:
    """How a request's body comes. `length_bytes` is None if unknown (chunked coding)."""

    present: bool = False
    length_bytes: int | None = None
    expects_continue: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """An operation that is no read of an object. `written` are the names whose cached record ends with it.

    `media`: its answer is an object's bytes. `instead` is the read that it is at an origin which has no access rules.
    """

    operation: str
    api: Api
    method: str
    target: JsonTarget | XmlTarget
    parameters: Mapping[str, str]
    headers: Headers
    body: BodyForm = field(default_factory=BodyForm)
    written: tuple[ObjectName, ...] = ()
    media: bool = False
    instead: Read | None = None

    @property
    def mutates(self) -> bool:
        return mutates(self.method)

    @property
    def query(self) -> Query:
        return self.target.query

    def header(self, name: str) -> str | None:
        return next((value for found, value in self.headers if found == name), None)


Operation = Read | Pass


def api_of(target: bytes) -> Api:
    """Which API the raw target belongs to on a path-style host, however wrong it may be otherwise."""
    try:
        _, path, _ = split_target(target, None)
    except InvalidRequest:
        return Api.XML
    return Api.JSON if json_endpoint(path) is not None else Api.XML


def parse_request(
    method: str, target: bytes, raw_headers: Iterable[tuple[bytes, bytes]], host_suffixes: Sequence[str] = ()
) -> Operation:
    """`raw_headers` have lower-case names. Raises InvalidRequest."""
    raw = tuple(raw_headers)
    headers = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw])
    fields = join_fields(headers)
    parsed = parse_target(target, fields.get("host"), host_suffixes)
    if method == "POST" and "x-http-method-override" in fields:
        method = fields["x-http-method-override"].strip().upper()
    if method not in METHODS:
        raise InvalidRequest("MethodNotAllowed", "The specified method is not allowed against this resource.")
    json = isinstance(parsed, JsonTarget)
    signed = is_signed(parsed.query, fields)
    parsed = replace(parsed, query=without_signature(parsed.query, json=json))
    parameters = parameters_of(parsed.query)
    if isinstance(parsed, JsonTarget):
        return _parse_json(method, parsed, parameters, headers, fields)
    bare = sniff(dict(raw), target.partition(b"?")[2]) is None
    if parsed.name is not None and not signed and any(name.lower() in OVERRIDES for name in parameters):
        raise InvalidRequest("InvalidArgument", ANONYMOUS_OVERRIDE)
    return _parse_xml(method, parsed, parameters, headers, fields, bare=bare)


# The JSON API


def _parse_json(
    method: str, parsed: JsonTarget, parameters: Mapping[str, str], headers: Headers, fields: Mapping[str, str]
) -> Operation:
    alt = parameters.get("alt", "media" if parsed.endpoint == "download" else "json")
    if alt not in ("json", "media"):
        raise InvalidRequest("invalidAltValue", f"Invalid value for alt: {alt[:100]}. Valid values: [json, media]")
    operation = name_json_operation(method, parsed)
    passed = _pass(operation, Api.JSON, method, parsed, parameters, headers, fields, written_by_json(method, parsed))
    if method not in ("GET", "HEAD") or parsed.name is None or parsed.part:
        return passed
    pin = _parse_number(parameters, "generation")
    conditions = Conditions(
        if_modified_since=fields.get("if-modified-since"),
        if_unmodified_since=fields.get("if-unmodified-since"),
        if_range=fields.get("if-range"),
        generations=GenerationConditions(
            pin=pin,
            match=_parse_number(parameters, "ifGenerationMatch"),
            not_match=_parse_number(parameters, "ifGenerationNotMatch"),
            meta_match=_parse_number(parameters, "ifMetagenerationMatch"),
            meta_not_match=_parse_number(parameters, "ifMetagenerationNotMatch"),
            etag_match=fields.get("if-match"),
            etag_none_match=fields.get("if-none-match"),
        ),
    )
    media = alt == "media" or parsed.endpoint == "download"
    request = _read_object(method, parsed.bucket, parsed.name, conditions, fields, media=media)
    read = Read(operation, Api.JSON, request, media, parameters.get("fields"), (), _accepts_gzip(fields), pin)
    if _has_customer_key(fields):
        return replace(passed, media=media)
    if parameters.get("projection", "noAcl") == "full" or "softDeleted" in parameters:
        return replace(passed, media=media, instead=read)
    return read


# The XML API


def _parse_xml(
    method: str,
    parsed: XmlTarget,
    parameters: Mapping[str, str],
    headers: Headers,
    fields: Mapping[str, str],
    *,
    bare: bool,
) -> Operation:
    operation = name_xml_operation(method, parsed)
    passed = _pass(operation, Api.XML, method, parsed, parameters, headers, fields, written_by_xml(method, parsed))
    if method not in ("GET", "HEAD") or parsed.name is None or not XML_PARTS.isdisjoint(parameters):
        return passed
    pin = _parse_number(parameters, "generation")
    conditions = Conditions(
        if_match=fields.get("if-match"),
        if_none_match=fields.get("if-none-match"),
        if_modified_since=fields.get("if-modified-since"),
        if_unmodified_since=fields.get("if-unmodified-since"),
        if_range=fields.get("if-range"),
        generations=GenerationConditions(
            pin=pin,
            match=_parse_number(fields, "x-goog-if-generation-match"),
            meta_match=_parse_number(fields, "x-goog-if-metageneration-match"),
        ),
    )
    request = _read_object(method, parsed.bucket, parsed.name, conditions, fields, media=True)
    overrides = _overrides(parameters)
    accepts_gzip = _accepts_gzip(fields)
    read = Read(operation, Api.XML, request, overrides=overrides, accepts_gzip=accepts_gzip, pin=pin, bare=bare)
    if _has_customer_key(fields):
        return replace(passed, media=True)
    return replace(passed, media=True, instead=read) if "origin" in fields else read


# What both have


def _read_object(
    method: str, bucket: str, name: str, conditions: Conditions, fields: Mapping[str, str], *, media: bool
) -> ReadObject:
    return ReadObject(
        name=ObjectName(bucket, name),
        head_only=method == "HEAD" or not media,
        range=parse_range(fields.get("range")) if media else None,
        conditions=conditions,
        revalidate=_wants_revalidation(fields.get("cache-control")),
        wants_sums=True,  # Google's clients compare a whole body with `x-goog-hash`
    )


def _pass(
    operation: str,
    api: Api,
    method: str,
    target: JsonTarget | XmlTarget,
    parameters: Mapping[str, str],
    headers: Headers,
    fields: Mapping[str, str],
    written: tuple[ObjectName, ...],
) -> Pass:
    dropped = connection_headers(headers) | FRAMING | SIGNATURE_HEADERS | {"x-http-method-override"}
    kept = tuple(pair for pair in headers if pair[0] not in dropped)
    body = _parse_body_form(fields)
    if method == "HEAD" and body.present:
        raise InvalidRequest("invalid", "A HEAD has no body.")
    return Pass(operation, api, method, target, parameters, kept, body, written)


def _parse_body_form(fields: Mapping[str, str]) -> BodyForm:
    length = fields.get("content-length")
    length_bytes = int(length) if length is not None and re.fullmatch(r"[0-9]{1,18}", length) else None
    return BodyForm(
        present="transfer-encoding" in fields or bool(length_bytes),
        length_bytes=length_bytes,
        expects_continue=fields.get("expect", "").lower() == "100-continue",
    )


def _parse_number(values: Mapping[str, str], name: str) -> int | None:
    """A generation or metageneration; None where there is none."""
    value = values.get(name)
    if value is None:
        return None
    if _GENERATION.fullmatch(value.strip()) is None or int(value) > _INT64_MAX:
        raise InvalidRequest("invalid", f"Invalid value for {name}: '{value[:100]}' is no 64-bit number.")
    return int(value)


def _wants_revalidation(cache_control: str | None) -> bool:
    """`no-transform` is another wish; see Cloud Storage documentation, "Cache-Control"."""
    if cache_control is None:
        return False
    words = {word.strip().lower() for word in cache_control.split(",")}
    return "no-cache" in words or "max-age=0" in words


def _accepts_gzip(fields: Mapping[str, str]) -> bool:
    for item in fields.get("accept-encoding", "").lower().split(","):
        name, _, weight = item.partition(";")
        if name.strip() == "gzip":
            return re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight) is None
    return False


def _has_customer_key(fields: Mapping[str, str]) -> bool:
    return any(name.startswith(_CUSTOMER_KEY) for name in fields)


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
