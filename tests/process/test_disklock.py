"""The lock on a cache disk."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.errors import ConfigInvalid
from proxy.process.disklock import DiskLock
from tests.waiting import wait_until


def test_a_missing_disk_folder_is_made_private(tmp_path: Path) -> None:
    lock = DiskLock("cache.disks[0].path", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "v1").stat().st_mode & 0o777 == 0o700
    lock.close()


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    for mode in (0o770, 0o702):
        (tmp_path / "v1").chmod(mode)
        with pytest.raises(
            ConfigInvalid, match=rf"others may write to '{tmp_path}/v1' \(mode 0{mode:o}\).*chmod -R go-w"
        ):
            DiskLock("cache.disks[0].path", tmp_path)
    (tmp_path / "v1").chmod(0o755)
    DiskLock("cache.disks[0].path", tmp_path).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder away needs rights")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir(mode=0o700)
    os.chown(tmp_path / "v1", 4321, 4321)
    with pytest.raises(ConfigInvalid, match=r"belongs to user 4321, and this gateway is user 0; .*chown -R 0"):
        DiskLock("cache.disks[0].path", tmp_path)


def test_a_second_lock_is_refused_with_name_and_pid(tmp_path: Path) -> None:
    lock = DiskLock("cache.disks[0].path", tmp_path)
    expected = f"cache.disks[0].path: '{tmp_path}' is in use by another gateway (pid {os.getpid()}); stop that one"
    with pytest.raises(ConfigInvalid, match=re.escape(expected)):
        DiskLock("cache.disks[0].path", tmp_path)
    lock.close()
    DiskLock("cache.disks[0].path", tmp_path).close()


def test_a_holder_on_another_host_is_believed_to_live(tmp_path: Path) -> None:
    lock = DiskLock("k", tmp_path)
    os.ftruncate(lock.fd, 0)
    os.pwrite(lock.fd, b"999999999 elsewhere\n", 0)
    with pytest.raises(ConfigInvalid, match="pid 999999999 on elsewhere"):
        DiskLock("k", tmp_path)
    lock.close()


def test_it_is_held_until_the_last_process_that_inherited_it_is_gone(tmp_path: Path) -> None:
    lock = DiskLock("k", tmp_path)
    heir = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fd], stdout=subprocess.DEVNULL
    )
    lock.close()
    with pytest.raises(ConfigInvalid):
        DiskLock("k", tmp_path)
    heir.communicate(b"\n")
    wait_until(lambda: heir.poll() is not None, "the heir lives on")
    DiskLock("k", tmp_path).close()


def test_a_start_waits_for_the_children_of_a_dead_supervisor(tmp_path: Path) -> None:
    lock = DiskLock("k", tmp_path)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    os.ftruncate(lock.fd, 0)
    os.pwrite(lock.fd, f"{int(dead.stdout)} {os.uname().nodename}\n".encode(), 0)
    heir = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; sys.stdin.read(1); time.sleep(0.2)"],
        stdin=subprocess.PIPE,
        pass_fds=[lock.fd],
    )
    lock.close()
    assert heir.stdin is not None
    heir.stdin.close()  # it goes a little later than its supervisor did
    DiskLock("k", tmp_path).close()
    assert heir.wait() == 0


def test_an_emptied_cache_is_locked_anew_and_not_by_its_old_file(tmp_path: Path) -> None:
    lock = DiskLock("k", tmp_path)
    lock.path.unlink()
    other = DiskLock("k", tmp_path)
    assert os.fstat(other.fd).st_ino == lock.path.stat().st_ino
    lock.close()
    other.close()


@pytest.mark.parametrize("disk", ["/dev/null/cache", "/proc/cache"])
def test_a_disk_that_can_not_be_written_is_refused_with_the_fix(disk: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        DiskLock("cache.disks[1].path", Path(disk))
    assert str(caught.value).startswith(f"cache.disks[1].path: '{disk}' can't be written (")
    assert "choose another directory" in str(caught.value)
