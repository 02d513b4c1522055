"""A module is one noun of at most 400 lines, a function fits on a screen."""

from __future__ import annotations

import ast
import statistics

from tests.tidy.sources import PRODUCT, PYTHON_FOLDERS, functions, modules, position

LINES_MAX = 400
FUNCTION_LINES_MAX = 60
FUNCTION_LINES_MEDIAN = 10
REFUSED_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "base", "core", "lib"}


def body_line_count(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """A function's lines without its docstring."""
    docstring = function.body[0].end_lineno if ast.get_docstring(function, clean=False) is not None else None
    skipped = (docstring - function.body[0].lineno + 1) if docstring is not None else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - skipped


def test_no_module_is_longer_than_400_lines() -> None:
    long = [
        f"{position(module.path, 1)} has {module.line_count}"
        for module in modules(*PYTHON_FOLDERS)
        if module.line_count > LINES_MAX
    ]
    assert not long, f"find the second noun in: {long}"


def test_every_function_fits_on_a_screen() -> None:
    assert not [
        f"{position(module.path, function.lineno)} {function.name} has {body_line_count(function)} lines"
        for module in modules(*PYTHON_FOLDERS)
        for function in functions(module)
        if body_line_count(function) > FUNCTION_LINES_MAX
    ]


def test_the_median_function_is_shorter_than_ten_lines() -> None:
    lengths = [body_line_count(function) for module in modules(*PRODUCT) for function in functions(module)]
    assert statistics.median(lengths) < FUNCTION_LINES_MEDIAN


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = [module.name for module in modules(*PYTHON_FOLDERS) if REFUSED_NAMES & set(module.parts)]
    assert not vague, f"name the noun instead: {vague}"
