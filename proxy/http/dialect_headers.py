"""What is known of an object, in the words of each dialect's headers: `x-amz-*` and `x-goog-*`. Pure.

How it works. A record keeps the headers of the origin that it came from. A surface of the same dialect gives them back
as they came; for the other one the same facts are renamed here: user metadata, version, checksums, storage class. What
a dialect has no word for is left out.
Source: Cloud Storage documentation, "Simple migration from Amazon S3" and "HTTP headers for XML API".
"""

from __future__ import annotations

import base64

from proxy.generations import generation_of, metageneration_of
from proxy.objects import ObjectRecord, SumKind

Headers = tuple[tuple[str, str], ...]

AMZ_METADATA = "x-amz-meta-"
GOOG_METADATA = "x-goog-meta-"
OWN_HEADERS = (
    "x-warmstart-"  # what nodes say to each other, and records keep: no origin says it, and no client hears it
)
RESOURCE = "x-warmstart-resource"  # where a record's headers keep its JSON resource, as ASCII: never sent
SHARED = frozenset(  # called the same by both
    {
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "etag",
        "expires",
        "last-modified",
    }
)
_STANDARD = "STANDARD"
_CLASSES = {  # S3's storage classes and the nearest of GCS's; those that have no like keep their name
    "STANDARD_IA": "NEARLINE",
    "ONEZONE_IA": "NEARLINE",
    "REDUCED_REDUNDANCY": _STANDARD,
    "INTELLIGENT_TIERING": _STANDARD,
    "GLACIER_IR": "COLDLINE",
    "GLACIER": "ARCHIVE",
    "DEEP_ARCHIVE": "ARCHIVE",
}


def amz_headers(record: ObjectRecord) -> Headers:
    """A record's headers in S3's words; those of an origin that speaks S3 are that already."""
    if record.generation is None:
        return record.headers
    return (*renamed_to_amz(record.headers), *_amz_sums(record))


def renamed_to_amz(headers: Headers) -> Headers:
    return tuple(pair for name, value in headers for pair in _rename_to_amz(name, value))


def _rename_to_amz(name: str, value: str) -> Headers:
    if name in SHARED:
        return ((name, value),)
    if name.startswith(GOOG_METADATA):
        return ((AMZ_METADATA + name.removeprefix(GOOG_METADATA), value),)
    if name == "x-goog-generation":
        return (("x-amz-version-id", value),)
    if name == "x-goog-storage-class" and value != _STANDARD:  # S3 leaves the usual class out too
        return (("x-amz-storage-class", value),)
    return ()


def _amz_sums(record: ObjectRecord) -> Headers:
    """The CRC32C of the whole, as S3 says it; whether a client gets to see it is decided with each answer."""
    found = dict(record.sums).get(SumKind.CRC32C)
    if found is None:
        return ()
    return (("x-amz-checksum-crc32c", render_crc32c(found)), ("x-amz-checksum-type", "FULL_OBJECT"))


def goog_headers(record: ObjectRecord) -> Headers:
    """The `x-goog-*` headers of a record, those of its stored form; user metadata included."""
    if record.generation is not None:
        own = tuple(pair for pair in record.headers if pair[0].startswith("x-goog-"))
        missing = not any(name == "x-goog-storage-class" for name, _ in own)
        return (*own, ("x-goog-storage-class", _STANDARD)) if missing else own
    headers = [
        ("x-goog-generation", str(generation_of(record))),
        ("x-goog-metageneration", str(metageneration_of(record))),
        ("x-goog-stored-content-encoding", stored_encoding(record)),
        ("x-goog-stored-content-length", str(record.size_bytes)),
    ]
    headers += [("x-goog-hash", f"{kind}={value}") for kind, value in goog_sums(record)]
    headers.append(("x-goog-storage-class", storage_class(record)))
    headers += [(GOOG_METADATA + name, value) for name, value in record.user_metadata]
    return tuple(headers)


def goog_sums(record: ObjectRecord) -> Headers:
    """The checksums that GCS knows, `crc32c` and `md5`, in base64, where the origin told them."""
    crc32c = dict(record.sums).get(SumKind.CRC32C)
    sums = [("crc32c", render_crc32c(crc32c))] if crc32c is not None else []
    if record.md5 is not None:
        sums.append(("md5", base64.b64encode(bytes.fromhex(record.md5)).decode("ascii")))
    return tuple(sums)


def storage_class(record: ObjectRecord) -> str:
    """In GCS's words."""
    for name, value in record.headers:
        if name in ("x-goog-storage-class", "x-amz-storage-class"):
            return _CLASSES.get(value, value)
    return _STANDARD


def stored_encoding(record: ObjectRecord) -> str:
    """The Content-Encoding under which the object is stored; `identity` where there is none."""
    return next((value for name, value in record.headers if name == "content-encoding"), "identity")


def render_crc32c(value: int) -> str:
    return base64.b64encode(value.to_bytes(4, "big")).decode("ascii")
