"""The measure itself: it lets linear parsers pass and catches quadratic ones, in Python and in C."""

from __future__ import annotations

import re

import pytest
from hypothesis import given

from tests.hostile.cost import HEAD_BYTES, Shape, assert_linear, count_steps, hostile

BLANKS = Shape("bytes=", " ", "x")


def test_a_linear_parser_passes() -> None:
    assert_linear(lambda text: [word.strip() for word in text.split(" ")], BLANKS.text)


def test_quadratic_python_is_caught_by_its_steps() -> None:
    def pair_up(text: str) -> int:
        every_eighth = text[::8]
        return sum(first == second for first in every_eighth for second in every_eighth)

    with pytest.raises(AssertionError, match="steps grow"):
        assert_linear(pair_up, BLANKS.text)


@pytest.mark.parametrize(
    "parse",
    [re.compile(r"bytes=\s*(\d*)\s*-").fullmatch, lambda text: [text[:n].count("y") for n in range(0, len(text), 9)]],
    ids=["expression", "copies"],
)
def test_quadratic_c_code_is_caught_by_its_time(parse: object) -> None:
    with pytest.raises(AssertionError, match="CPU"):
        assert_linear(parse, BLANKS.text, bound_s=30.0, longest=HEAD_BYTES // 4)  # type: ignore[arg-type]


def test_a_parser_beyond_its_bound_fails_at_the_first_length() -> None:
    lengths = []

    def parse(text: str) -> None:
        lengths.append(len(text))
        sum(range(2_000_000))

    with pytest.raises(AssertionError, match="characters cost"):
        assert_linear(parse, BLANKS.text, bound_s=0.001)
    assert max(lengths) <= HEAD_BYTES // 8


def test_steps_are_the_same_each_time() -> None:
    counts = {count_steps(sorted, [3, 1, 2]), count_steps(lambda numbers: [-n for n in numbers], range(10))}
    assert counts == {count_steps(sorted, [3, 1, 2]), count_steps(lambda numbers: [-n for n in numbers], range(10))}


@given(hostile(["bytes=", "-"]))
def test_shapes_are_as_long_as_they_are_asked_to_be(shape: Shape) -> None:
    for length in (100, 10_000):
        assert abs(len(shape.text(length)) - length) <= 40
