"""From a request's target and Host to bucket, key and query. Pure.

How it works. Keys are bytes: `//`, a leading `/`, `.` and `..` segments, `+` and `%2F` all mean themselves, so the raw
path is cut first and percent-decoded once after, and nothing is ever normalised. An absolute-form target
(`GET http://host/bucket/key`, as some streamers send it) carries its own host, which beats the Host header (RFC 9112
section 3.2.2). The bucket is the path's first segment, or, where the host is `BUCKET.SUFFIX` of a configured suffix,
the host's first part; then the whole path is the key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from proxy.errors import InvalidRequest

KEY_BYTES_MAX = 1024  # S3 API reference, "Creating object key names"
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)

Query = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Target:
    """What a request speaks of. `bucket` is "" for the service, `key` None for the bucket itself.

    `query` holds decoded pairs in the client's order; a parameter without `=` has the value "".
    """

    bucket: str
    key: str | None
    query: Query


def parse_target(target: bytes, host: str | None, host_suffixes: Sequence[str] = ()) -> Target:
    """Raises InvalidRequest: InvalidURI, InvalidBucketName, KeyTooLongError."""
    if not target.startswith(b"/"):
        target, host = _split_absolute(target)
    path, _, query = target.partition(b"?")
    bucket = bucket_of_host(host, host_suffixes) if host_suffixes else None
    if bucket is None:
        raw_bucket, slash, raw_key = path[1:].partition(b"/")
        if not raw_bucket and not slash:
            return Target("", None, parse_query(query))
        bucket = _decode(raw_bucket)
    else:
        raw_key = path[1:]
    if _BUCKET.fullmatch(bucket) is None:
        raise InvalidRequest("InvalidBucketName", f"The specified bucket is not valid: {bucket!r}.")
    return Target(bucket, _parse_key(raw_key), parse_query(query))


def bucket_of_host(host: str | None, host_suffixes: Sequence[str]) -> str | None:
    """The bucket that a Host header names by the longest suffix that fits, or None: path style."""
    if host is None:
        return None
    name = host.lower().rpartition("]")[2] if host.startswith("[") else host.lower().partition(":")[0]
    name = name.removesuffix(".")
    fitting = [suffix for suffix in host_suffixes if name.endswith("." + suffix.lower().strip("."))]
    if not fitting:
        return None
    return name[: -len(max(fitting, key=len).strip(".")) - 1] or None


def parse_query(query: bytes) -> Query:
    """Pairs in their order. `+` is a space here (as S3 reads it); bytes that are no UTF-8 survive as surrogates."""
    if not query:
        return ()
    pairs = []
    for item in query.split(b"&"):
        if item:
            name, _, value = item.partition(b"=")
            pairs.append((_decode_query(name), _decode_query(value)))
    return tuple(pairs)


def render_path(target: bytes) -> str:
    """The path of a target for messages: as sent, without query and authority."""
    path = target if target.startswith(b"/") else target.partition(b"://")[2].partition(b"/")[2]
    return path.partition(b"?")[0].decode("utf-8", "replace")


def _split_absolute(target: bytes) -> tuple[bytes, str]:
    match = _ABSOLUTE.fullmatch(target)
    if match is None or not match[1]:
        raise InvalidRequest("InvalidURI", "Couldn't parse the specified URI.")
    authority = match[1].rpartition(b"@")[2].decode("latin-1")
    return (match[2] if match[2].startswith(b"/") else b"/" + match[2]), authority


def _parse_key(raw: bytes) -> str | None:
    if not raw:
        return None
    key = _decode(raw)
    if len(raw) > KEY_BYTES_MAX and len(key.encode()) > KEY_BYTES_MAX:
        raise InvalidRequest("KeyTooLongError", "Your key is too long.")
    return key


def _decode(raw: bytes) -> str:
    try:
        if b"%" not in raw:
            return raw.decode()
        if _BAD_ESCAPE.search(raw) is None:
            return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        pass
    raise InvalidRequest("InvalidURI", "Couldn't parse the specified URI.")


def _decode_query(raw: bytes) -> str:
    if _BAD_ESCAPE.search(raw) is not None:
        raise InvalidRequest("InvalidURI", "Couldn't parse the specified URI.")
    return unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8", "surrogateescape")
