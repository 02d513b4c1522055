"""The README's commands, the build's and the pinned versions say the same."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tidy.sources import ROOT


def test_the_build_runs_the_readmes_test_command() -> None:
    command = re.search(r"^python3 -m venv .*pytest.*$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert command
    assert f"\n{command[0]}\n" in (ROOT / "README.md").read_text()


def test_every_dependency_is_pinned_to_a_version_it_allows() -> None:
    """After a change of dependencies, the command at the head of constraints.txt makes it anew."""
    pins = dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    wanted = [Requirement(line) for line in asked if not line.startswith(project["name"])]
    loose = [str(need) for need in wanted if pins.get(canonicalize_name(need.name)) is None]
    wrong = [
        str(need)
        for need in wanted
        if need not in loose and not need.specifier.contains(pins[canonicalize_name(need.name)])
    ]
    assert not loose + wrong
