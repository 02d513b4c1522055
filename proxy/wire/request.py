"""A GET request, rendered byte-exact: the target is what was signed, so nothing here encodes or cleans it."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TARGET = re.compile(rb"/[^\x00-\x20\x7f]*")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[^\x00\r\n]*")


def render_request(authority: str, target: bytes, headers: Sequence[tuple[str, str]]) -> bytes:
    """The request's bytes. `Host` is added where the caller gives none, nothing else is.

    ValueError for what could end a line or the request early: such a target or header is never sent.
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
