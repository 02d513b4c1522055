"""`python -m bench NAME [--quick] [--json FILE]`; without a name, the list of questions."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import platform
import sys
from pathlib import Path

import bench
from bench import Row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, side by side.")
    parser.add_argument("name", nargs="?", help="the question; without it they are listed")
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    arguments = parser.parse_args()
    questions = _questions()
    if arguments.name is None:
        for name, question in questions.items():
            print(f"{name:12} {question}")
        return 0
    if arguments.name not in questions:
        parser.error(f"no such question: {arguments.name}; there are {', '.join(questions)}")
    rows: list[Row] = importlib.import_module(f"bench.{arguments.name}").measure(arguments.quick)
    print(f"{questions[arguments.name]}\n\n{_render(rows)}")
    if arguments.json is not None:
        machine = f"{platform.machine()}, {platform.release()}, Python {platform.python_version()}"
        arguments.json.write_text(json.dumps({"bench": arguments.name, "machine": machine, "rows": rows}, indent=1))
    return 0


def _questions() -> dict[str, str]:
    """Name and sentence of every module here that asks something."""
    found = {}
    for module in pkgutil.iter_modules(bench.__path__):
        if not module.name.startswith("_"):
            question = getattr(importlib.import_module(f"bench.{module.name}"), "QUESTION", None)
            if question is not None:
                found[module.name] = question
    return found


def _render(rows: list[Row]) -> str:
    """A table in Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: str | int | float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
