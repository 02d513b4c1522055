"""`python -m bench NAME [--quick] [--json FILE]`; without a name, the list of questions.

The table goes to stdout with the date and the machine below it, what is being measured just now to stderr. Exit status
2: a peer's program is missing, and how to install it is said; 130: interrupted. What was started ends in each case.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NoReturn

import bench
from bench import Row
from bench.processes import Missing


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, side by side.")
    parser.add_argument("name", nargs="?", help="the question; without it they are listed")
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a first look")
    parser.add_argument("--dialect", choices=("s3", "gcs"), default="s3", help="gcs, of `hot`: beside S3's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    _add_flags(parser, next((word for word in words or sys.argv[1:] if not word.startswith("-")), None))
    arguments = parser.parse_args(words)
    questions = find_questions()
    if arguments.name is None:
        for name, question in questions.items():
            print(f"{name:12} {question}")
        return 0
    if arguments.name not in questions:
        parser.error(f"no such question: {arguments.name}; there are {', '.join(questions)}")
    module = importlib.import_module(f"bench.{arguments.name}")
    question, measure = questions[arguments.name], module.measure
    if arguments.dialect == "gcs":
        if not hasattr(module, "measure_gcs"):
            parser.error(f"{arguments.name} has no measurement of that dialect")
        question, measure = module.QUESTION_GCS, module.measure_gcs
    measuring = partial(measure, arguments.quick)
    if hasattr(module, "measure_with"):
        measuring = partial(module.measure_with, arguments)
    try:
        _answer(arguments.name, question, measuring, arguments)
    except Missing as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _add_flags(parser: argparse.ArgumentParser, name: str | None) -> None:
    """Those of a question that has some of its own: a module with `add_arguments` and `measure_with`."""
    if name in find_questions():
        module = importlib.import_module(f"bench.{name}")
        if hasattr(module, "add_arguments"):
            module.add_arguments(parser)


def _answer(name: str, question: str, measure: Callable[[], list[Row]], arguments: argparse.Namespace) -> None:
    began_s = time.monotonic()
    rows = measure()
    said = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": _machine(),
        "took": f"{time.monotonic() - began_s:.0f} s" + (", quick" if arguments.quick else ""),
    }
    print(f"{question}\n\n{render(rows)}\n\n{'; '.join(said.values())}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"bench": name, **said, "rows": rows}, indent=1) + "\n")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{platform.machine()}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}"


def find_questions() -> dict[str, str]:
    """Name and sentence of every module here that asks something."""
    found = {}
    for module in pkgutil.iter_modules(bench.__path__):
        if not module.name.startswith("_"):
            question = getattr(importlib.import_module(f"bench.{module.name}"), "QUESTION", None)
            if question is not None:
                found[module.name] = question
    return found


def render(rows: list[Row]) -> str:
    """A table in Markdown."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: str | int | float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
