"""The lock files of the image, and the command that makes them: `python -m tests.package.locks`.

How it works. `constraints.txt` says which version of each package the tests run with. The image gets the same versions
of what pyproject.toml asks for (`requirements.txt`) and of what builds the wheel (`requirements-build.txt`), for every
platform, each with the hashes of its files: pip installs nothing else. A last line in each file names what it was made
of, so that a change of dependencies shows without a network. It runs after
constraints.txt was made anew, by the command at the head of that file.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).parents[2]
CONSTRAINTS = "constraints.txt"
COMMAND = "python -m tests.package.locks"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)([^\n\\]*)((?: *\\\n +--hash=\S+)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pin:
    """One locked package: its version, where it applies, and the hashes of its files."""

    version: str
    marker: str
    hashes: tuple[str, ...]

    def applies(self) -> bool:
        """Whether this machine's Python gets it."""
        return not self.marker or Marker(self.marker.removeprefix(";").strip()).evaluate()


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file and the requirements that it answers."""

    name: str
    requirements: tuple[str, ...]
    requires_python: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @property
    def digest(self) -> str:
        """Of what the lock is made of: the requirements, whatever their order, and the Python versions."""
        made_of = [sorted(self.requirements), self.requires_python]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()

    @property
    def last_line(self) -> str:
        return f"# made of sha256:{self.digest}\n"

    def resolve(self, path: Path) -> None:
        """Writes the lock to `path`, keeping what is pinned there. Asks the package index."""
        lowest = self.requires_python.removeprefix(">=")
        form = ["--universal", "--python-version", lowest, "--generate-hashes", "--no-annotate", "--no-header"]
        wanted = "".join(f"{line}\n" for line in self.requirements)
        _run_uv("-", "--constraints", CONSTRAINTS, *form, "--output-file", str(path), text=wanted)
        head = f"# Made by the command: {COMMAND}\n"
        path.write_text(head + path.read_text("utf-8") + self.last_line, "utf-8")


def locks() -> tuple[Lock, Lock]:
    """What the image runs, and what builds it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    python = project["project"]["requires-python"]
    return (
        Lock("requirements.txt", tuple(project["project"]["dependencies"]), python),
        Lock("requirements-build.txt", tuple(project["build-system"]["requires"]), python),
    )


def read_pins(path: Path) -> dict[NormalizedName, Pin]:
    """What a lock or constraints file pins, by canonical name."""
    return {
        canonicalize_name(name): Pin(version, marker.strip(), tuple(re.findall(r"--hash=(\S+)", hashes)))
        for name, version, marker, hashes in _PIN.findall(path.read_text("utf-8"))
    }


def unmet(requirements: Sequence[str], pins: dict[NormalizedName, Pin]) -> list[str]:
    """The requirements that have no pin, or one that they refuse."""
    wanted = [Requirement(line) for line in requirements]
    found = {need: pins.get(canonicalize_name(need.name)) for need in wanted}
    return [str(need) for need, pin in found.items() if pin is None or not need.specifier.contains(pin.version)]


def _run_uv(*arguments: str, text: str | None = None) -> None:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, input=text, text=True, stdout=subprocess.DEVNULL)


def main() -> None:
    for lock in locks():
        lock.resolve(lock.path)


if __name__ == "__main__":
    main()
