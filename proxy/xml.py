"""XML as S3 and GCS write it. Pure.

What XML 1.0 can't hold (most control characters, lone surrogates) becomes U+FFFD, so that a document with a strange
key in it stays readable; clients that must know such keys exactly ask for `encoding-type=url`.
"""

from __future__ import annotations

import re

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"})


def escape(text: str) -> str:
    return _IMPOSSIBLE.sub("\ufffd", text).translate(_ENTITIES)


def element(name: str, text: str | int) -> str:
    return f"<{name}>{escape(str(text))}</{name}>"


def document(root: str, content: str, *, namespace: str | None = None) -> bytes:
    opening = f'{root} xmlns="{namespace}"' if namespace else root
    return f"{DECLARATION}<{opening}>{content}</{root}>".encode()
