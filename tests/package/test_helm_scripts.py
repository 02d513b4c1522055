"""The two scripts that the chart puts into its pods: one prepares the disks, the other one is what `helm test` runs.

The first runs here as it does there: as root with two capabilities, for which the kernel decides what it may do.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateways import start_gateway
from tests.package.charts import CHART, needs_helm, render

PREPARE, READ = CHART / "files/prepare.py", CHART / "files/read.py"
UID, GID = 10001, 10002
FEW_RIGHTS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all,+chown,+fowner")

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can give files away; setpriv is needed"
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a script ended, and what it printed."""

    status: int
    text: str


def run(*command: str) -> Ended:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return Ended(done.returncode, done.stdout + done.stderr)


def prepare(*disks: str, uid: int = UID) -> Ended:
    return run(*FEW_RIGHTS, sys.executable, str(PREPARE), str(uid), str(GID), *disks)


def owner(path: Path) -> tuple[int, int, int]:
    """User, group and mode of the path itself, never of what a link leads to."""
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def make_cache(disk: Path, uid: int = UID) -> Path:
    """A cache as a gateway of that user leaves it: closed to everybody else. Returns a file of it."""
    folder = disk / "v1" / "segments"
    folder.mkdir(parents=True)
    file = folder / "one"
    file.write_bytes(b"block")
    for path in (file, folder, disk / "v1", disk):
        path.chmod(0o600 if path == file else 0o700)
        os.chown(path, uid, GID)
    return file


@as_root
def test_a_new_directory_becomes_the_gateways_alone(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o755)
    assert prepare(f"{disk}=64MiB").status == 0
    assert owner(disk) == (UID, GID, 0o700)


@as_root
def test_a_cache_that_is_closed_to_root_is_left_as_it_is(tmp_path: Path) -> None:
    file = make_cache(tmp_path / "disk")
    assert run(*FEW_RIGHTS, "ls", str(tmp_path / "disk")).status, "root has more rights here than in the pod"
    assert prepare(f"{tmp_path}/disk=64MiB").status == 0
    assert owner(file) == (UID, GID, 0o600)


@as_root
def test_a_cache_follows_the_gateway_to_another_user(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    file = make_cache(disk)
    (disk / "v1" / "away").symlink_to(PREPARE)
    assert prepare(f"{disk}=64MiB", uid=20002).status == 0
    assert owner(file) == (20002, GID, 0o600)
    assert owner(disk) == owner(disk / "v1") == owner(disk / "v1/segments") == (20002, GID, 0o700)
    assert owner(disk / "v1" / "away")[:2] == (20002, GID)
    assert PREPARE.stat().st_uid != 20002


@as_root
def test_a_run_that_was_cut_off_is_finished_by_the_next(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    file = make_cache(disk)
    os.chown(disk, 0, 0)
    os.chown(disk / "v1", 0, 0)
    assert prepare(f"{disk}=64MiB").status == 0
    assert owner(disk / "v1") == owner(disk) == (UID, GID, 0o700)
    assert owner(file) == (UID, GID, 0o600)


@as_root
def test_a_cache_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    before = owner(elsewhere)
    (disk / "v1").symlink_to(elsewhere)
    assert prepare(f"{disk}=64MiB").status == 0
    assert owner(elsewhere) == before


@as_root
def test_a_file_systems_own_folder_does_not_count_as_somebodys(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    before = owner(disk / "lost+found")
    assert prepare(f"{disk}=64MiB").status == 0
    assert owner(disk) == (UID, GID, 0o700)
    assert owner(disk / "lost+found") == before


@as_root
@pytest.mark.parametrize(("uid", "mode"), [(0, 0o755), (1000, 0o700)])
def test_a_directory_with_other_files_is_refused_and_stays_as_it_was(tmp_path: Path, uid: int, mode: int) -> None:
    disk = tmp_path / "disk"
    (disk / "photos").mkdir(parents=True)
    disk.chmod(mode)
    os.chown(disk, uid, uid)
    ended = prepare(f"{disk}=64MiB")
    assert ended.status == 2
    assert f"{disk}: has other files in it (photos); give the cache its own directory" in ended.text
    assert owner(disk) == (uid, uid, mode)


@as_root
def test_a_disk_that_is_too_small_is_refused_before_it_is_touched(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o755)
    before = owner(disk)
    ended = prepare(f"{disk}=900PiB")
    assert ended.status == 2
    assert "reduce cache.disks[].size, or use another disk" in ended.text
    assert owner(disk) == before


@as_root
def test_directories_of_one_disk_are_measured_together(tmp_path: Path) -> None:
    system = os.statvfs(tmp_path)
    half = system.f_frsize * system.f_blocks // 2 + (1 << 20)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert prepare(f"{tmp_path}/one={half}").status == 0
    ended = prepare(f"{tmp_path}/one={half}", f"{tmp_path}/two={half}")
    assert ended.status == 2
    assert f"{tmp_path}/one and {tmp_path}/two: " in ended.text


@as_root
def test_what_is_no_size_is_refused_by_name(tmp_path: Path) -> None:
    ended = prepare(f"{tmp_path}=20G")
    assert ended.status == 2
    assert "'20G' is not a size" in ended.text


@needs_helm
def test_a_gateway_with_the_charts_configuration_serves_what_the_charts_test_reads(tmp_path: Path) -> None:
    (tmp_path / "objects/models/a folder").mkdir(parents=True)
    (tmp_path / "objects/models/a folder/weights+1").write_bytes(os.urandom(3 << 20))
    origins = {"shelf": {"type": "file", "root": f"{tmp_path}/objects"}}
    release = render(
        config={"origins": origins, "workers": 1},
        cluster={"enabled": False},
        test={"object": "models/a folder/weights+1"},
    )
    configuration = release.configuration()
    # Here the test has no pod of its own: another port, and a directory of its own.
    here = {"listen": "127.0.0.1:0", "cache": {"disks": [{"path": f"{tmp_path}/cache", "size": "1GiB"}]}}
    with start_gateway(tmp_path, config=configuration | here) as gateway:
        script = release.one("Pod", "warmstart-test")["spec"]["containers"][0]
        assert script["command"][1:] == ["/scripts/read.py"]
        assert script["args"][0] == "http://warmstart.models.svc:9000"
        ended = run(sys.executable, str(READ), gateway.url, *script["args"][1:])
        assert ended.status == 0, ended.text
        assert "3145728 bytes" in ended.text
        assert "X-Cache: HIT" in ended.text

        ended = run(sys.executable, str(READ), gateway.url, "models/missing")
        assert ended.status == 1
        assert "models/missing: 404" in ended.text

        ended = run(sys.executable, str(READ), gateway.url)
        assert ended.status == 0
        assert "no object was read; to read one, set the value test.object (bucket/key)" in ended.text


def test_the_charts_test_fails_where_no_gateway_answers() -> None:
    ended = run(sys.executable, str(READ), "http://127.0.0.1:1", "models/weights")
    assert ended.status == 1
    assert "http://127.0.0.1:1: " in ended.text
