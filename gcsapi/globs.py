"""`matchGlob`: which names a pattern of GCS's names. Pure.

How it works. `*` is any number of characters but `/`, `**` any number of any (and `**/` also nothing at all), `?` one
character but `/`, `[abc]` and `[a-z]` one of these, `[!a]` or `[^a]` one that is none of them, `{ab,c*}` either.
1. Braces are expanded into alternatives, bounded in number and in length together.
2. Each alternative is a row of tokens, and all rows lie in one row of bits. A name is read once, and one integer holds
   all the positions that the part read so far may lead to: no pattern, however many stars it has, costs more than its
   length times the name's. A regular expression would try them one after the other.
3. Names of a page look alike, so the steps taken are remembered: the next name takes most of them by one look-up.
`steps` counts what has been done, each about 0.15 us: whoever matches many names rests (`rested_at`), and stops, by it.
Source: Cloud Storage documentation, "List objects and prefixes using glob".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.errors import InvalidRequest

PATTERN_MAX = 1024
ALTERNATIVES_MAX = 64
EXPANDED_MAX = 2048  # characters of all alternatives together
TRANSITIONS_MAX = 1024  # remembered; each holds two integers of up to EXPANDED_MAX bits
_BITS_PER_STEP = 512  # integers up to this size cost about the same
_ANY, _PART = "**", "*"


@dataclass(frozen=True, slots=True)
class _Set:
    """One character: of `chars` and `ranges`, or, `negated`, of none of them."""

    chars: frozenset[str] = frozenset()
    ranges: tuple[tuple[str, str], ...] = ()
    negated: bool = False

    def has(self, char: str) -> bool:
        found = char in self.chars or any(first <= char <= last for first, last in self.ranges)
        return found is not self.negated and not (self.negated and char == "/")


_Token = _Set | str
_SLASH = _Set(frozenset("/"))


class Glob:
    """Raises InvalidRequest for a pattern that is none, or too large."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > PATTERN_MAX:
            raise _invalid(pattern)
        alternatives = list(_expand(pattern))
        self.prefix = _common([re.split(r"[*?\[\\]", text, maxsplit=1)[0] for text in alternatives])
        self.steps = self.rested_at = 0
        # Bit i of a set of positions: what stands before token i has been read. A row's last bit has no token.
        self._sets: list[tuple[int, _Set]] = []
        self._begin = self._end = self._any = self._part = self._dirs = 0
        width = 0
        for text in alternatives:
            width = self._add_row(_tokenize(text), width)
        self._cost = 1 + width // _BITS_PER_STEP
        self._begin = self._skip(self._begin)
        self._reading_cost = sum(1 + len(token.ranges) for _, token in self._sets)
        self._readers: dict[str, int] = {}
        self._known: dict[tuple[int, str], int] = {}

    def matches(self, name: str) -> bool:
        positions, known = self._begin, self._known
        for char in name:
            found = known.get((positions, char))
            if found is None:
                found = self._step(positions, char)
            self.steps += 1
            positions = found
            if not positions:
                return False
        return positions & self._end != 0

    def _add_row(self, tokens: list[_Token], offset: int) -> int:
        """Returns where the next row begins."""
        for bit, token in enumerate(tokens, offset):
            if isinstance(token, _Set):
                self._sets.append((bit, token))
            elif token == _PART:
                self._part |= 1 << bit
            else:
                self._any |= 1 << bit
                if tokens[bit - offset + 1 : bit - offset + 2] == [_SLASH]:
                    self._dirs |= 1 << bit
        self._begin |= 1 << offset
        self._end |= 1 << offset + len(tokens)
        return offset + len(tokens) + 1

    def _step(self, positions: int, char: str) -> int:
        """Where a character leads; remembered."""
        self.steps += self._cost * 8
        stayed = positions & (self._any if char == "/" else self._any | self._part)
        # `**/` that has read something needs its slash: only who has just arrived there may skip it.
        found = self._skip((positions & self._reading(char)) << 1) | stayed | stayed << 1
        if len(self._known) >= TRANSITIONS_MAX:
            self._known.clear()
        self._known[positions, char] = found
        return found

    def _skip(self, positions: int) -> int:
        """With the positions behind stars that have read nothing. It takes few rounds: stars in a row are one."""
        while True:
            wider = positions | (positions & (self._any | self._part)) << 1 | (positions & self._dirs) << 2
            if wider == positions:
                return positions
            positions = wider

    def _reading(self, char: str) -> int:
        """The tokens that read this character and are done."""
        found = self._readers.get(char)
        if found is None:
            self.steps += self._reading_cost
            if len(self._readers) >= TRANSITIONS_MAX:
                self._readers.clear()
            found = self._readers[char] = sum(1 << bit for bit, token in self._sets if token.has(char))
        return found


def _tokenize(text: str) -> list[_Token]:
    """A pattern without braces. `**/**/` means the same as `**/`, and becomes it."""
    tokens: list[_Token] = []
    position, closed = 0, True  # whether a set may still be closed
    while position < len(text):
        char, begin = text[position], position
        position += 1
        if char == "*":
            while text[position : position + 1] == "*":
                position += 1
            tokens.append(_ANY if position - begin > 1 else _PART)
            continue
        end = _set_end(text, begin) if char == "[" and closed else -1
        if end > 0:
            tokens.append(_parse_set(text[begin + 1 : end]))
            position = end + 1
            continue
        closed = closed and char != "["
        if char == "?":
            tokens.append(_Set(negated=True))
        elif char == "\\" and position < len(text):
            tokens.append(_Set(frozenset(text[position])))
            position += 1
        else:
            tokens.append(_Set(frozenset(char)))
            if char == "/" and tokens[-2:-1] == [_ANY] and tokens[-4:-2] == [_ANY, _SLASH]:
                del tokens[-2:]
    return tokens


def _set_end(text: str, begin: int) -> int:
    """Where the `]` of a set stands, or -1: a `]` that comes first is one of its characters."""
    first = begin + 1 + (text[begin + 1 : begin + 2] in ("!", "^"))
    return text.find("]", first + 1) if text[first : first + 1] else -1


def _parse_set(inside: str) -> _Set:
    negated = inside[0] in "!^"
    members = re.findall(r"(.)-(.)|(.)", inside[negated:], re.DOTALL)
    ranges = tuple((first, last) for first, last, _ in members if first)
    return _Set(frozenset(only for _, _, only in members if only), ranges, negated)


def _expand(pattern: str) -> Iterator[str]:
    """The patterns without braces that one with braces stands for."""
    waiting, count, length = [pattern], 0, 0
    while waiting:
        text = waiting.pop()
        inner = re.search(r"\{([^{}]*)\}", text)
        if inner is None:
            length += len(text)
            if length > EXPANDED_MAX:
                raise _invalid(pattern)
            yield text
            continue
        choices = inner[1].split(",")
        count += len(choices)
        if count > ALTERNATIVES_MAX:
            raise _invalid(pattern)
        waiting += [text[: inner.start()] + choice + text[inner.end() :] for choice in choices]


def _common(texts: list[str]) -> str:
    """What all texts begin with."""
    low, high = min(texts), max(texts)
    return low[: next((i for i, char in enumerate(low) if char != high[i : i + 1]), len(low))]


def _invalid(pattern: str) -> InvalidRequest:
    text = f"up to {PATTERN_MAX} characters, and {EXPANDED_MAX} with its braces expanded, are possible"
    return InvalidRequest("invalid", f"Invalid glob pattern '{pattern[:100]}': {text}.")
