"""Request bodies, read only where they name what is written.

How it works. Nobody holds a whole upload. Two kinds of body must be looked into, for the names that they write:
DeleteObjects' XML (read whole, 2 MiB at most, as S3 has it) and a POST form (`proxy.surface.forms`).
"""

from __future__ import annotations

from proxy.errors import InvalidRequest
from proxy.http.xml import ItemReader
from proxy.objects import ObjectName
from s3api.requests import written_names
from s3api.xml import document, element

DELETE_BYTES_MAX = 2 << 20
PARTS_MAX = 10_000
PARTS_BYTES_MAX = 8 << 20  # 10,000 parts, each with a line for each of its checksums
DELETE_OBJECTS_MAX = 1000


def parse_delete(bucket: str, content: bytes) -> tuple[ObjectName, ...]:
    """The names that a DeleteObjects document removes. Raises InvalidRequest("MalformedXML")."""
    items, _ = parse_delete_items(content)
    return tuple(name for key, version_id in items for name in written_names(bucket, key, version_id))


def parse_delete_items(content: bytes) -> tuple[list[tuple[str, str | None]], bool]:
    """Keys and version ids of a DeleteObjects document, and whether only failures are to be told."""
    reader = _read_items("Delete", "Object", content, DELETE_OBJECTS_MAX)
    items = [item for _, item in reader.items]
    if not items or len(items) > DELETE_OBJECTS_MAX or not all(item.get("Key") for item in items):
        raise _malformed_xml()
    quiet = reader.settings.get("Quiet", "").strip().lower() == "true"
    return [(item["Key"], item.get("VersionId")) for item in items], quiet


def render_parts(content: bytes) -> bytes:
    """A CompleteMultipartUpload document with nothing but numbers and ETags: GCS knows no checksums of parts."""
    items = [item for _, item in _read_items("CompleteMultipartUpload", "Part", content, PARTS_MAX).items]
    if not items or not all("PartNumber" in item and "ETag" in item for item in items):
        raise _malformed_xml()
    parts = (element("PartNumber", item["PartNumber"].strip()) + element("ETag", item["ETag"]) for item in items)
    return document("CompleteMultipartUpload", "".join(f"<Part>{part}</Part>" for part in parts), namespace=None)


def _read_items(root: str, item: str, content: bytes, items_max: int) -> ItemReader:
    reader = ItemReader(root, (item,), items_max=items_max)
    try:
        reader.parse(content)
    except ValueError:
        raise _malformed_xml() from None
    return reader


def _malformed_xml() -> InvalidRequest:
    text = "The XML you provided was not well-formed or did not validate against our published schema"
    return InvalidRequest("MalformedXML", text)
