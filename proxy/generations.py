"""GCS's generation and entity tags, for objects of every origin. Pure.

How it works. GCS numbers each content of a key with a positive 63-bit integer that grows with every write; clients pin
their reads by it. An S3 store or a directory has no such number, so one is made of what the origin does say: the
second of the last change counts first, so that a newer content has the larger number, and 30 bits of a hash of the
validator (version id or ETag) tell contents of the same second apart. The same version has the same number on every
node and after every restart, whoever asks first.
"""

from __future__ import annotations

import base64
import hashlib

from proxy.objects import ObjectRecord, ObjectVersion

METAGENERATION = 1  # of an object whose origin does not count changes of its metadata
_HASH_BITS = 30
_SECONDS_MAX = (1 << (63 - _HASH_BITS)) - 1


def generation_of(record: ObjectRecord) -> int:
    """The origin's own generation where it has one, else `derive_generation`."""
    if record.generation is not None:
        return record.generation
    return derive_generation(record.version, record.last_modified_s)


def metageneration_of(record: ObjectRecord) -> int:
    """How often the object's metadata has changed, where its origin counts that."""
    for name, value in record.headers:
        if name == "x-goog-metageneration" and value.isascii() and value.isdigit():
            return int(value)
    return METAGENERATION


def derive_generation(version: ObjectVersion, last_modified_s: float | None) -> int:
    """A positive number below 2^63. `last_modified_s` is Unix time; without it only the hash counts."""
    named = f"{version.validator}\n{version.size_bytes}".encode("utf-8", "surrogatepass")
    hashed = int.from_bytes(hashlib.sha256(named).digest()[:8], "big")
    seconds = int(last_modified_s) if last_modified_s is not None else 0
    if not 0 < seconds <= _SECONDS_MAX:
        return hashed >> 1 or 1
    return seconds << _HASH_BITS | hashed >> (64 - _HASH_BITS)


def render_etag(generation: int, metageneration: int = METAGENERATION) -> str:
    """The `etag` of a JSON resource as GCS makes it: base64 of a message that holds both numbers.

    >>> render_etag(1641528999530024)
    'CKicn4fknvUCEAE='
    """
    return base64.b64encode(b"\x08" + _varint(generation) + b"\x10" + _varint(metageneration)).decode("ascii")


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first (Protocol Buffers encoding, "Base 128 Varints")."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
