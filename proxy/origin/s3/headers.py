"""Parsers of S3's response headers. Pure.

Header lists have lower-case names; values are latin-1.
"""

from __future__ import annotations

import base64
import binascii
import re

from proxy.conditions import parse_http_date
from proxy.http.dialect_headers import OWN_HEADERS
from proxy.http.headers import Headers, connection_headers
from proxy.objects import ObjectRecord, ObjectVersion, SumKind
from proxy.origin.headers import first_value

# Headers of one answer or one connection, not of the object.
_PER_ANSWER = frozenset(
    [
        "accept-ranges",
        "age",
        "alt-svc",
        "content-length",
        "content-range",
        "date",
        "server",
        "set-cookie",
        "strict-transport-security",
        "via",
        "x-amz-content-sha256",
        "x-amz-cf-id",
        "x-amz-cf-pop",
        "x-amz-date",
        "x-amz-id-2",
        "x-amz-mp-parts-count",
        "x-amz-request-charged",
        "x-amz-request-id",
        "x-amzn-requestid",
        "x-cache",
    ]
)
_PARTS_ETAG = re.compile(r'"[^"]*-\d+"')
_MD5_ETAG = re.compile(r'"([0-9a-f]{32})"')
_SUM_BYTES = {SumKind.CRC32C: 4, SumKind.CRC32: 4, SumKind.CRC64NVME: 8}
_USER_METADATA = "x-amz-meta-"


def read_record(
    origin: str, bucket: str, key: str, version_id: str | None, size_bytes: int, headers: Headers, checked_at_s: float
) -> ObjectRecord:
    """Return the record of a key, from an answer that gave its size."""
    etag = first_value(headers, "etag") or ""
    last_modified = first_value(headers, "last-modified")
    validator = read_validator(version_id, etag, last_modified)
    sealed = first_value(headers, "x-amz-server-side-encryption-customer-algorithm") is not None
    headers = _without_doubtful_sums(headers, etag)
    return ObjectRecord(
        version=ObjectVersion(origin, bucket, key, validator, size_bytes),
        etag=etag,
        last_modified_s=parse_http_date(last_modified) if last_modified is not None else None,
        headers=object_headers(headers),
        checked_at_s=checked_at_s,
        sums=read_sums(headers),
        md5=_read_md5(etag, headers),
        user_metadata=tuple(
            (name.removeprefix(_USER_METADATA), value) for name, value in headers if name.startswith(_USER_METADATA)
        ),
        cacheable=not validator.startswith("none") and not sealed,
    )


def read_validator(version_id: str | None, etag: str, last_modified: str | None) -> str:
    """Return the validator, which distinguishes this content from the key's other contents.

    It is `version <id>` if the client asked for one, else `etag <etag>`. The version `null` is overwritten in place, so
    its ETag is included. A weak ETag may stand for several contents, so its Last-Modified is included. `none ...` means
    that there is no validator: such an object must not be cached.
    """
    if version_id is not None and version_id != "null":
        return f"version {version_id}"
    if not etag:
        return f"none {last_modified or ''}".rstrip()
    dated = etag if is_strong(etag) else f"{etag} {last_modified or ''}".rstrip()
    return f"version null {dated}" if version_id is not None else f"etag {dated}"


def is_strong(etag: str) -> bool:
    """Return whether a condition may use the ETag: it is in quotes, and not weak."""
    return len(etag) >= 2 and etag.startswith('"') and etag.endswith('"')


def parse_validator(validator: str) -> tuple[str | None, str | None]:
    """Return the version id and the strong ETag for a request of that content; None for one that it lacks."""
    kind, _, value = validator.partition(" ")
    version_id = None
    if kind == "version":
        version_id, _, value = value.partition(" ")
    etag = value if kind != "none" and is_strong(value) else None
    return version_id, etag


def object_headers(headers: Headers) -> Headers:
    """Return the headers that belong to the object, in order; see `ObjectRecord.headers`."""
    named = connection_headers(headers)
    return tuple(
        (name, value)
        for name, value in headers
        if name not in _PER_ANSWER and name not in named and not name.startswith(("access-control-", OWN_HEADERS))
    )


def _without_doubtful_sums(headers: Headers, etag: str) -> Headers:
    """Drop a multipart object's checksum without a type: it may be composite (moto's HEAD) and can't be checked."""
    if first_value(headers, "x-amz-checksum-type") is not None or not _PARTS_ETAG.fullmatch(etag):
        return headers
    return without_sums(headers)


def without_sums(headers: Headers) -> Headers:
    return tuple((name, value) for name, value in headers if not name.startswith("x-amz-checksum-"))


def read_sums(headers: Headers) -> tuple[tuple[SumKind, int], ...]:
    """Return the full-object checksums: of type FULL_OBJECT or, without a type, without `-N` in the value."""
    kind_of_all = first_value(headers, "x-amz-checksum-type")
    if kind_of_all is not None and kind_of_all.upper() != "FULL_OBJECT":
        return ()
    found = []
    for kind, length in _SUM_BYTES.items():
        value = first_value(headers, f"x-amz-checksum-{kind.value}")
        number = _decode_sum(value, length) if value is not None else None
        if number is not None:
            found.append((kind, number))
    return tuple(found)


def _decode_sum(value: str, length: int) -> int | None:
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None  # a composite's `-N`, or nonsense
    return int.from_bytes(raw, "big") if len(raw) == length else None


def _read_md5(etag: str, headers: Headers) -> str | None:
    """Return the MD5 in hex, if the ETag is one: not for multipart uploads, nor with KMS or customer keys."""
    encryption = first_value(headers, "x-amz-server-side-encryption")
    found = _MD5_ETAG.fullmatch(etag)
    return found[1] if found is not None and encryption in (None, "AES256") else None
