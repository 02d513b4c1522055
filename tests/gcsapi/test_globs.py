"""`matchGlob` as GCS describes it, at a cost that no pattern can drive up."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcsapi.globs import Glob
from proxy.errors import InvalidRequest


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("", "", True),
        ("*.bin", "a.bin", True),
        ("*.bin", "d/a.bin", False),
        ("**.bin", "d/a.bin", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "ab", False),
        ("**a*b", "a/ab", True),
        ("**/b", "ab", False),
        ("**/b", "a/ab", False),
        ("**/b", "a/b", True),
        ("a?b", "axb", True),
        ("a?b", "a/b", False),
        ("[a-c]?", "bz", True),
        ("[a-c]", "d", False),
        ("[!a]x", "bx", True),
        ("[!a]x", "ax", False),
        ("[^a]", "/", False),
        ("[]]", "]", True),
        ("[", "[", True),
        ("{a,b*}.x", "bcd.x", True),
        ("x{1,2}{a,b}", "x2b", True),
        ("x{1,2}{a,b}", "x3b", False),
        ("{a,{b,c}}", "c", True),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
        ("ü*", "üx", True),
        ("**/**/b", "b", True),
        ("**/**/b", "a/b", True),
        ("**/**/b", "ab", False),
        ("a/**/**/**", "a/", True),
        ("[]]x[ab]", "]xb", True),
        ("[!]]", "a", True),
        ("[x", "[x", True),
        ("{a,**b}{c,?}", "x/bd", True),
    ],
)
def test_patterns_name(pattern: str, name: str, matches: bool) -> None:
    assert Glob(pattern).matches(name) is matches


def test_a_pattern_full_of_stars_costs_no_more_than_its_length_times_the_names() -> None:
    assert not Glob("**a" * 300).matches("a" * 1000 + "b")


@pytest.mark.parametrize("pattern", ["x" * 1025, "{a,b}" * 7, "{" + "a," * 60 + "}" + "x" * 100])
def test_a_pattern_that_is_too_large_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest):
        Glob(pattern)


def test_names_that_match_begin_with_the_patterns_prefix() -> None:
    assert Glob("models/{llama,llava}*").prefix == "models/lla"
    assert Glob("*").prefix == ""
    assert Glob("exact").prefix == "exact"


@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**", "**/", "?"]), max_size=8).map("".join),
    st.text(alphabet="ab/", max_size=8),
)
def test_stars_are_what_a_regular_expression_says(pattern: str, name: str) -> None:
    text = re.sub(r"\*\*+/", "\0", pattern)
    text = re.sub(r"\*\*+", "\1", text)
    words = {"\0": "(?:.*/)?", "\1": ".*", "*": "[^/]*", "?": "[^/]"}
    expected = re.fullmatch("".join(words.get(char, re.escape(char)) for char in text), name) is not None
    assert Glob(pattern).matches(name) is expected
