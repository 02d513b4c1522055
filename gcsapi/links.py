"""GCS's answers with the names and links by which the client knows things. Pure.

How it works. JSON documents are walked: in resources of objects and buckets, the bucket's name becomes the one that the
client uses, and links lead to the host that it uses, an object's name being one segment of their path. Other documents,
and what can't be read, stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from gcsapi.resources import encode
from proxy.errors import InvalidRequest
from proxy.http.targets import decode_name

DOCUMENT_BYTES_MAX = 8 << 20  # a page of a thousand resources, access rules included, has some 3 MiB
_LINKS = ("selfLink", "mediaLink")


def rewrite_document(body: bytes, names: Mapping[str, str], host: str) -> bytes:
    """`names` are the real buckets' names, and the client's; `host` is scheme and authority."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body
    _walk(document, names, host)
    return json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def rewrite_names(resource: dict[str, Any], names: Mapping[str, str]) -> bool:
    """In a request's resource: the client's names become the real ones. Whether anything changed.

    Raises InvalidRequest where something else stands in a name's place.
    """
    changed = False
    for field in ("bucket", "name") if resource.get("kind") == "storage#bucket" else ("bucket",):
        name = resource.get(field)
        if name is not None and not isinstance(name, str):
            raise InvalidRequest("invalid", f"Invalid value for {field}: it is not a name.")
        if name is not None and names.get(name, name) != name:
            resource[field] = names[name]
            changed = True
    inner = resource.get("destination")
    return (isinstance(inner, dict) and rewrite_names(inner, names)) or changed


def rewrite_link(link: str, names: Mapping[str, str], host: str) -> str:
    """The same path at the client's host, with the client's name of the bucket in it."""
    parts = urlsplit(link)
    head, bucket_mark, rest = parts.path.partition("/b/")
    if not bucket_mark:
        return f"{host}{parts.path}" + (f"?{parts.query}" if parts.query else "")
    bucket, slash, behind = rest.partition("/")
    try:
        real = decode_name(bucket.encode())
    except InvalidRequest:
        real = bucket
    path = f"{head}/b/{encode(names.get(real, real))}{slash}{behind}"
    return f"{host}{path}" + (f"?{parts.query}" if parts.query else "")


def _walk(node: Any, names: Mapping[str, str], host: str) -> None:
    waiting = [node]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            _rewrite(item, names, host)
            waiting += [value for name, value in item.items() if isinstance(value, list | dict) and name != "metadata"]


def _rewrite(item: dict[str, Any], names: Mapping[str, str], host: str) -> None:
    for field in _LINKS:
        if isinstance(item.get(field), str):
            item[field] = rewrite_link(item[field], names, host)
    if isinstance(item.get("bucket"), str):
        item["bucket"] = names.get(item["bucket"], item["bucket"])
    if isinstance(item.get("name"), str) and isinstance(item.get("bucket"), str) and "mediaLink" in item:
        place = (
            f"storage/v1/b/{encode(item['bucket'])}/o/{encode(item['name'])}"  # emulators encode names their own way
        )
        item["mediaLink"] = f"{host}/download/{place}?{urlsplit(item['mediaLink']).query}"
        if "selfLink" in item:
            item["selfLink"] = f"{host}/{place}"
    kind, identity = item.get("kind"), item.get("id")
    if kind == "storage#bucket":
        for field in ("id", "name"):
            if isinstance(item.get(field), str):
                item[field] = names.get(item[field], item[field])
    elif isinstance(identity, str) and isinstance(kind, str) and kind.startswith("storage#object"):
        bucket, slash, rest = identity.partition("/")
        item["id"] = f"{names.get(bucket, bucket)}{slash}{rest}"
