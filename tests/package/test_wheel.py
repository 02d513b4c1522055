"""What a release holds: the wheel only the product, the source distribution all that it is made of and tested by."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

from tests.tidy.sources import PRODUCT, ROOT, repository_files

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NAME = f"{PROJECT['name']}-{PROJECT['version']}"


@dataclass(frozen=True, slots=True)
class Release:
    wheel: Path
    sdist: Path

    def in_wheel(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return {name for name in archive.namelist() if not name.endswith("/")}

    def in_sdist(self) -> set[str]:
        """Without the folder that all of them lie in."""
        with tarfile.open(self.sdist) as archive:
            names = [PurePosixPath(member.name) for member in archive.getmembers() if member.isfile()]
        assert {name.parts[0] for name in names} == {NAME}
        return {str(name.relative_to(NAME)) for name in names}

    def read(self, name: str) -> str:
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.read(f"{NAME}.dist-info/{name}").decode()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The wheel is built from the source distribution, as an installer without the wheel would do it."""
    folder = tmp_path_factory.mktemp("dist")
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return Release(folder / f"{NAME}-py3-none-any.whl", folder / f"{NAME}.tar.gz")


def test_both_pass_twines_strict_check(release: Release) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(release.wheel), str(release.sdist)]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_wheel_holds_every_file_of_the_product_and_no_other(release: Release) -> None:
    wanted = {
        path.relative_to(ROOT).as_posix() for path in repository_files() if path.relative_to(ROOT).parts[0] in PRODUCT
    }
    inside = {name for name in release.in_wheel() if not name.startswith(f"{NAME}.dist-info/")}
    assert wanted
    assert inside == wanted


def test_the_wheel_brings_the_command_and_the_licence(release: Release) -> None:
    assert f"{NAME}.dist-info/licenses/LICENSE" in release.in_wheel()
    assert "warmstart = proxy.__main__:main" in release.read("entry_points.txt")


def test_the_wheel_says_what_it_is_and_asks_for_what_pyproject_names(release: Release) -> None:
    metadata = email.message_from_string(release.read("METADATA"))
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    asked = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(asked) == len(PROJECT["dependencies"])
    assert "## Quick start" in str(metadata.get_payload())


def test_the_source_distribution_holds_what_a_release_is_made_tested_and_deployed_from(release: Release) -> None:
    folders = (*PRODUCT, "tests", "bench", "docs", "configs", "helm", ".github")
    inside = release.in_sdist()
    wanted = {
        path.relative_to(ROOT).as_posix() for path in repository_files() if path.relative_to(ROOT).parts[0] in folders
    }
    wanted |= {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", ".dockerignore", ".ci/run"}
    wanted |= {"constraints.txt", "requirements.txt", "requirements-build.txt", "pyproject.toml"}
    wanted |= {"SECURITY.md", "justfile", ".pre-commit-config.yaml"}
    assert not wanted - inside


def test_the_source_distribution_holds_nothing_that_only_lay_beside_it(release: Release) -> None:
    known = {path.relative_to(ROOT).as_posix() for path in repository_files()}
    assert release.in_sdist() <= known | {"PKG-INFO"}
