"""The file of one key: the record of its current version, or the fence marks of its writers.

How it works. A key file has two lines of ASCII. The first is a JSON object that repeats the whole key, so that a file
under a wrong name is rejected. The second is the first line's crc32c in hexadecimal. A file is a record or a tombstone:

    {"format": 1, "key": [origin, bucket, key, version_id], "record": {...}}
    {"format": 1, "key": [origin, bucket, key, version_id], "fences": [[run_id, writer_id, nonce], ...]}

Anything that does not decode to exactly this (torn, damaged, foreign, of another format) counts as missing: None.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from proxy.blocks import update_sum
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion, SumKind

FORMAT = 1
RECORD_BYTES_MAX = 256 << 10  # an origin's headers are far smaller; more is not kept


@dataclass(frozen=True, slots=True)
class FenceMark:
    """One writer's fence. `nonce` distinguishes several fences of one writer for one key."""

    run_id: str
    writer_id: str
    nonce: str


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A decoded file: a record, or the fences of a tombstone."""

    record: ObjectRecord | None = None
    fences: tuple[FenceMark, ...] = ()


def render_key_file(key: ObjectKey, content: KeyFile) -> bytes:
    """Return the file's bytes."""
    fields: dict[str, Any] = {"format": FORMAT, "key": _key_fields(key)}
    if content.record is None:
        fields["fences"] = [[mark.run_id, mark.writer_id, mark.nonce] for mark in content.fences]
    else:
        fields["record"] = record_fields(content.record)
    line = json.dumps(fields, separators=(",", ":")).encode("ascii")
    return b"%s\n%08x\n" % (line, _sum(line))


def parse_key_file(raw: bytes, key: ObjectKey) -> KeyFile | None:
    """Return the content, or None unless the bytes are a whole, undamaged file of exactly this key."""
    fields = _checked_fields(raw)
    try:
        if fields is None or fields["key"] != _key_fields(key):
            return None
        if "record" in fields:
            return KeyFile(record=parse_record(key, fields["record"]))
        return KeyFile(fences=tuple(FenceMark(*_texts(mark, 3)) for mark in fields["fences"]))
    except (KeyError, TypeError, ValueError):
        return None


def parse_version(raw: bytes) -> ObjectVersion | None:
    """Return the object version of a record, whatever its key is; None for a tombstone or a damaged file."""
    fields = _checked_fields(raw)
    try:
        if fields is None:
            return None
        origin, bucket, name, version_id = fields["key"]
        return parse_record(ObjectKey(origin, bucket, name, version_id), fields["record"]).version
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _checked_fields(raw: bytes) -> dict[str, Any] | None:
    line, _, rest = raw.partition(b"\n")
    try:
        if len(rest) != 9 or int(rest, 16) != _sum(line):
            return None
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) and fields.get("format") == FORMAT else None


def _sum(line: bytes) -> int:
    return update_sum(SumKind.CRC32C, memoryview(line))


def _key_fields(key: ObjectKey) -> list[str | None]:
    return [key.origin, key.bucket, key.key, key.version_id]


def record_fields(record: ObjectRecord) -> dict[str, Any]:
    """Return the record's fields, without the key, as JSON can hold them."""
    return {
        "validator": record.version.validator,
        "size_bytes": record.version.size_bytes,
        "etag": record.etag,
        "last_modified_s": record.last_modified_s,
        "headers": record.headers,
        "checked_at_s": record.checked_at_s,
        "sums": [[kind.value, value] for kind, value in record.sums],
        "md5": record.md5,
        "generation": record.generation,
        "user_metadata": record.user_metadata,
        "cacheable": record.cacheable,
        "sums_known": record.sums_known,
    }


def parse_record(key: ObjectKey, fields: dict[str, Any]) -> ObjectRecord:
    """Parse what `record_fields` renders. Raises KeyError, TypeError or ValueError for anything else."""
    size_bytes = _typed(fields["size_bytes"], int)
    return ObjectRecord(
        version=ObjectVersion(key.origin, key.bucket, key.key, _typed(fields["validator"], str), size_bytes),
        etag=_typed(fields["etag"], str),
        last_modified_s=_typed(fields["last_modified_s"], float, int, type(None)),
        headers=_pairs(fields["headers"]),
        checked_at_s=_typed(fields["checked_at_s"], float, int),
        sums=tuple((SumKind(kind), _typed(value, int)) for kind, value in fields["sums"]),
        md5=_typed(fields["md5"], str, type(None)),
        generation=_typed(fields["generation"], int, type(None)),
        user_metadata=_pairs(fields["user_metadata"]),
        cacheable=_typed(fields["cacheable"], bool),
        sums_known=_typed(fields["sums_known"], bool),
    )


def _typed(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{type(value).__name__} is none of {kinds}")
    return value


def _texts(values: Any, count: int) -> list[str]:
    if len(values) != count:
        raise ValueError(f"{len(values)} values where {count} belong")
    return [_typed(value, str) for value in values]


def _pairs(values: Any) -> tuple[tuple[str, str], ...]:
    pairs = (_texts(pair, 2) for pair in values)
    return tuple((name, value) for name, value in pairs)
