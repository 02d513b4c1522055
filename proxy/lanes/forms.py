"""POST forms of browsers: the key that one writes, which both dialects put into a field before the file.

How it works. The fields come before the file (S3 allows them 20 KB): only they are read ahead, and then they go on with
the rest.
Source: Amazon S3 API Reference, "POST Object"; Cloud Storage documentation, "XML API: POST Object".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from proxy.errors import InvalidRequest

FORM_FIELDS_BYTES_MAX = 256 << 10  # S3 allows 20 KB; other origins more
_NAME = re.compile(rb'(?:^|[;\s])name="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_FILENAME = re.compile(rb'(?:^|[;\s])filename="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_BOUNDARY = re.compile(r'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)


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
