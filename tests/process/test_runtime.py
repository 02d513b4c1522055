"""The private folder of a run, and what is removed of dead ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.process.runtime import PREFIX, RuntimeFolder, remove_left_behind, runtime_parents


def test_a_folder_is_private_names_its_run_and_goes_with_it(tmp_path: Path) -> None:
    folder = RuntimeFolder("abc", [tmp_path])
    assert folder.path.name.startswith(f"{PREFIX}abc-")
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert folder.metrics.is_dir()
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_folders_of_dead_runs_are_removed_and_those_of_living_ones_are_kept(tmp_path: Path) -> None:
    living = RuntimeFolder("living", [tmp_path])
    dead = tmp_path / f"{PREFIX}dead-x"
    (dead / "metrics").mkdir(parents=True)
    (dead / "lock").touch()
    stranger = tmp_path / "something-else"
    stranger.mkdir()
    newer = RuntimeFolder("newer", [tmp_path])
    assert set(tmp_path.iterdir()) == {living.path, newer.path, stranger}
    living.close()
    newer.close()


def test_a_folder_that_is_just_being_made_is_left_alone_until_it_is_old(tmp_path: Path) -> None:
    half = tmp_path / f"{PREFIX}half-x"
    half.mkdir()
    remove_left_behind(tmp_path)
    assert half.is_dir()
    os.utime(half, (0, 0))
    remove_left_behind(tmp_path)
    assert not half.exists()


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "lock").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(target)
    remove_left_behind(tmp_path)
    assert (target / "lock").exists()


def test_the_next_place_is_taken_where_one_can_not_be_written(tmp_path: Path) -> None:
    folder = RuntimeFolder("abc", [Path("/proc"), tmp_path / "none", tmp_path])
    assert folder.path.parent == tmp_path
    folder.close()


def test_a_first_start_finds_its_last_place_not_made_yet(tmp_path: Path) -> None:
    """The cache's directory, where the machine lets nothing else be written."""
    folder = RuntimeFolder("abc", [Path("/proc"), tmp_path / "cache" / "warmstart"])
    assert folder.path.parent == tmp_path / "cache" / "warmstart"
    assert folder.path.parent.stat().st_mode & 0o777 == 0o700
    folder.close()


def test_without_any_place_the_message_names_them_all(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"/proc \(.*none \(.*set TMPDIR"):
        RuntimeFolder("abc", [Path("/proc"), Path("/proc/none")])


def test_the_users_runtime_folder_comes_first_and_the_cache_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    places = runtime_parents(Path("/cache"))
    assert (places[0], places[-1]) == (Path("/run/user/7"), Path("/cache"))
