"""From the engine's answer to GCS's status and headers. Pure.

How it works. `x-goog-*` headers always speak of the stored form (`proxy.http.dialect_headers`); status, length and
range are this answer's own. The JSON API's entity tag is that of the resource, the XML API's the quoted MD5. An object
that is stored as gzip is unpacked for a client that does not take gzip ("decompressive transcoding"), unless its
Cache-Control says `no-transform`. Such an answer is whole, of unknown length, without Content-Encoding, and its
`x-goog-stored-content-encoding: gzip` tells clients that `x-goog-hash` is not of the bytes that they get. Source: Cloud
Storage documentation, "Transcoding of gzip-compressed files", "HTTP headers for XML API".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

from gcsapi.requests import Api, Read
from proxy.gateway.answers import CacheStatus, ReadAnswer
from proxy.generations import generation_of, metageneration_of, render_etag
from proxy.http.dialect_headers import SHARED, amz_headers, goog_headers, stored_encoding
from proxy.objects import ObjectRecord
from proxy.surface.heads import Headers, Reply, measure, overridden, read_status

DEFAULT_TYPE = "application/octet-stream"  # what GCS gives an object that was stored without a type
JSON_TYPE = "application/json; charset=UTF-8"
XML_TYPE = "application/xml; charset=UTF-8"
_OF_NOT_MODIFIED = frozenset(  # RFC 9110 section 15.4.5, and GCS's own
    {"cache-control", "etag", "expires", "last-modified", "vary", "x-goog-generation", "x-goog-metageneration"}
)


def json_reply(resource: Mapping[str, Any], *, status: int = 200, headers: Headers = ()) -> Reply:
    body = json.dumps(resource, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    return Reply(status, (("content-type", JSON_TYPE), *headers), body)


def xml_reply(body: bytes) -> Reply:
    return Reply(200, (("content-type", XML_TYPE),), body)


def render_read(read: Read, answer: ReadAnswer) -> tuple[int, Headers]:
    """Status and headers of an object's bytes, all but those that every response gets."""
    status = read_status(answer)
    return status, describe(read, answer, status) + measure(answer, status)


def describe(read: Read, answer: ReadAnswer, status: int) -> Headers:
    """What the headers say of the object: the same for every range of it."""
    record = answer.record
    headers = (("etag", object_etag(read.api, record)), *_described(record), *goog_headers(record))
    if status == 304:
        return tuple(pair for pair in headers if pair[0] in _OF_NOT_MODIFIED)
    if is_gzip(record):
        headers += (("vary", "Accept-Encoding"),)
    if read.bare:
        headers += tuple(pair for pair in amz_headers(record) if is_other_word(pair[0]))
    return overridden(headers, read.overrides)


def render_unpacked(read: Read, answer: ReadAnswer) -> Headers:
    """The headers of a 200 whose body is unpacked on the way."""
    headers = tuple(pair for pair in describe(read, answer, 200) if pair[0] not in ("content-encoding", "etag"))
    tag = object_etag(read.api, answer.record)
    weak = tag if tag.startswith("W/") or read.api is Api.JSON else f"W/{tag}"  # not the bytes of the strong one
    return (("etag", weak), *headers, ("warning", "214 UploadServer gunzipped"))


def is_unpacked(read: Read, record: ObjectRecord) -> bool:
    """Whether the answer's bytes are not the stored ones, but what is packed in them."""
    if read.accepts_gzip or not read.media or not is_gzip(record):
        return False
    rules = ",".join(value for name, value in record.headers if name == "cache-control")
    return "no-transform" not in {rule.strip().lower() for rule in rules.split(",")}


def is_gzip(record: ObjectRecord) -> bool:
    return stored_encoding(record).strip().lower() == "gzip"


def object_etag(api: Api, record: ObjectRecord) -> str:
    if api is Api.XML:
        return record.etag
    return render_etag(generation_of(record), metageneration_of(record))


def complete(headers: Headers, cache: CacheStatus, request_id: str, *, closes: bool = False) -> Headers:
    """The headers with those that every answer gets; an origin's own request id stays."""
    added = [("x-cache", cache.value)]
    if not any(name == "x-guploader-uploadid" for name, _ in headers):
        added.append(("x-guploader-uploadid", request_id))
    if closes:
        added.append(("connection", "close"))
    return (*headers, *added)


def is_other_word(name: str) -> bool:
    """Whether a header is of S3's family, and no checksum, which SDKs check against whatever they get."""
    return name.startswith("x-amz-") and not name.startswith("x-amz-checksum-")


def _described(record: ObjectRecord) -> Headers:
    """Content-Type and its like, with what GCS always says filled in."""
    kept = [(name, value) for name, value in record.headers if name in SHARED and name != "etag"]
    names = {name for name, _ in kept}
    if "last-modified" not in names and record.last_modified_s is not None:
        kept.append(("last-modified", formatdate(int(record.last_modified_s), usegmt=True)))
    if "content-type" not in names:
        kept.append(("content-type", DEFAULT_TYPE))
    return tuple(kept)
