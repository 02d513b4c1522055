"""The JSON API's resources of objects and buckets, from what the engine knows. Pure.

How it works. A record of a GCS origin keeps the resource as GCS told it; it goes out again with the names and links of
this gateway in it. For other origins a resource is made of the record's neutral fields. Links (`selfLink`,
`mediaLink`) always lead to the host that the client used: google-cloud-storage downloads through them.
Source: Cloud Storage documentation, "Objects" and "Buckets" (JSON API).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from proxy.gateway.answers import ListedObject
from proxy.generations import METAGENERATION, generation_of, metageneration_of, render_etag
from proxy.http.dialect_headers import RESOURCE, goog_sums, storage_class
from proxy.objects import ObjectName, ObjectRecord

RESOURCE_HEADERS = {  # a header, and the resource's field
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
    "content-language": "contentLanguage",
    "content-disposition": "contentDisposition",
    "cache-control": "cacheControl",
}

Resource = dict[str, Any]


def object_resource(name: ObjectName, record: ObjectRecord, host: str) -> Resource:
    """`host` is scheme and authority that the client used; `name` the object as the client names it."""
    own = record.headers if record.generation is not None else ()  # other origins tell no resources
    kept = next((value for header, value in own if header == RESOURCE), None)
    resource = json.loads(kept) if kept is not None else _made_resource(record)
    resource |= {"kind": "storage#object", "name": name.key}
    resource["etag"] = render_etag(generation_of(record), metageneration_of(record))  # emulators have their own
    return placed(resource, name.bucket, host)


def placed(resource: Resource, bucket: str, host: str) -> Resource:
    """An object's resource with the names and links by which this client knows it."""
    key, generation = resource.get("name"), resource.get("generation")
    resource["bucket"] = bucket
    if isinstance(key, str):
        resource["selfLink"] = f"{host}/storage/v1/b/{encode(bucket)}/o/{encode(key)}"
        if generation is not None:
            media = f"{host}/download/storage/v1/b/{encode(bucket)}/o/{encode(key)}"
            resource["mediaLink"] = f"{media}?generation={generation}&alt=media"
            resource["id"] = f"{bucket}/{key}/{generation}"
    return resource


def listed_resource(listed: ListedObject, generation: int, bucket: str, host: str) -> Resource:
    """What a listing of another origin than GCS tells of an object."""
    resource = {
        "kind": "storage#object",
        "name": listed.key,
        "generation": str(generation),
        "metageneration": str(METAGENERATION),
        "storageClass": "STANDARD",
        "size": str(listed.size_bytes),
        "etag": render_etag(generation),
        **_times(listed.last_modified_s),
    }
    return placed(resource, bucket, host)


def bucket_resource(bucket: str, created_s: float, host: str) -> Resource:
    """Of a bucket that has no resource of its own: what clients need to go on. `created_s` is Unix time."""
    return {
        "kind": "storage#bucket",
        "id": bucket,
        "selfLink": f"{host}/storage/v1/b/{encode(bucket)}",
        "name": bucket,
        "projectNumber": "0",
        "metageneration": "1",
        "location": "US",
        "locationType": "multi-region",
        "storageClass": "STANDARD",
        "etag": "CAE=",
        "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}},
        **{field: text for field, text in _times(created_s).items() if field in ("timeCreated", "updated")},
    }


def storage_layout(bucket: str) -> Resource:
    return {
        "kind": "storage#storageLayout",
        "bucket": bucket,
        "location": "US",
        "locationType": "multi-region",
        "hierarchicalNamespace": {"enabled": False},
    }


def encode(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name.encode("utf-8", "surrogateescape"), safe="~")


def _made_resource(record: ObjectRecord) -> Resource:
    resource: Resource = {
        "generation": str(generation_of(record)),
        "metageneration": str(metageneration_of(record)),
        "contentType": "application/octet-stream",
        "storageClass": storage_class(record),
        "size": str(record.size_bytes),
    }
    resource |= {RESOURCE_HEADERS[name]: _text(value) for name, value in record.headers if name in RESOURCE_HEADERS}
    resource |= {("md5Hash" if kind == "md5" else kind): value for kind, value in goog_sums(record)}
    if record.last_modified_s is not None:
        resource |= _times(record.last_modified_s)
    if record.user_metadata:
        resource["metadata"] = {_text(name): _text(value) for name, value in record.user_metadata}
    return resource


def _times(changed_s: float) -> Mapping[str, str]:
    moment = datetime.fromtimestamp(max(0.0, changed_s), UTC)
    text = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    return {"timeCreated": text, "updated": text, "timeStorageClassUpdated": text}


def _text(value: str) -> str:
    """Header values are UTF-8 as latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value
