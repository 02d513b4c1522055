"""`matchGlob`: which names a pattern of GCS's names. Pure.

How it works. `*` is any number of characters but `/`, `**` any number of any (and `**/` also nothing at all), `?` one
character but `/`, `[abc]` and `[a-z]` one of these, `[!a]` or `[^a]` one that is none of them, `{ab,c*}` either.
A pattern is a row of tokens. A name is read once, and one integer holds all the places in the row that the read part
may lead to, a bit each; so no pattern, however many stars it has, costs more than its length times the name's. A
regular expression would try them one after the other.
Source: Cloud Storage documentation, "List objects and prefixes using glob".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.errors import InvalidRequest

PATTERN_MAX = 1024
ALTERNATIVES_MAX = 64
_TOKENS = re.compile(r"\*\*+|\*|\?|\[[!^]?\]?[^\]]*\]|\\.|.", re.DOTALL)
_ANY, _PART = "**", "*"


@dataclass(frozen=True, slots=True)
class _Set:
    """One character: of `ranges`, or, `negated`, of none of them."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool = False

    def has(self, char: str) -> bool:
        found = any(first <= char <= last for first, last in self.ranges)
        return found is not self.negated and not (self.negated and char == "/")


class Glob:
    """Raises InvalidRequest for a pattern that is none."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > PATTERN_MAX:
            raise _invalid(pattern)
        alternatives = list(_expand(pattern, pattern))
        self._rows = [_Row(alternative) for alternative in alternatives]
        self.prefix = _common([re.split(r"[*?\[\\]", text, maxsplit=1)[0] for text in alternatives])

    def matches(self, name: str) -> bool:
        return any(row.matches(name) for row in self._rows)


class _Row:
    """A pattern without braces. Bit i of a set of places: the first i tokens have been read."""

    def __init__(self, pattern: str) -> None:
        tokens = [_token(text) for text in _TOKENS.findall(pattern)]
        self._tokens = [
            token for i, token in enumerate(tokens) if not (token in (_ANY, _PART) and token in tokens[i - 1 : i])
        ]
        self._any = self._bits(_ANY)
        self._part = self._bits(_PART)
        slash = _Set((("/", "/"),))
        pairs = zip(self._tokens, self._tokens[1:], strict=False)
        self._dirs = sum(1 << i for i, (one, other) in enumerate(pairs) if one == _ANY and other == slash)
        self._readers: dict[str, int] = {}

    def matches(self, name: str) -> bool:
        places = self._skip(1)
        for char in name:
            stays = self._any if char == "/" else self._any | self._part
            places = self._skip((places & self._reading(char)) << 1 | places & stays)
            if not places:
                return False
        return bool(places >> len(self._tokens) & 1)

    def _skip(self, places: int) -> int:
        """With the places behind stars, which may be nothing."""
        while True:
            wider = places | (places & (self._any | self._part)) << 1 | (places & self._dirs) << 2
            if wider == places:
                return places
            places = wider

    def _reading(self, char: str) -> int:
        """The tokens that read this character and are done."""
        found = self._readers.get(char)
        if found is None:
            found = sum(1 << i for i, token in enumerate(self._tokens) if isinstance(token, _Set) and token.has(char))
            self._readers[char] = found
        return found

    def _bits(self, wanted: str) -> int:
        return sum(1 << i for i, token in enumerate(self._tokens) if token == wanted)


def _token(text: str) -> _Set | str:
    if text.startswith("**"):
        return _ANY
    match text:
        case "*":
            return _PART
        case "?":
            return _Set((), negated=True)
    if text[0] == "\\" and len(text) == 2:
        return _Set(((text[1], text[1]),))
    if text[0] != "[" or len(text) < 3:
        return _Set(((text, text),))
    negated = text[1] in "!^"
    members = re.findall(r"(.)-(.)|(.)", text[1 + negated : -1], re.DOTALL)
    return _Set(tuple((first or only, last or only) for first, last, only in members), negated)


def _expand(pattern: str, whole: str) -> Iterator[str]:
    """The patterns without braces that one with braces stands for."""
    waiting, count = [pattern], 0
    while waiting:
        text = waiting.pop()
        inner = re.search(r"\{([^{}]*)\}", text)
        if inner is None:
            yield text
            continue
        choices = inner[1].split(",")
        count += len(choices)
        if count > ALTERNATIVES_MAX:
            raise _invalid(whole)
        waiting += [text[: inner.start()] + choice + text[inner.end() :] for choice in choices]


def _common(texts: list[str]) -> str:
    """What all texts begin with."""
    low, high = min(texts), max(texts)
    return low[: next((i for i, char in enumerate(low) if char != high[i : i + 1]), len(low))]


def _invalid(pattern: str) -> InvalidRequest:
    return InvalidRequest("invalid", f"Invalid glob pattern: '{pattern[:100]}'")
