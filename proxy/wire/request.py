"""A GET request, rendered byte for byte: the target was signed, so it is neither encoded nor normalised here."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TARGET = re.compile(rb"/[^\x00-\x20\x7f]*")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[^\x00\r\n]*")


def render_request(authority: str, target: bytes, headers: Sequence[tuple[str, str]]) -> bytes:
    """Return the request's bytes. Only `Host` is added, if the caller gives none.

    Raises ValueError for a target or header that could end a line or the request early: it is never sent.
    """
    if _TARGET.fullmatch(target) is None:
        raise ValueError(f"not a request target: {target!r}")
    lines = [b"GET ", target, b" HTTP/1.1\r\n"]
    if not any(name.lower() == "host" for name, _ in headers):
        lines.append(b"host: %b\r\n" % authority.encode("ascii"))
    for name, value in headers:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"not a header name: {name!r}")
        if _VALUE.fullmatch(value) is None:
            raise ValueError(f"the value of header {name!r} holds a line break or NUL")
        lines.append(b"%b: %b\r\n" % (name.encode("ascii"), value.encode("latin-1")))
    lines.append(b"\r\n")
    return b"".join(lines)
