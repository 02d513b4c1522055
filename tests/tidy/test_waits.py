"""Waits: no sleep is a bare difference, which may be negative (`time.sleep` refuses it, `asyncio.sleep` hides it)."""

from __future__ import annotations

import ast

from tests.tidy.sources import PYTHON_FOLDERS, Module, modules, position


def bare_differences(module: Module) -> list[str]:
    """Where a sleep's length is a subtraction, or a negative number."""
    return [
        position(module.path, node.lineno)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).split(".")[-1] == "sleep"
        and node.args
        and (
            (isinstance(node.args[0], ast.BinOp) and isinstance(node.args[0].op, ast.Sub))
            or (isinstance(node.args[0], ast.UnaryOp) and isinstance(node.args[0].op, ast.USub))
        )
    ]


def test_no_sleep_can_be_negative() -> None:
    assert not [line for module in modules(*PYTHON_FOLDERS) for line in bare_differences(module)]
