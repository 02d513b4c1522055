"""What GCS says of an object, as a record: from a JSON resource or from a download's headers. Pure.

How it works. Both ways of asking lead to the same record. Its headers are those that a download carries (Content-Type,
x-goog-generation, x-goog-hash, ...), always of the stored form: size and checksums are of the bytes as they lie there,
gzip or not. The ETag is the one that GCS's XML API and S3 have in common, the quoted MD5; a composite object, which has
no MD5, gets a quoted one that counts its generation and metageneration.
Source: Cloud Storage documentation, "Objects" (JSON API), "HTTP headers for XML API".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

from proxy.conditions import parse_http_date
from proxy.generations import METAGENERATION, render_etag
from proxy.objects import ObjectRecord, ObjectVersion, SumKind
from proxy.origin.headers import Headers, first_value

DEFAULT_TYPE = "application/octet-stream"  # what GCS gives an object that was stored without a type
USER_METADATA = "x-goog-meta-"
RESOURCE_FIELDS = (  # of a resource, all that is read here: links and access rules are not worth their bytes
    "name,size,generation,metageneration,md5Hash,crc32c,contentType,contentEncoding,contentLanguage,contentDisposition,"
    "cacheControl,storageClass,updated,metadata,componentCount,customTime,kmsKeyName,customerEncryption"
)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_NUMBER = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to know, whichever way it was learned. `last_modified_s` is Unix time; texts are as on the wire."""

    generation: int
    metageneration: int
    size_bytes: int
    last_modified_s: float | None
    md5: bytes | None = None
    crc32c: bytes | None = None
    described: Headers = ()  # Content-Type and its like
    user_metadata: Headers = ()
    sealed: bool = False  # with the customer's own key


def read_resource(
    origin: str, bucket: str, key: str, resource: Mapping[str, Any], checked_at_s: float
) -> ObjectRecord | None:
    """The record of a JSON resource; None where that is not one."""
    generation, size_bytes = _number(resource.get("generation")), _number(resource.get("size"))
    if not generation or size_bytes is None:
        return None
    metadata = resource.get("metadata")
    facts = Facts(
        generation=generation,
        metageneration=_number(resource.get("metageneration")) or METAGENERATION,
        size_bytes=size_bytes,
        last_modified_s=parse_time(resource.get("updated")),
        md5=_digest(resource.get("md5Hash"), 16),
        crc32c=_digest(resource.get("crc32c"), 4),
        described=_described_by(resource),
        user_metadata=_wire_pairs(metadata.items() if isinstance(metadata, dict) else ()),
        sealed="customerEncryption" in resource,
    )
    return _record(ObjectVersion(origin, bucket, key, f"generation {generation}", size_bytes), facts, checked_at_s)


def read_media(
    origin: str, bucket: str, key: str, size_bytes: int, headers: Headers, checked_at_s: float
) -> ObjectRecord | None:
    """The record that a download's headers give; None where they name no generation. `size_bytes`: as stored."""
    generation = _number(first_value(headers, "x-goog-generation"))
    if not generation:
        return None
    modified = first_value(headers, "last-modified")
    facts = Facts(
        generation=generation,
        metageneration=_number(first_value(headers, "x-goog-metageneration")) or METAGENERATION,
        size_bytes=size_bytes,
        last_modified_s=parse_http_date(modified) if modified is not None else None,
        md5=read_hash(headers, "md5", 16),
        crc32c=read_hash(headers, "crc32c", 4),
        described=tuple((name, value) for name in _DESCRIPTIONS if (value := first_value(headers, name)) is not None),
        user_metadata=tuple(
            (name.removeprefix(USER_METADATA), value) for name, value in headers if name.startswith(USER_METADATA)
        ),
        sealed=first_value(headers, "x-goog-encryption-key-sha256") is not None,
    )
    return _record(ObjectVersion(origin, bucket, key, f"generation {generation}", size_bytes), facts, checked_at_s)


def read_hash(headers: Headers, kind: str, length: int) -> bytes | None:
    """One of the checksums of `x-goog-hash`, whose values may stand in one header or in several."""
    for name, value in headers:
        if name == "x-goog-hash":
            for item in value.split(","):
                if item.strip().startswith(kind + "="):
                    return _digest(item.strip().removeprefix(kind + "="), length)
    return None


def object_etag(md5: bytes | None, generation: int, metageneration: int) -> str:
    """The same wherever the object is met: in its metadata, in a download, in a listing."""
    return f'"{md5.hex()}"' if md5 is not None else f'"-{render_etag(generation, metageneration)}"'


def listed_etag(resource: Mapping[str, Any]) -> str:
    """The ETag of an object in a listing."""
    generation = _number(resource.get("generation")) or 0
    metageneration = _number(resource.get("metageneration")) or METAGENERATION
    return object_etag(_digest(resource.get("md5Hash"), 16), generation, metageneration)


def parse_time(value: object) -> float | None:
    """Unix seconds of an RFC 3339 time, or None."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    if moment is None:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _record(version: ObjectVersion, facts: Facts, checked_at_s: float) -> ObjectRecord:
    etag = object_etag(facts.md5, facts.generation, facts.metageneration)
    described = dict(facts.described)
    encoding = described.get("content-encoding", "identity")
    headers = [("etag", etag)]
    headers += [("content-type", described.pop("content-type", DEFAULT_TYPE)), *described.items()]
    if facts.last_modified_s is not None:
        headers.append(("last-modified", formatdate(int(facts.last_modified_s), usegmt=True)))
    headers += [
        ("x-goog-generation", str(facts.generation)),
        ("x-goog-metageneration", str(facts.metageneration)),
        ("x-goog-stored-content-encoding", encoding),
        ("x-goog-stored-content-length", str(facts.size_bytes)),
    ]
    for kind, digest in (("crc32c", facts.crc32c), ("md5", facts.md5)):
        if digest is not None:
            headers.append(("x-goog-hash", f"{kind}={base64.b64encode(digest).decode('ascii')}"))
    headers += [
        (USER_METADATA + name.lower(), _CONTROL.sub(" ", value).strip())
        for name, value in facts.user_metadata
        if _TOKEN.fullmatch(name) is not None
    ]
    return ObjectRecord(
        version=version,
        etag=etag,
        last_modified_s=facts.last_modified_s,
        headers=tuple(headers),
        checked_at_s=checked_at_s,
        sums=((SumKind.CRC32C, int.from_bytes(facts.crc32c, "big")),) if facts.crc32c is not None else (),
        md5=facts.md5.hex() if facts.md5 is not None else None,
        generation=facts.generation,
        user_metadata=facts.user_metadata,
        cacheable=not facts.sealed,
    )


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


def _described_by(resource: Mapping[str, Any]) -> Headers:
    found = ((name, resource.get(field)) for name, field in _DESCRIPTIONS.items())
    texts = ((name, _wire(value)) for name, value in found if isinstance(value, str | int) and value != "")
    return tuple((name, _CONTROL.sub(" ", value).strip()) for name, value in texts)


def _wire_pairs(pairs: Iterable[tuple[object, object]]) -> Headers:
    return tuple((_wire(name), _wire(value)) for name, value in pairs)


def _wire(value: object) -> str:
    """A text as header values are written everywhere here: its UTF-8 bytes as latin-1."""
    return str(value).encode("utf-8", "replace").decode("latin-1")


def _number(value: object) -> int | None:
    """64-bit numbers are texts in JSON."""
    text = str(value) if isinstance(value, str | int) else ""
    return int(text) if _NUMBER.fullmatch(text) is not None else None


def _digest(value: object, length: int) -> bytes | None:
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == length else None
