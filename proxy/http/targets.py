"""Request targets, whatever the dialect: authority, path and query, cut before anything is decoded. Pure.

How it works. Keys are bytes: `//`, a leading `/`, `.` and `..` segments, `+` and `%2F` all mean themselves, so a raw
path is cut first and percent-decoded once after, and nothing is ever normalised. An absolute-form target
(`GET http://host/bucket/key`, as some streamers send it) carries its own host, which beats the Host header (RFC 9112
section 3.2.2). Where the host is `BUCKET.SUFFIX` of a configured suffix, its first part names the bucket.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote, unquote_to_bytes

from proxy.errors import InvalidRequest

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", re.ASCII)
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")

Query = tuple[tuple[str, str], ...]
PARAMETERS_MAX = 256  # of a query; a presigned request has some 20, and each costs microseconds


def split_target(target: bytes, host: str | None) -> tuple[str | None, bytes, bytes]:
    """Host, raw path and raw query of an origin-form or absolute-form target. Raises InvalidRequest("InvalidURI")."""
    if not target.startswith(b"/"):
        target, host = _split_absolute(target)
    path, _, query = target.partition(b"?")
    return host, path, query


def bucket_of_host(host: str | None, host_suffixes: Sequence[str]) -> str | None:
    """The bucket that a Host header names by the longest suffix that fits, or None: path style."""
    name = host_name(host)
    fitting = [suffix for suffix in host_suffixes if name.endswith("." + suffix.lower().strip("."))]
    if not fitting:
        return None
    return name[: -len(max(fitting, key=len).strip(".")) - 1] or None


def host_name(host: str | None) -> str:
    """A Host header's name, lower-case, without port and final dot; empty where there is none."""
    if host is None:
        return ""
    name = host.lower().rpartition("]")[2] if host.startswith("[") else host.lower().partition(":")[0]
    return name.removesuffix(".")


def parse_query(query: bytes) -> Query:
    """Pairs in their order. `+` is a space here (as S3 reads it); bytes that are no UTF-8 survive as surrogates.

    Raises InvalidRequest("InvalidURI").
    """
    if not query:
        return ()
    if query.count(b"&") >= PARAMETERS_MAX:
        raise InvalidRequest("InvalidURI", f"The query has more than {PARAMETERS_MAX} parameters.")
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


def decode_name(raw: bytes) -> str:
    """A percent-encoded name, decoded once. Raises InvalidRequest("InvalidURI") where it is no UTF-8 then."""
    try:
        if b"%" not in raw:
            return raw.decode()
        if _BAD_ESCAPE.search(raw) is None:
            return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        pass
    raise _unreadable()


def parse_copy_source(value: str) -> tuple[str, str]:
    """Bucket, and the rest from the key on as it was sent (with its `?versionId=`), of a copy's source.

    The header is percent-encoded, and stores decode it before they cut it: so `b%2Fk` names the same object as `b/k`,
    and is judged as that. Raises InvalidRequest("InvalidArgument") for what names no bucket and key: what can't be read
    here can't be judged, and the store might read something in it.
    Source: S3 API reference, CopyObject, `x-amz-copy-source`; Cloud Storage documentation, `x-goog-copy-source`.
    """
    path, mark, version = value.partition("?")
    decoded = unquote_to_bytes(path.encode("latin-1", "replace")).removeprefix(b"/")
    raw_bucket, _, key = decoded.partition(b"/")
    if raw_bucket.startswith(b"arn:"):
        raise InvalidRequest("InvalidArgument", "A copy source is named by bucket and key here: ARNs are not possible.")
    bucket = raw_bucket.decode("latin-1")
    if BUCKET.fullmatch(bucket) is None or not key:
        raise InvalidRequest("InvalidArgument", "A copy source is a bucket and a key with a slash between them.")
    first, _, rest = path.removeprefix("/").partition("/")
    return bucket, (rest if first == bucket else quote(key, safe="/~")) + mark + version


def _split_absolute(target: bytes) -> tuple[bytes, str]:
    match = _ABSOLUTE.fullmatch(target)
    if match is None or not match[1]:
        raise _unreadable()
    authority = match[1].rpartition(b"@")[2].decode("latin-1")
    return (match[2] if match[2].startswith(b"/") else b"/" + match[2]), authority


def _decode_query(raw: bytes) -> str:
    if _BAD_ESCAPE.search(raw) is not None:
        raise _unreadable()
    return unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8", "surrogateescape")


def _unreadable() -> InvalidRequest:
    return InvalidRequest("InvalidURI", "Couldn't parse the specified URI.")
