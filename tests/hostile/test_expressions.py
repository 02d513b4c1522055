"""No regular expression of the product costs more than the length of what it looks at.

How it works. Every expression is found in the sources, with how it is used. For each part of it that repeats, an input
is built that goes as far as that part, repeats one character that it takes, and then fails: where a neighbour
takes the same character, each split between the two is tried, and the cost grows with the square.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from tests.hostile.cost import Shape, assert_linear
from tests.tidy.sources import PRODUCT, modules

LONGEST = 16 << 10  # a quadratic one takes half a second there
OPERATORS = ("proxy.config", "proxy.cli")  # look at nothing but what the operator wrote
CANDIDATES = " 0aA\t\n-_.,;:=\"'/%@()[]{}*?<>\\\xa0~"
USES = dict.fromkeys(("search", "findall", "finditer", "sub", "split"), "search")  # the costliest first
USES |= {"match": "match", "fullmatch": "fullmatch"}


@dataclass(frozen=True, slots=True)
class Expression:
    """`use` is the method by which it looks: search, match or fullmatch."""

    place: str
    text: str
    use: str

    def __str__(self) -> str:
        return self.place


def find_expressions() -> Iterator[Expression]:
    for module in modules(*PRODUCT):
        if module.name.startswith(OPERATORS):
            continue
        source = module.path.read_text("utf-8")
        if "re." not in source:
            continue
        for node in ast.walk(module.tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            if ast.unparse(node.func.value) != "re" or not isinstance(node.args[0], ast.Constant):
                continue
            text = node.args[0].value
            text = text.decode("latin-1") if isinstance(text, bytes) else str(text)
            name = _assigned_to(module.tree, node)
            used = [node.func.attr] if name == "" else [use for use in USES if re.search(rf"\b{name}\.{use}\b", source)]
            yield Expression(f"{module.name}:{node.lineno}", text, USES[used[0]] if used else "fullmatch")


def _assigned_to(tree: ast.AST, call: ast.Call) -> str:
    found = (
        node.targets[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and node.value is call and isinstance(node.targets[0], ast.Name)
    )
    return next(found, "")


EXPRESSIONS = list(dict.fromkeys(find_expressions()))


def shapes(text: str) -> Iterator[Shape]:
    """Inputs that go as far as each repetition, repeat what it takes, and fail."""
    yield from _walk(parser.parse(text), "")


def _walk(items: Any, before: str) -> Iterator[Shape]:
    for code, value in items:
        inner = _repeated(code, value)
        if inner is not None:
            yield from _walk(inner, before)
            unit = _example(inner)
            yield Shape(before, unit, "\x00")
            yield Shape(before, unit, "")
            yield Shape(before + unit, unit, "\x00")
        elif code is codes.SUBPATTERN:
            yield from _walk(value[-1], before)
        elif code is codes.BRANCH:
            for branch in value[1]:
                yield from _walk(branch, before)
        before += _example([(code, value)])


def _repeated(code: Any, value: Any) -> Any:
    """What is repeated without a small limit, or None."""
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT) and value[1] > 50:
        return value[2]
    return None


def _example(items: Any) -> str:
    """The shortest text that these items take, or nearly."""
    text = ""
    for code, value in items:
        if code is codes.LITERAL:
            text += chr(value)
        elif code in (codes.NOT_LITERAL, codes.IN, codes.ANY):
            text += next((c for c in CANDIDATES if _takes(code, value, c)), "a")
        elif code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            text += _example(value[2]) * value[0]
        elif code is codes.SUBPATTERN:
            text += _example(value[-1])
        elif code is codes.BRANCH:
            text += _example(value[1][0])
    return text


def _takes(code: Any, value: Any, character: str) -> bool:
    if code is codes.ANY:
        return character != "\n"
    if code is codes.NOT_LITERAL:
        return bool(ord(character) != value)
    negated = any(found is codes.NEGATE for found, _ in value)
    return negated != any(_has(found, about, character) for found, about in value)


def _has(code: Any, about: Any, character: str) -> bool:
    if code is codes.LITERAL:
        return bool(ord(character) == about)
    if code is codes.RANGE:
        return bool(about[0] <= ord(character) <= about[1])
    if code is codes.CATEGORY:
        name = {codes.CATEGORY_DIGIT: r"\d", codes.CATEGORY_SPACE: r"\s", codes.CATEGORY_WORD: r"\w"}.get(about, r"\S")
        return re.fullmatch(name, character) is not None
    return False


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_an_expression_costs_no_more_than_the_length_of_its_input(expression: Expression) -> None:
    look = getattr(re.compile(expression.text, re.DOTALL), expression.use)
    for shape in shapes(expression.text):
        assert_linear(look, shape.text, longest=LONGEST)


def test_the_expression_that_stopped_workers_would_be_found() -> None:
    compiled = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*")
    with pytest.raises(AssertionError, match="CPU"):
        for shape in shapes(compiled.pattern):
            assert_linear(compiled.fullmatch, shape.text, longest=LONGEST // 4)
