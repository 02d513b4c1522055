"""Rounds: every side measured in turns, in one run, and compared pairwise.

A ratio is taken within each round, between two sides measured seconds apart, and the table gives the median of
these ratios and their spread: a machine that slows down in mid-run slows both sides of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

Result = TypeVar("Result")

ROUNDS = 5
QUICK_ROUNDS = 3


def in_turns(sides: Mapping[str, Callable[[], Result]], rounds: int) -> dict[str, list[Result]]:
    """What each side gave, round by round; every other round goes through the sides backwards."""
    found: dict[str, list[Result]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides)
        if number % 2:
            names.reverse()
        for name in names:
            found[name].append(sides[name]())
    return found


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Pair by pair; a pair without a measurement on the other side is left out."""
    return [own / other for own, other in zip(mine, theirs, strict=True) if other]


def middle(values: Sequence[float]) -> float:
    return median(values) if values else float("nan")


def spread(values: Sequence[float]) -> str:
    """`1.02 (0.98-1.05)`: the median, the least and the greatest."""
    if not values:
        return "-"
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"
