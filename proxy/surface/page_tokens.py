"""Continuation tokens: the place in a listing where the next page begins. Pure.

A token carries the place itself and a checksum, so that it means the same on every node and for ever, and one from
elsewhere is refused and not guessed at.
"""

from __future__ import annotations

import base64
import hashlib

_SALT = b"warmstart continuation 1"
_SUM_BYTES = 8


def render_page_token(after: str) -> str:
    """`after` is exclusive, and not empty."""
    position = after.encode("utf-8", "surrogateescape")
    return base64.urlsafe_b64encode(_sum(position) + position).decode("ascii")


def parse_page_token(token: str) -> str | None:
    """Where the page begins; None for a token that no gateway has made."""
    try:
        raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except ValueError:  # not base64, or not even ASCII
        return None
    if len(raw) <= _SUM_BYTES or raw[:_SUM_BYTES] != _sum(raw[_SUM_BYTES:]):
        return None
    return raw[_SUM_BYTES:].decode("utf-8", "surrogateescape")


def _sum(position: bytes) -> bytes:
    return hashlib.sha256(_SALT + position).digest()[:_SUM_BYTES]
