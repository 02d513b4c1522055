"""The systemd unit: systemd takes it, it is closed as far as the gateway allows, and fits the gateway's own times."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from proxy.cli.commands import run_command
from proxy.config.settings import Settings
from proxy.process.supervisor import KILL_AFTER_S
from tests.gateways import start_gateway
from tests.package.locks import ROOT

UNIT = ROOT / "configs/systemd/warmstart.service"
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
PROGRAM = "/opt/warmstart/bin/warmstart"

# PR_SET_MDWE: no memory that was ever writable can be executed; from Linux 6.3 on.
_WITHOUT_NEW_CODE = "import ctypes, os, sys; sys.exit(77) if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) else None; "
_WITHOUT_NEW_CODE += "os.execv(sys.argv[1], sys.argv[1:])"


def values(key: str) -> list[str]:
    lines = (line.partition("=") for line in UNIT.read_text("utf-8").splitlines() if not line.startswith("#"))
    return [value for name, _, value in lines if name == key]


def test_the_readmes_steps_name_the_unit_and_files_that_there_are() -> None:
    """And put them where the unit looks for them."""
    steps = (ROOT / "README.md").read_text("utf-8").split("\n## Install\n")[1].split("\n## ")[0]
    named = re.findall(r"(?<![\w/.])(?:configs/[\w./-]+|requirements[\w-]*\.txt)", steps)
    assert UNIT.relative_to(ROOT).as_posix() in named
    assert not [name for name in named if not (ROOT / name).exists()]
    assert f"useradd --system --no-create-home --shell /usr/sbin/nologin {values('User')[0]}" in steps
    assert values("Environment")[0].partition("=")[2] in steps
    assert f"{PROGRAM} config check" in steps


@needs_systemd
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    """With a program that exists, which it checks too."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace(PROGRAM, "/bin/true"))
    checked = subprocess.run([str(ANALYZE), "verify", "--man=no", unit], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@needs_systemd
def test_systemd_counts_it_among_the_well_closed_services() -> None:
    """1.5 of 10 where 0 is shut: what is left is the network, and device files that are no devices."""
    command = [str(ANALYZE), "security", "--offline=true", "--threshold=16", str(UNIT)]
    judged = subprocess.run(command, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout


def test_it_calls_commands_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    calls = [value.removeprefix(PROGRAM).split() for key in ("ExecStart", "ExecStartPost") for value in values(key)]
    assert [call[0] for call in calls] == ["serve", "health"]
    for command, *flags in calls:
        with pytest.raises(SystemExit) as caught:
            run_command([command, "--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert not [flag for flag in flags if flag.startswith("--") and flag not in text]


def test_a_stop_leaves_the_drain_its_time() -> None:
    """And asks only the supervisor, which drains its workers itself."""
    drain_s = Settings.model_validate({"origins": {"a": {"type": "file", "root": "/a"}}}).limits.drain_timeout
    assert int(values("TimeoutStopSec")[0]) > drain_s + KILL_AFTER_S
    assert values("KillMode") == ["mixed"]


def test_a_cache_on_a_disk_of_its_own_is_waited_for_and_may_be_written() -> None:
    assert values("RequiresMountsFor") == ["/var/cache/warmstart"]
    assert values("CacheDirectory") == ["warmstart"]
    assert values("ProtectSystem") == ["strict"]
    assert "DynamicUser" not in UNIT.read_text("utf-8")  # it moves the directory, which a mount does not allow


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_the_gateway_serves_where_no_new_code_may_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MemoryDenyWriteExecute, which some libraries can't stand. Its children inherit it."""
    probe = subprocess.run([sys.executable, "-c", _WITHOUT_NEW_CODE, "/bin/true"])
    if probe.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    launcher = tmp_path / "python"
    launcher.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{_WITHOUT_NEW_CODE}' {sys.executable} \"$@\"\n")
    launcher.chmod(0o755)
    (tmp_path / "shelf/models").mkdir(parents=True)
    (tmp_path / "shelf/models/weights").write_bytes(b"w" * 100_000)
    monkeypatch.setattr(sys, "executable", str(launcher))
    with start_gateway(tmp_path, origin=f"file://{tmp_path / 'shelf'}") as gateway:
        for status in ("MISS", "HIT"):
            answer = httpx.get(f"{gateway.url}/models/weights", trust_env=False)
            assert (answer.content, answer.headers["X-Cache"]) == (b"w" * 100_000, status)
