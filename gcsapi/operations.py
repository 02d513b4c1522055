"""GCS's operations by name: which method and path is which, and what each writes. Pure.

Names are those of the JSON API, also for requests of the XML API: they serve the metrics. What an operation writes
decides whom a write invalidates.
Source: Cloud Storage documentation, "JSON API: Resource types", "XML API: methods".
"""

from __future__ import annotations

from gcsapi.targets import JsonTarget, XmlTarget
from proxy.http.targets import Query
from proxy.objects import ObjectName

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = READ_METHODS | {"PUT", "POST", "PATCH", "DELETE"}  # all others are refused before anything is sent on
_VERBS = {"GET": "get", "HEAD": "get", "POST": "insert", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_OBJECT_METHODS = {
    "compose": "compose",
    "copyTo": "copy",
    "moveTo": "move",
    "restore": "restore",
    "rewriteTo": "rewrite",
}
_PATHS_BESIDE = ("copyTo", "rewriteTo")  # b/BUCKET/o/NAME of the object that is written follows
XML_PARTS = frozenset(  # sub-resources of the XML API
    {
        "acl",
        "billing",
        "compose",
        "cors",
        "encryption",
        "encryptionConfig",
        "lifecycle",
        "location",
        "logging",
        "retention",
        "storageClass",
        "tagging",
        "uploadId",
        "uploads",
        "versioning",
        "versions",
        "website",
    }
)


def name_json_operation(method: str, target: JsonTarget) -> str:
    """`storage.objects.get` and its like; a fixed set of names whatever clients send."""
    verb = _VERBS.get(method, "other")
    if target.endpoint == "batch":
        return "storage.batch"
    if target.endpoint == "upload":
        return "storage.objects.insert"
    if not target.bucket:
        collection = target.segments[0] if target.segments else "other"
        return f"storage.buckets.{'list' if verb == 'get' else verb}" if collection == "b" else f"storage.{collection}"
    part = target.part
    if target.name is None:
        if part == ("o",):
            return f"storage.objects.{'list' if verb == 'get' else verb}"
        return f"storage.buckets.{part[0]}.{verb}" if part else f"storage.buckets.{verb}"
    if not part:
        return f"storage.objects.{verb}"
    return f"storage.objects.{_OBJECT_METHODS.get(part[0], f'{part[0]}.{verb}')}"


def name_xml_operation(method: str, target: XmlTarget) -> str:
    verb = _VERBS.get(method, "other")
    if not target.bucket:
        return "storage.buckets.list" if verb == "get" else "storage.other"
    part = next((name for name, _ in target.query if name in XML_PARTS), None)
    noun = "buckets" if target.name is None else "objects"
    if part is not None:
        return f"storage.{noun}.{part}.{verb}"
    if target.name is None:
        return "storage.objects.list" if method == "GET" else f"storage.buckets.{verb}"
    return "storage.objects.insert" if method in ("PUT", "POST") else f"storage.objects.{verb}"


def mutates(method: str) -> bool:
    return method not in READ_METHODS


def written_by_json(method: str, target: JsonTarget) -> tuple[ObjectName, ...]:
    """The names that the path says are written. An upload names its object elsewhere (`gcsapi.uploads`)."""
    if not mutates(method) or target.name is None:
        return ()
    part = target.part
    if part and part[0] in _PATHS_BESIDE:
        found = part[1:]
        return written_names(found[1], found[3]) if len(found) == 4 and found[::2] == ("b", "o") else ()
    written = written_names(target.bucket, target.name, dict(target.query).get("generation"))
    if part and part[0] == "moveTo" and len(part) == 3:
        written += written_names(target.bucket, part[2])
    return written


def written_by_xml(method: str, target: XmlTarget) -> tuple[ObjectName, ...]:
    """Parts of a multipart upload become visible only by its completion, which is a POST."""
    parameters = dict(target.query)
    if not mutates(method) or target.name is None or "uploads" in parameters:
        return ()
    if "uploadId" in parameters and method != "POST":
        return ()
    return written_names(target.bucket, target.name, parameters.get("generation"))


def destination(target: JsonTarget) -> str:
    """The bucket that a request writes to: a copy's is not the one that its path begins with."""
    part = target.part if target.name is not None else ()
    return part[2] if len(part) == 5 and part[0] in _PATHS_BESIDE else target.bucket


def written_names(bucket: str, name: str, generation: str | None = None) -> tuple[ObjectName, ...]:
    """What a write of an object may change: the current version under both of its names, and the one it names."""
    plain = (ObjectName(bucket, name), ObjectName(bucket, name, "null"))
    return (*plain, ObjectName(bucket, name, generation)) if generation else plain


def parameters_of(query: Query) -> dict[str, str]:
    """The first of equal names counts."""
    return dict(reversed(query))
