"""Request bodies, read only where they name what is written.

How it works. Nobody holds a whole upload. Two kinds of body must be looked into, for the names that they write:
DeleteObjects' XML (read whole, 2 MiB at most, as S3 has it) and a POST form (`proxy.lanes.forms`).
"""

from __future__ import annotations

from xml.parsers import expat

from proxy.errors import InvalidRequest
from proxy.objects import ObjectName
from s3api.requests import written_names
from s3api.xml import document, element

DELETE_BYTES_MAX = 2 << 20
PARTS_BYTES_MAX = 8 << 20  # 10,000 parts, each with a line for each of its checksums
DELETE_OBJECTS_MAX = 1000


def parse_delete(bucket: str, content: bytes) -> tuple[ObjectName, ...]:
    """The names that a DeleteObjects document removes. Raises InvalidRequest("MalformedXML")."""
    items, _ = parse_delete_items(content)
    return tuple(name for key, version_id in items for name in written_names(bucket, key, version_id))


def parse_delete_items(content: bytes) -> tuple[list[tuple[str, str | None]], bool]:
    """Keys and version ids of a DeleteObjects document, and whether only failures are to be told."""
    reader = _Document("Delete", "Object")
    items = reader.parse(content)
    if not items or len(items) > DELETE_OBJECTS_MAX or not all(item.get("Key") for item in items):
        raise _malformed_xml()
    quiet = reader.settings.get("Quiet", "").strip().lower() == "true"
    return [(item["Key"], item.get("VersionId")) for item in items], quiet


def render_parts(content: bytes) -> bytes:
    """A CompleteMultipartUpload document with nothing but numbers and ETags: GCS knows no checksums of parts."""
    items = _Document("CompleteMultipartUpload", "Part").parse(content)
    if not items or not all("PartNumber" in item and "ETag" in item for item in items):
        raise _malformed_xml()
    parts = (element("PartNumber", item["PartNumber"].strip()) + element("ETag", item["ETag"]) for item in items)
    return document("CompleteMultipartUpload", "".join(f"<Part>{part}</Part>" for part in parts), namespace=None)


class _Document:
    """A reader of `<ROOT><ITEM>fields</ITEM>…`; a document type, and so any entity, is refused.

    `settings` are the fields beside the items.
    """

    def __init__(self, root: str, item: str) -> None:
        self._item_path = [root, item]
        self._path: list[str] = []
        self._text: list[str] = []
        self._item: dict[str, str] = {}
        self._items: list[dict[str, str]] = []
        self.settings: dict[str, str] = {}

    def parse(self, content: bytes) -> list[dict[str, str]]:
        parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._refuse
        try:
            parser.Parse(content, True)
        except expat.ExpatError:
            raise _malformed_xml() from None
        return self._items

    def _refuse(self, *_: object) -> None:
        raise _malformed_xml()

    def _start(self, name: str, _: dict[str, str]) -> None:
        self._path.append(name.rpartition(":")[2])
        self._text.clear()
        if self._path == self._item_path:
            self._item = {}

    def _end(self, _: str) -> None:
        text = "".join(self._text)
        if self._path == self._item_path:
            self._items.append(self._item)
        elif self._path[:-1] == self._item_path:
            self._item[self._path[-1]] = text
        elif self._path[:-1] == self._item_path[:1]:
            self.settings[self._path[-1]] = text
        self._path.pop()


def _malformed_xml() -> InvalidRequest:
    text = "The XML you provided was not well-formed or did not validate against our published schema"
    return InvalidRequest("MalformedXML", text)
