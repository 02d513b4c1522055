"""From a request's target and Host to bucket, key and query. Pure.

How it works. The bucket is the path's first segment, or, where the host is `BUCKET.SUFFIX` of a configured suffix,
the host's first part; then the whole path is the key. `proxy.http.targets` cuts and decodes: every byte of a key
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.errors import InvalidRequest
from proxy.http.targets import BUCKET, decode_name, parse_query, split_target
from proxy.http.targets import Query as Query
from proxy.http.targets import bucket_of_host as bucket_of_host
from proxy.http.targets import render_path as render_path

KEY_BYTES_MAX = 1024  # S3 API reference, "Creating object key names"


@dataclass(frozen=True, slots=True)
class S3Target:
    """What a request speaks of. `bucket` is "" for the service, `key` None for the bucket itself.

    `query` holds decoded pairs in the client's order; a parameter without `=` has the value "".
    """

    bucket: str
    key: str | None
    query: Query


def parse_target(target: bytes, host: str | None, host_suffixes: Sequence[str] = ()) -> S3Target:
    """Raises InvalidRequest: InvalidURI, InvalidBucketName, KeyTooLongError."""
    host, path, query = split_target(target, host)
    bucket = bucket_of_host(host, host_suffixes) if host_suffixes else None
    if bucket is None:
        raw_bucket, slash, raw_key = path[1:].partition(b"/")
        if not raw_bucket and not slash:
            return S3Target("", None, parse_query(query))
        bucket = decode_name(raw_bucket)
    else:
        raw_key = path[1:]
    if BUCKET.fullmatch(bucket) is None:
        raise InvalidRequest("InvalidBucketName", f"The specified bucket is not valid: {bucket!r}.")
    return S3Target(bucket, _parse_key(raw_key), parse_query(query))


def _parse_key(raw: bytes) -> str | None:
    if not raw:
        return None
    key = decode_name(raw)
    if len(raw) > KEY_BYTES_MAX and len(key.encode()) > KEY_BYTES_MAX:
        raise InvalidRequest("KeyTooLongError", "Your key is too long.")
    return key
