"""Request bodies, read only where they name what is written.

How it works. Nobody holds a whole upload. Two kinds of body must be looked into, for the names that they write:
DeleteObjects' XML (read whole, 2 MiB at most, as S3 has it) and a POST form, whose fields come before its file (S3
allows them 20 KB): only they are read ahead, and then they go on with the rest.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from xml.parsers import expat

from proxy.errors import InvalidRequest
from proxy.objects import ObjectName
from s3api.requests import written_names
from s3api.xml import document, element

DELETE_BYTES_MAX = 2 << 20
PARTS_BYTES_MAX = 8 << 20  # 10,000 parts, each with a line for each of its checksums
FORM_FIELDS_BYTES_MAX = 256 << 10  # S3 allows 20 KB; other origins more
DELETE_OBJECTS_MAX = 1000
_NAME = re.compile(rb'(?:^|[;\s])name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_FILENAME = re.compile(rb'(?:^|[;\s])filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_BOUNDARY = re.compile(r'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)


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


async def read_form_key(content_type: str, body: AsyncIterator[bytes]) -> tuple[str, bytes]:
    """The key that a POST form writes, and the bytes that were read to find it.

    Raises InvalidRequest: the form is malformed, its fields are too long, or its file does not come last.
    """
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise InvalidRequest("MalformedPOSTRequest", "The body of your POST request is not multipart/form-data.")
    delimiter = b"--" + (match[1] or match[2]).encode("latin-1")
    read, worth_parsing_bytes = bytearray(), 0
    async for data in body:
        read += data
        if len(read) < worth_parsing_bytes:
            continue
        key = parse_form_key(bytes(read), delimiter)
        if key is not None:
            return key, bytes(read)
        worth_parsing_bytes = len(read) * 5 // 4  # a form that trickles in is not parsed anew for each byte
        if len(read) > FORM_FIELDS_BYTES_MAX:
            raise InvalidRequest("MaxPostPreDataLengthExceeded", "The fields before the form's file are too long.")
    key = parse_form_key(bytes(read), delimiter)
    if key is None:
        raise InvalidRequest("InvalidArgument", "POST requires exactly one file upload per request.")
    return key, bytes(read)


def parse_form_key(read: bytes, delimiter: bytes) -> str | None:
    """The key, once the file's part has begun; None: more is needed."""
    key: str | None = None
    position = read.find(delimiter)
    while position >= 0:
        begin = position + len(delimiter)
        head_end = read.find(b"\r\n\r\n", begin)
        if head_end < 0:
            return None
        head = _disposition(read[begin:head_end])
        name = _NAME.search(head)
        if name is not None and name[1] == b"file":
            if key is None:
                raise InvalidRequest("InvalidArgument", "Bucket POST must contain a field named 'key'.")
            return key.replace("${filename}", _filename(head))
        position = read.find(b"\r\n" + delimiter, head_end + 2)
        if position < 0:
            return None
        if name is not None and name[1] == b"key":
            key = _text(read[head_end + 4 : position])
        position += 2
    return None


def _disposition(head: bytes) -> bytes:
    """The value of the part's Content-Disposition."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            return value
    return b""


def _filename(disposition: bytes) -> str:
    """The file's own name: what follows the last `/` or `\\`, as browsers send whole paths."""
    match = _FILENAME.search(disposition)
    return re.split(r"[/\\]", _text(match[1]))[-1] if match is not None else ""


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("InvalidArgument", "The form's key is not UTF-8.") from None
