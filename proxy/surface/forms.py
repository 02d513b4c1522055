"""POST forms of browsers: the key that a form writes, which both dialects put into a field before the file.

How it works. The fields come before the file (S3 allows 20 KB for them). Only they are read ahead, and then forwarded
with the rest. The key is fenced, so the store must find the same key in the form. Anything stores may read differently
is rejected: a second key, a key field in other case (some stores ignore case), lines that end without CR, folded header
lines, encoded fields, more than one disposition.
Source: Amazon S3 API Reference, "POST Object"; Cloud Storage documentation, "XML API: POST Object"; RFC 7578.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator

from proxy.errors import InvalidRequest
from proxy.surface.multipart import parse_delimiter, parse_parameters

FORM_FIELDS_BYTES_MAX = 256 << 10  # S3 allows 20 KB, other origins more
FIELDS_MAX = 256
HEAD_BYTES_MAX = 4096  # of one field
_KEY, _FILE = "key", "file"
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\r\n]*)")
_UNCODED = frozenset({"", "7bit", "8bit", "binary"})
_UTF8 = frozenset({"", "utf-8", "utf8", "us-ascii"})


async def read_form_key(content_type: str, body: AsyncIterator[bytes]) -> tuple[str, bytes]:
    """Return the key that a POST form writes, and the bytes that were read to find it.

    Raises InvalidRequest if the form is malformed or ambiguous, its fields are too long, or its file is not last.
    """
    delimiter = parse_delimiter(content_type, "form-data")
    if delimiter is None:
        raise InvalidRequest("MalformedPOSTRequest", "The body of your POST request is not multipart/form-data.")
    read, worth_parsing_bytes = bytearray(), 0
    async for data in body:
        read += data
        if len(read) < worth_parsing_bytes:
            continue
        key = parse_form_key(bytes(read), delimiter)
        if key is not None:
            return key, bytes(read)
        worth_parsing_bytes = len(read) * 5 // 4  # so that a slow form is not parsed again for each byte
        if len(read) > FORM_FIELDS_BYTES_MAX:
            raise InvalidRequest("MaxPostPreDataLengthExceeded", "The fields before the form's file are too long.")
    key = parse_form_key(bytes(read), delimiter)
    if key is None:
        raise InvalidRequest("InvalidArgument", "POST requires exactly one file upload per request.")
    return key, bytes(read)


def parse_form_key(read: bytes, delimiter: bytes) -> str | None:
    """Return the key once the file's part has begun; None if more bytes are needed. Raises InvalidRequest."""
    key: str | None = None
    for count, (head, content) in enumerate(_fields(read, delimiter)):
        if count == FIELDS_MAX:
            raise InvalidRequest("MaxPostPreDataLengthExceeded", f"A form has up to {FIELDS_MAX} fields.")
        disposition = _parse_head(head)
        name = disposition.get("name", "")
        if name.strip().lower() in (_KEY, _FILE) and name not in (_KEY, _FILE):
            raise InvalidRequest("InvalidArgument", f"The form's field {name!r} must be called {name.strip().lower()}.")
        if name == _FILE:
            return _with_filename(key, disposition)
        if content is None:
            return None
        if name == _KEY:
            if key is not None:
                raise InvalidRequest("InvalidArgument", "POST requires exactly one field named 'key'.")
            key = _text(content)
    return None


def _fields(read: bytes, delimiter: bytes) -> Iterator[tuple[bytes, bytes | None]]:
    """Yield heads and contents received so far; the last content is None if its end has not come yet.

    Raises InvalidRequest if a delimiter is not a line of its own that ends with CR and LF.
    """
    position = 2 if read.startswith(b"\r\n") else 0  # some clients begin with an empty line
    if not delimiter.startswith(read[position : position + len(delimiter)]) and read != b"\r":
        raise _malformed("it does not begin with its boundary")
    while True:
        begin = position + len(delimiter)
        if read.startswith(b"--", begin):
            return
        line_end = read.find(b"\r\n", begin, begin + HEAD_BYTES_MAX)
        head_end = read.find(b"\r\n\r\n", begin, begin + HEAD_BYTES_MAX)
        if line_end >= 0 and read[begin:line_end].strip(b" \t"):
            raise _malformed("there is something behind a boundary")
        if head_end < 0:
            if len(read) >= begin + HEAD_BYTES_MAX:
                raise _malformed(f"a field's head is longer than {HEAD_BYTES_MAX} bytes")
            return
        found = read.find(b"\n" + delimiter, head_end + 2)
        if found >= 0 and read[found - 1 : found] != b"\r":
            raise _malformed("a line before a boundary ends without CR")
        yield read[line_end + 2 : head_end], read[head_end + 4 : found - 1] if found >= 0 else None
        if found < 0:
            return
        position = found + 1


def _parse_head(head: bytes) -> dict[str, str]:
    """Return the parameters of the part's Content-Disposition, which may be missing. Raises InvalidRequest."""
    fields: dict[str, str] = {}
    for line in head.split(b"\r\n") if head else ():
        found = _HEADER.fullmatch(line)
        if found is None:
            raise _malformed("a field's head has a line that is no header")
        name, value = found[1].decode("ascii").lower(), found[2].decode("latin-1").strip(" \t")
        if fields.setdefault(name, value) != value:
            raise _malformed("a field's head has a header twice")
    if fields.get("content-transfer-encoding", "").lower() not in _UNCODED:
        raise _malformed("a field is coded for transfer")
    kind = parse_parameters(fields.get("content-type", ""))
    disposition = parse_parameters(fields.get("content-disposition", ""))
    if kind is None or disposition is None:
        raise _malformed("a field's head can't be read")
    if kind[1].get("charset", "").lower() not in _UTF8 and disposition[1].get("name") != _FILE:
        raise _malformed("a field is not UTF-8")
    if "name*" in disposition[1]:
        raise _malformed("a field's name is encoded")
    return disposition[1]


def _with_filename(key: str | None, disposition: dict[str, str]) -> str:
    """Put the file's own name into the key: what follows the last `/` or `\\`, as browsers send whole paths."""
    if key is None:
        raise InvalidRequest("InvalidArgument", "Bucket POST must contain a field named 'key'.")
    if "${filename}" not in key:
        return key
    if "filename*" in disposition:
        raise _malformed("the key takes a file's name that is encoded")
    name = _text(disposition.get("filename", "").encode("latin-1"))
    return key.replace("${filename}", re.split(r"[/\\]", name)[-1])


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("InvalidArgument", "The form's key is not UTF-8.") from None


def _malformed(what: str) -> InvalidRequest:
    return InvalidRequest("MalformedPOSTRequest", f"The form can't be read: {what}.")
