"""The image's lock files: of what pyproject.toml asks for now, in the versions that the tests run with, by hash."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.package.locks import COMMAND, CONSTRAINTS, ROOT, Lock, locks, read_pins, unmet

STALE = f"run: {COMMAND}"
LOCKS = pytest.mark.parametrize("lock", locks(), ids=lambda lock: lock.name)


@LOCKS
def test_a_lock_is_made_of_what_pyproject_asks_for_now(lock: Lock) -> None:
    assert lock.path.read_text("utf-8").endswith(lock.last_line), STALE
    assert not unmet(lock.requirements, read_pins(lock.path)), STALE


@LOCKS
def test_the_image_gets_the_versions_that_the_tests_run_with(lock: Lock) -> None:
    tested, locked = read_pins(ROOT / CONSTRAINTS), read_pins(lock.path)
    assert locked
    others = {name: pin.version for name, pin in locked.items() if name not in tested}
    others |= {
        name: pin.version for name, pin in locked.items() if name in tested and tested[name].version != pin.version
    }
    assert not others, STALE


@LOCKS
def test_every_locked_package_has_the_hashes_of_its_files(lock: Lock) -> None:
    pins = read_pins(lock.path)
    entries = re.findall(r"^[a-z].*$", lock.path.read_text("utf-8"), re.MULTILINE)
    assert len(entries) == len(pins), "a line that pins nothing"
    bare = [name for name, pin in pins.items() if not pin.hashes]
    assert not bare
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for pin in pins.values() for digest in pin.hashes)


@LOCKS
def test_a_lock_names_no_place_where_packages_come_from(lock: Lock) -> None:
    assert not re.findall(r"https?:|--index|--find|--extra|@ file|^-", lock.path.read_text("utf-8"), re.MULTILINE)


def test_a_changed_dependency_makes_a_lock_stale() -> None:
    lock = locks()[0]
    changed = Lock(lock.name, (*lock.requirements, "another>=1"), lock.requires_python)
    assert changed.last_line != lock.last_line
    assert unmet(changed.requirements, read_pins(lock.path)) == ["another>=1"]
    assert unmet(("pyyaml>=99",), read_pins(lock.path)) == ["pyyaml>=99"]


def test_the_order_of_the_dependencies_makes_no_lock_stale() -> None:
    lock = locks()[0]
    assert Lock(lock.name, lock.requirements[::-1], lock.requires_python).digest == lock.digest


@pytest.mark.long
@LOCKS
def test_resolving_anew_finds_the_same_packages(lock: Lock, tmp_path: Path) -> None:
    again = tmp_path / lock.name
    shutil.copyfile(lock.path, again)
    lock.resolve(again)
    found, locked = read_pins(again), read_pins(lock.path)
    assert {name: (pin.version, pin.marker) for name, pin in found.items()} == {
        name: (pin.version, pin.marker) for name, pin in locked.items()
    }, STALE
