"""Tokens: how one process invalidates what all others have cached in memory about a key.

How it works. Keys share 65,536 slots, chosen by their digest. A process that caches a key's record in memory also
keeps the token that it saw *before* it read or requested that record. A hit compares one integer. To invalidate a key,
a process stores a fresh random token. Incrementing would not do: two processes that add one at the same moment store
the same value, and one invalidation is lost (measured: 41 % of them). Keys that share a slot invalidate each other,
which costs a look-up and nothing else.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from proxy.objects import ObjectKey

TOKEN_COUNT = 65536


class TokenTable:
    """One 64-bit word per slot, 0 until the slot's first invalidation of this run."""

    def __init__(self, words: memoryview) -> None:
        assert words.format == "Q"
        assert len(words) == TOKEN_COUNT
        self._words = words

    def peek(self, key: ObjectKey) -> int:
        """Return the key's current token: one load, never waits."""
        return int(self._words[_slot(key)])

    def watch(self, key: ObjectKey) -> Callable[[], int]:
        """Return `peek` bound to this key, for callers that look often."""
        return partial(self._words.__getitem__, _slot(key))

    def renew(self, key: ObjectKey) -> int:
        """Invalidate every cached record of the key. Return the new token, which is never 0 and never the old one."""
        slot = _slot(key)
        old = self._words[slot]
        while (token := secrets.randbits(64)) in (0, old):
            pass
        self._words[slot] = token
        return token


def _slot(key: ObjectKey) -> int:
    return int.from_bytes(key.digest[:2], "big")


assert TOKEN_COUNT == 1 << 16  # two bytes of the digest select a slot
