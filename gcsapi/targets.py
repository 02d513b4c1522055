"""From a request's target and Host to what it speaks of, in the JSON API or in the XML API. Pure.

How it works. In the JSON API every name is one segment of the path, percent-encoded (`a/b` is `a%2Fb`), so the raw
path is cut at its slashes before anything is decoded. A path belongs to the JSON API only if all of it has the API's
shape; any other is an object of a bucket that happens to be called `storage`, `upload`, `download` or `batch`. In the
XML API the bucket is the first segment or the host's first part, and all the rest is the object's name.
Source: Cloud Storage documentation, "Request endpoints", "Encoding URI path parts".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.errors import InvalidRequest
from proxy.http.targets import BUCKET, Query, bucket_of_host, decode_name, parse_query, split_target

NAME_BYTES_MAX = 1024  # Cloud Storage documentation, "Object names"
_ENDPOINTS = (  # the longest first; the name says what stands behind it
    (b"/resumable/upload/storage/v1/", "upload"),
    (b"/download/storage/v1/", "download"),
    (b"/upload/storage/v1/", "upload"),
    (b"/storage/v1/", ""),
)
_BATCH = (b"/batch", b"/batch/storage/v1")
_OBJECT_PARTS = frozenset({"acl", "compose", "copyTo", "moveTo", "restore", "rewriteTo"})
_BUCKET_PARTS = frozenset(
    {
        "acl",
        "anywhereCaches",
        "defaultObjectAcl",
        "folders",
        "iam",
        "lockRetentionPolicy",
        "managedFolders",
        "notificationConfigs",
        "operations",
        "relocate",
        "restore",
        "storageLayout",
    }
)


@dataclass(frozen=True, slots=True)
class JsonTarget:
    """A path of the JSON API. `endpoint` is "", "download", "upload" or "batch"; `segments` follow it, decoded."""

    endpoint: str
    segments: tuple[str, ...]
    query: Query = ()

    @property
    def bucket(self) -> str:
        """ "" where the path names none."""
        return self.segments[1] if len(self.segments) > 1 and self.segments[0] == "b" else ""

    @property
    def name(self) -> str | None:
        """The object's, or None."""
        return self.segments[3] if self.bucket and len(self.segments) > 3 and self.segments[2] == "o" else None

    @property
    def part(self) -> tuple[str, ...]:
        """What of the object or the bucket is meant; empty: itself. A bucket's objects are `("o",)`."""
        return self.segments[4:] if self.name is not None else self.segments[2:]


@dataclass(frozen=True, slots=True)
class XmlTarget:
    """A path of the XML API. `bucket` is "" for the service, `name` None for the bucket itself."""

    bucket: str
    name: str | None
    query: Query = ()


def parse_target(target: bytes, host: str | None, host_suffixes: Sequence[str] = ()) -> JsonTarget | XmlTarget:
    """Raises InvalidRequest: InvalidURI, InvalidBucketName, KeyTooLongError."""
    host, path, raw_query = split_target(target, host)
    bucket = bucket_of_host(host, host_suffixes) if host_suffixes else None
    query = parse_query(raw_query)
    if bucket is None and (endpoint := json_endpoint(path)) is not None:
        return _parse_json(path, endpoint, query)
    if bucket is None:
        raw_bucket, slash, raw_name = path[1:].partition(b"/")
        if not raw_bucket and not slash:
            return XmlTarget("", None, query)
        bucket = decode_name(raw_bucket)
    else:
        raw_name = path[1:]
    _check_bucket(bucket)
    return XmlTarget(bucket, _check_name(decode_name(raw_name)) if raw_name else None, query)


def json_endpoint(path: bytes) -> str | None:
    """Which endpoint of the JSON API a raw path belongs to; None: it has not the API's shape."""
    if path in _BATCH:
        return "batch"
    for prefix, endpoint in _ENDPOINTS:
        if path.startswith(prefix):
            return endpoint if _fits(endpoint, path[len(prefix) :].removesuffix(b"/").split(b"/")) else None
    return None


def _fits(endpoint: str, segments: list[bytes]) -> bool:
    first, count = segments[0], len(segments)
    if endpoint == "download":
        return first == b"b" and count == 4 and segments[2] == b"o" and all(segments)
    if endpoint == "upload":
        return first == b"b" and count == 3 and segments[2] == b"o" and segments[1] != b""
    if first == b"projects":
        return count >= 3
    if first == b"channels":
        return count == 2 and segments[1] == b"stop"
    if first != b"b" or not all(segments):
        return False
    if count <= 2:
        return True
    if segments[2] != b"o":
        return segments[2].decode("latin-1") in _BUCKET_PARTS
    return count <= 4 or segments[4].decode("latin-1") in _OBJECT_PARTS


def _parse_json(path: bytes, endpoint: str, query: Query) -> JsonTarget:
    if endpoint == "batch":
        return JsonTarget(endpoint, (), query)
    prefix = next(prefix for prefix, _ in _ENDPOINTS if path.startswith(prefix))
    raw = path[len(prefix) :].removesuffix(b"/").split(b"/")
    target = JsonTarget(endpoint, tuple(decode_name(segment) for segment in raw), query)
    if target.bucket:
        _check_bucket(target.bucket)
    if target.name is not None:
        _check_name(target.name)
    return target


def _check_bucket(bucket: str) -> None:
    if BUCKET.fullmatch(bucket) is None:
        raise InvalidRequest("InvalidBucketName", f"Invalid bucket name: '{bucket}'")


def _check_name(name: str) -> str:
    if len(name) > NAME_BYTES_MAX // 4 and len(name.encode()) > NAME_BYTES_MAX:
        text = f"The maximum object name length is {NAME_BYTES_MAX} bytes; this one has {len(name.encode())}."
        raise InvalidRequest("KeyTooLongError", text)
    return name
