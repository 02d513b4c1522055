"""Negative cache: keys that an origin does not have, in a table of fixed size that all processes of a node share.

How it works. An entry holds a key's digest, the token that the key had before the origin was asked, and the time of
that question. An entry is valid while the token is unchanged: every write of the key, at this node or another, stores
a new token. Part of the digest selects a set of WAYS entries. A key that finds its set full replaces the oldest entry.
Entries are written and read word by word, without a lock between keys. An entry whose check word does not match its
other words counts as empty.
"""

from __future__ import annotations

from typing import NamedTuple

SETS = 4096
WAYS = 8
ENTRY_WORDS = 5  # digest (two), token, time and kind, check
MISSING_WORDS = SETS * WAYS * ENTRY_WORDS  # 1.25 MiB for 32,768 keys
KINDS = ("key", "version", "bucket")
_WORD = (1 << 64) - 1
_KIND_BITS = 2


class Missing(NamedTuple):
    """A negative answer: `what` does not exist (key, version or bucket). `checked_at_s` is Unix time."""

    what: str
    checked_at_s: float


class MissingTable:
    """The table, indexed by the digest of an ObjectKey."""

    def __init__(self, words: memoryview) -> None:
        assert words.format == "Q"
        assert len(words) == MISSING_WORDS
        self._words = words

    def get(self, digest: bytes, token: int) -> Missing | None:
        """Return the entry, or None. Costs about 20 loads and comparisons."""
        first, second = _names(digest)
        for at in _offsets(first):
            if self._words[at] != first:
                continue
            entry = self._words[at : at + ENTRY_WORDS].tolist()
            if entry[:3] == [first, second, token] and entry[4] == _check(entry):
                kind = entry[3] & ((1 << _KIND_BITS) - 1)
                return Missing(KINDS[kind], (entry[3] >> _KIND_BITS) / 1e6)
        return None

    def put(self, digest: bytes, token: int, missing: Missing) -> None:
        first, second = _names(digest)
        when = (int(missing.checked_at_s * 1e6) << _KIND_BITS | KINDS.index(missing.what)) & _WORD
        entry = [first, second, token, when, 0]
        entry[4] = _check(entry)
        at = self._find(first, second)
        if at is None:
            at = min(_offsets(first), key=lambda offset: self._words[offset + 3])
        for number, word in enumerate(entry):
            self._words[at + number] = word

    def drop(self, digest: bytes) -> None:
        """Remove the entry of a key that the origin has."""
        at = self._find(*_names(digest))
        if at is not None:
            self._words[at + 3] = self._words[at + 4] = 0

    def _find(self, first: int, second: int) -> int | None:
        return next((at for at in _offsets(first) if self._words[at] == first and self._words[at + 1] == second), None)


def _names(digest: bytes) -> tuple[int, int]:
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def _offsets(first: int) -> range:
    start = (first % SETS) * WAYS * ENTRY_WORDS
    return range(start, start + WAYS * ENTRY_WORDS, ENTRY_WORDS)


def _check(entry: list[int]) -> int:
    """Return the check word. It is never 0, so a dropped or unwritten entry never matches."""
    return entry[0] ^ entry[1] ^ entry[2] ^ entry[3] or 1
