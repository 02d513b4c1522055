"""Multipart bodies: the parameters of header values, boundaries, and parts. Pure.

How it works. Everything is read once, from left to right, and its length is checked first. Input that two parsers could
read in two ways counts as malformed: the gateway must see the same name as the store behind it.
Source: RFC 2046 section 5.1, RFC 7578, RFC 9110 section 5.6.6.
"""

from __future__ import annotations

import re

VALUE_MAX = 1024  # of a Content-Type or Content-Disposition; browsers put a file's name there
BOUNDARY_MAX = 70  # RFC 2046 section 5.1.1
_WORD = re.compile(r"[ \t]*([^;\s]*)[ \t]*")
_PARAMETER = re.compile(
    r';[ \t]*(?:([^\s=;"]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*)))?[ \t]*', re.ASCII | re.DOTALL
)
_LINE_END = re.compile(rb"[ \t]{0,100}\r?\n")

Parameters = dict[str, str]


def parse_parameters(value: str) -> tuple[str, Parameters] | None:
    """Return word and parameters of `word; name=value; name="value"`; None if malformed, too long, or a name repeats.

    Everything but the values is in lower case; escapes are left as they are.
    """
    word = _WORD.match(value) if len(value) <= VALUE_MAX else None
    if word is None:
        return None
    parameters: Parameters = {}
    position = word.end()
    while position < len(value):
        found = _PARAMETER.match(value, position)
        if found is None:
            return None
        position = found.end()
        if found[1] is not None:
            name = found[1].lower()
            if name in parameters:
                return None
            parameters[name] = found[2] if found[2] is not None else found[3]
    return word[1].lower(), parameters


def parse_delimiter(content_type: str, subtype: str = "") -> bytes | None:
    """Return the delimiter of parts, `--` and the boundary; None if the type is not multipart or has no boundary.

    `subtype` is the required one; "" accepts any. Some clients put the boundary in single quotes.
    """
    parsed = parse_parameters(content_type)
    if parsed is None or not parsed[0].startswith("multipart/" + subtype):
        return None
    word, parameters = parsed
    boundary = parameters.get("boundary", "")
    if len(boundary) > 2 and boundary[0] == boundary[-1] == "'":
        boundary = boundary[1:-1]
    if (subtype and word != "multipart/" + subtype) or not 0 < len(boundary) <= BOUNDARY_MAX:
        return None
    return b"--" + boundary.encode("latin-1", "replace")


def split_parts(content: bytes, delimiter: bytes, parts_max: int) -> list[bytes] | None:
    """Return the parts of a whole body with their heads; None if a delimiter is not a line, or there are too many.

    Lines may end with a bare newline, as some clients of GCS send them. Anything before the first part is dropped.
    """
    parts: list[bytes] = []
    position = 0 if content.startswith(delimiter) else content.find(b"\n" + delimiter) + 1
    if position == 0 and not content.startswith(delimiter):
        return parts
    while True:
        position += len(delimiter)
        if content.startswith(b"--", position):
            return parts
        line_end = _LINE_END.match(content, position)
        if line_end is None or len(parts) == parts_max:
            return None
        begin = line_end.end()
        found = content.find(b"\n" + delimiter, begin - 1)
        if found < 0:
            parts.append(content[begin:])
            return parts
        end = max(begin, found - content.startswith(b"\r", found - 1))
        parts.append(content[begin:end])
        position = found + 1
