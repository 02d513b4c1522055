"""Records from GCS's JSON resources of objects. Pure.

How it works. The record has the headers of a download (Content-Type, x-goog-generation, x-goog-hash and so on), always
those of the stored form: size and checksums are of the stored bytes, gzip or not. The ETag is the one that GCS's XML
API and S3 have in common, the quoted MD5. A composite object, which has no MD5, gets a quoted one made from its
generation and metageneration.
Source: Cloud Storage documentation, "Objects" (JSON API), "HTTP headers for XML API".
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

from proxy.generations import METAGENERATION, render_etag
from proxy.http.dialect_headers import RESOURCE
from proxy.http.headers import Headers
from proxy.objects import ObjectRecord, ObjectVersion, SumKind

DEFAULT_TYPE = "application/octet-stream"  # what GCS gives an object that was stored without a type
USER_METADATA = "x-goog-meta-"
RESOURCE_FIELDS = (  # of a resource, without links and access rules, which are not worth their bytes
    "kind,name,size,generation,metageneration,md5Hash,crc32c,etag,contentType,contentEncoding,contentLanguage,"
    "contentDisposition,cacheControl,storageClass,timeCreated,updated,timeStorageClassUpdated,metadata,componentCount,"
    "customTime,kmsKeyName,customerEncryption,temporaryHold,eventBasedHold,retentionExpirationTime"
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_NUMBER = re.compile(r"[0-9]{1,19}")


def read_resource(
    origin: str, bucket: str, key: str, resource: Mapping[str, Any], checked_at_s: float
) -> ObjectRecord | None:
    """Return the record of a JSON resource; None if it is not an object's."""
    generation, size_bytes = _number(resource.get("generation")), _number(resource.get("size"))
    if not generation or size_bytes is None:
        return None
    md5, crc32c = _digest(resource.get("md5Hash"), 16), _digest(resource.get("crc32c"), 4)
    etag = listed_etag(resource)
    last_modified_s = parse_time(resource.get("updated"))
    metadata = resource.get("metadata")
    user_metadata = _wire_pairs(metadata.items() if isinstance(metadata, dict) else ())
    headers = [("etag", etag), *_description(resource)]
    if last_modified_s is not None:
        headers.append(("last-modified", formatdate(int(last_modified_s), usegmt=True)))
    headers += _stored_form(resource, generation, size_bytes)
    headers += [("x-goog-hash", f"{kind}={_base64(raw)}") for kind, raw in (("crc32c", crc32c), ("md5", md5)) if raw]
    headers += [
        (USER_METADATA + name.lower(), _one_line(value))
        for name, value in user_metadata
        if _TOKEN.fullmatch(name) is not None
    ]
    kept = {field: resource[field] for field in RESOURCE_FIELDS.split(",") if field in resource}
    headers.append((RESOURCE, json.dumps(kept)))
    return ObjectRecord(
        version=ObjectVersion(origin, bucket, key, f"generation {generation}", size_bytes),
        etag=etag,
        last_modified_s=last_modified_s,
        headers=tuple(headers),
        checked_at_s=checked_at_s,
        sums=((SumKind.CRC32C, int.from_bytes(crc32c, "big")),) if crc32c is not None else (),
        md5=md5.hex() if md5 is not None else None,
        generation=generation,
        user_metadata=user_metadata,
        cacheable="customerEncryption" not in resource,
    )


def listed_etag(resource: Mapping[str, Any]) -> str:
    """Return the ETag of an object, the same in its metadata and in a listing."""
    md5 = _digest(resource.get("md5Hash"), 16)
    if md5 is not None:
        return f'"{md5.hex()}"'
    return f'"-{render_etag(_number(resource.get("generation")) or 0, _metageneration(resource))}"'


def parse_time(value: object) -> float | None:
    """Return the Unix seconds of an RFC 3339 time, or None."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if moment is None:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


_DESCRIPTIONS = {  # a download's header, and the resource's field
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
    "content-language": "contentLanguage",
    "content-disposition": "contentDisposition",
    "cache-control": "cacheControl",
    "x-goog-storage-class": "storageClass",
    "x-goog-component-count": "componentCount",
    "x-goog-custom-time": "customTime",
    "x-goog-encryption-kms-key-name": "kmsKeyName",
}


def _description(resource: Mapping[str, Any]) -> Headers:
    found = {"contentType": DEFAULT_TYPE} | {
        field: value for field, value in resource.items() if value not in ("", None)
    }
    values = ((name, found.get(field)) for name, field in _DESCRIPTIONS.items())
    return tuple((name, _one_line(_wire(value))) for name, value in values if isinstance(value, str | int))


def _stored_form(resource: Mapping[str, Any], generation: int, size_bytes: int) -> Headers:
    return (
        ("x-goog-generation", str(generation)),
        ("x-goog-metageneration", str(_metageneration(resource))),
        ("x-goog-stored-content-encoding", _one_line(_wire(resource.get("contentEncoding") or "identity"))),
        ("x-goog-stored-content-length", str(size_bytes)),
    )


def _metageneration(resource: Mapping[str, Any]) -> int:
    return _number(resource.get("metageneration")) or METAGENERATION


def _one_line(value: str) -> str:
    """Make a value fit for a header: a line break in metadata must not begin another header."""
    return _CONTROL.sub(" ", value).strip()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _wire_pairs(pairs: Iterable[tuple[object, object]]) -> Headers:
    return tuple((_wire(name), _wire(value)) for name, value in pairs)


def _wire(value: object) -> str:
    """Return a text in this code base's form of header values: its UTF-8 bytes as latin-1."""
    return str(value).encode("utf-8", "replace").decode("latin-1")


def _number(value: object) -> int | None:
    """Parse a number; 64-bit numbers are strings in JSON."""
    text = str(value) if isinstance(value, str | int) else ""
    return int(text) if _NUMBER.fullmatch(text) is not None else None


def _digest(value: object, length: int) -> bytes | None:
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == length else None
