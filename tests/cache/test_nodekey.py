"""The node's own key: made once, the same for all its processes, and for nobody else."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from proxy.cache.layout import FOLDER
from proxy.cache.nodekey import FILE, KEY_BYTES, open_node_key


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    (tmp_path / FOLDER).mkdir()
    return tmp_path


def test_all_who_open_it_at_once_and_later_have_the_same_key(disk: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(open_node_key, [disk] * 64))
    assert keys == {open_node_key(disk)}
    assert [len(key) for key in keys] == [KEY_BYTES]
    assert os.listdir(disk / FOLDER) == [FILE]
    assert (disk / FOLDER / FILE).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", ["short", "missing folder"])
def test_a_key_that_can_not_be_had_is_one_for_this_process_and_said_so(
    disk: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    if damage == "short":
        (disk / FOLDER / FILE).write_bytes(b"short")
    else:
        (disk / FOLDER).rmdir()
    assert open_node_key(disk) != open_node_key(disk)
    assert "can be resumed only" in caplog.text
