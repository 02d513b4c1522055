"""Names and versions of objects, as every layer speaks of them.

`ObjectName` is what a client says; `ObjectKey` is where that object really lives, the same on every node;
`ObjectVersion` is immutable content: whatever is cached belongs to exactly one. `ObjectRecord` is what is known of
a key's current version: the neutral fields and the origin's own response headers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum


def _digest(*parts: str) -> bytes:
    """A name of 32 bytes; every part carries its length, so that no two lists of parts collide."""
    sha = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        sha.update(len(raw).to_bytes(8, "big"))
        sha.update(raw)
    return sha.digest()


@dataclass(frozen=True, slots=True)
class ObjectName:
    """Bucket and key as the client names them; `version_id` only where the client sent one."""

    bucket: str
    key: str
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """Where an object lives. `origin` is kind and endpoint (`s3://127.0.0.1:5000`), never a configured alias."""

    origin: str
    bucket: str
    key: str
    version_id: str | None = None
    digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        version = ("v" + self.version_id,) if self.version_id is not None else ()
        object.__setattr__(self, "digest", _digest(self.origin, self.bucket, self.key, *version))


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One immutable content. `validator` is `version <id>`, `generation <n>` or `etag <etag as sent>`."""

    origin: str
    bucket: str
    key: str
    validator: str
    size_bytes: int
    digest: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.size_bytes < 0:
            raise ValueError(f"negative size: {self.size_bytes}")
        if not self.validator:
            raise ValueError("an object without a validator has no version")
        parts = (self.origin, self.bucket, self.key, self.validator, str(self.size_bytes))
        object.__setattr__(self, "digest", _digest(*parts))


class SumKind(Enum):
    """Checksums that can be combined from those of an object's blocks."""

    CRC32C = "crc32c"
    CRC32 = "crc32"
    CRC64NVME = "crc64nvme"


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """What is known of a key: its current version, neutral fields, and the origin's headers.

    `headers` are the origin's own, lower-case names, in order, without hop-by-hop and per-request ones
    (Connection, Date, Content-Length, Content-Range, x-amz-request-id, x-amz-id-2, Server ...).
    `sums` holds full-object checksums only. `checked_at_s` is Unix time of the origin's last word on it.
    `cacheable` is False for an object whose bytes must not be stored (no validator, SSE-C). `sums_known` is False where
    the origin's answer could not tell the checksums of the whole object, as a range's can't: HEAD would.
    """

    version: ObjectVersion
    etag: str
    last_modified_s: float | None
    headers: tuple[tuple[str, str], ...]
    checked_at_s: float
    sums: tuple[tuple[SumKind, int], ...] = ()
    md5: str | None = None
    generation: int | None = None
    user_metadata: tuple[tuple[str, str], ...] = ()
    cacheable: bool = True
    sums_known: bool = True

    @property
    def size_bytes(self) -> int:
        return self.version.size_bytes

    @property
    def strong_etag(self) -> bool:
        return self.etag.startswith('"')
