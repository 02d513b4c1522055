"""The repository as the tidy tests read it: its files, its modules, what each imports."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("proxy", "s3api", "gcsapi")
PYTHON_FOLDERS = (*PRODUCT, "tests", "bench")


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file: its dotted name (a package's is the folder's), path and syntax tree."""

    name: str
    path: Path
    tree: ast.Module
    line_count: int

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.name.split("."))

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and full dotted name of whatever is imported, inside functions and `if TYPE_CHECKING` too.

        `from a import b` counts as `a.b` where that is a module of ours, else as `a`.
        """
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield node.lineno, alias.name
            elif isinstance(node, ast.ImportFrom):
                package = self._absolute(node)
                for alias in node.names:
                    whole = f"{package}.{alias.name}"
                    yield node.lineno, whole if _is_module(whole) else package

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        here = self.parts if self.path.name == "__init__.py" else self.parts[:-1]
        up = here[: len(here) - node.level + 1]
        return ".".join((*up, node.module) if node.module else up)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@cache
def repository_files() -> tuple[Path, ...]:
    """Every file that git knows or would add; without git (an unpacked sdist) every file outside dotted folders."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(listing, capture_output=True, check=True).stdout.split(b"\0")
        paths = [ROOT / os.fsdecode(name) for name in set(found) if name]
    except (OSError, subprocess.CalledProcessError):
        inside = (path for path in ROOT.rglob("*") if "__pycache__" not in path.parts)
        paths = [path for path in inside if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    return tuple(sorted(path for path in paths if path.is_file()))


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    """The Python modules under these top-level folders."""
    return tuple(
        _read_module(path)
        for path in repository_files()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders
    )


@cache
def _read_module(path: Path) -> Module:
    text = path.read_text("utf-8")
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
    return Module(".".join(parts), path, ast.parse(text, str(path)), text.count("\n"))


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def position(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"
