"""The command line, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.cli.commands import COMMANDS, run_command
from tests.gateways import clean_environment, start_gateway

ROOT = Path(__file__).parents[2]


def warmstart(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        cwd=ROOT,
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def good_file(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text("origins: {shelf: {type: file, root: /}}\ncache: {disks: {path: /c, size: 1GiB}}\n")
    return path


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("warmstart ")


def test_help_lists_every_command_without_importing_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert [command.name for command in COMMANDS if command.name not in out] == []


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: warmstart {command}" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["sevre"], ["serve", "--porto", "1"], ["config"], ["config", "check"]])
def test_an_unknown_word_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(arguments)
    assert caught.value.code == 2
    assert "usage: warmstart" in capsys.readouterr().err


def test_config_check_accepts_a_good_file(good_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["config", "check", str(good_file)]) == 0
    expected = f"{good_file}: OK. Listens on 127.0.0.1:9000; caches in /c (1GiB); origins: shelf.\n"
    assert capsys.readouterr().out == expected


def test_config_check_refuses_a_bad_file_in_one_line_and_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("cache: {block_size: 12MB}\n")
    assert run_command(["config", "check", str(tmp_path / "bad.yaml")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"warmstart: {tmp_path / 'bad.yaml'}: cache.block_size: '12MB' is not a multiple of 64KiB up to 16MiB; "
        "write 8MiB, for example\n"
    )


def test_config_check_reads_the_environment_file_of_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WARMSTART_CLUSTER__SECRET", raising=False)
    member = tmp_path / "member.yaml"
    member.write_text("origins: {lab: {type: file, root: /data}}\ncluster: {peers: ['http://127.0.0.1:9']}\n")
    environment = tmp_path / "environment"
    environment.write_text("# secrets\n\nWARMSTART_CLUSTER__SECRET='a secret of the tests'\n")
    assert run_command(["config", "check", str(member)]) == 2
    assert "cluster.secret: is missing; write secret or secret_file" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", dict(os.environ))
        assert run_command(["config", "check", str(member), "--environment", str(environment)]) == 0
    environment.write_text("WARMSTART_WORKERS=2\nhush hush\n")
    assert run_command(["config", "check", str(member), "--environment", str(environment)]) == 2
    assert capsys.readouterr().err == f"warmstart: {environment}: line 2 is not NAME=value; correct it\n"


def test_a_reader_that_has_read_enough_ends_a_command_quietly(good_file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "proxy", "config", "schema"]
    ended = subprocess.run(
        command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, env=clean_environment(), check=False
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_config_check_says_where_a_relative_path_leads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("near.yaml").write_text(
        "origins: {lab: {type: file, root: /data}}\ncache: {disks: {path: near, size: 1GiB}}\n"
    )
    assert run_command(["config", "check", "near.yaml"]) == 0
    assert f"caches in {tmp_path / 'near'} (1GiB)" in capsys.readouterr().out


def test_config_schema_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["listen"]


def test_serve_refuses_an_open_listener_until_it_is_told_to_have_no_authentication() -> None:
    refused = warmstart("serve", "--listen", "0.0.0.0:0", "--origin", "file:///data")
    assert refused.returncode == 2
    assert refused.stderr == (
        "warmstart: command line: listen: '0.0.0.0:0' can be reached from other machines; "
        "to serve anybody, write auth: none (--auth none)\n"
    )


def test_serve_without_an_origin_says_what_to_write() -> None:
    refused = warmstart("serve")
    assert (refused.returncode, refused.stderr) == (2, "warmstart: origins: is empty; add one, or give --origin URL\n")


def test_flags_alone_make_a_gateway_that_health_finds(tmp_path: Path) -> None:
    (tmp_path / "shelf" / "models").mkdir(parents=True)
    origin = f"file://{tmp_path / 'shelf'}"
    arguments = ["--origin", origin, "--workers", "1", "--log-level", "warning", "--auth", "none"]
    arguments += ["--listen", "127.0.0.1:0", "--cache-size", "128MiB", "--cache-dir", str(tmp_path / "flagged")]
    with start_gateway(tmp_path, workers=7, arguments=arguments) as gateway:
        assert len(gateway.worker_pids()) == 1
        assert (tmp_path / "flagged" / "v1").is_dir()
        assert not (tmp_path / "cache").exists()
        for flags in ([], ["--ready"]):
            well = warmstart("health", "--url", gateway.url, *flags)
            assert (well.returncode, well.stderr) == (0, "")
        address = gateway.url.removeprefix("http://")
        well = warmstart("health", WARMSTART_LISTEN=address, WARMSTART_ORIGIN=origin)
        assert (well.returncode, well.stdout) == (0, "healthy\n")
        by_file = tmp_path / "known.yaml"
        by_file.write_text(f"listen: {address}\norigins: {{shelf: {{type: file, root: {tmp_path}}}}}\n")
        assert warmstart("health", "--config", str(by_file)).stdout == "healthy\n"
        assert gateway.logs() == ""
        assert gateway.stop() == 0
        ill = warmstart("health", "--url", gateway.url)
        assert ill.returncode == 1
        assert "does not answer" in ill.stderr


@pytest.mark.parametrize("url", ["nonsense", "ftp://h", "http://"])
def test_health_refuses_what_is_no_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["health", "--url", url]) == 2
    assert f"--url: {url!r} is not a URL" in capsys.readouterr().err


def test_every_setting_can_come_from_the_environment_alone(tmp_path: Path) -> None:
    (tmp_path / "shelf" / "models").mkdir(parents=True)
    environment = {
        "WARMSTART_ORIGIN": f"file://{tmp_path / 'shelf'}",
        "WARMSTART_CACHE_DIR": str(tmp_path / "elsewhere"),
        "WARMSTART_LISTEN": "[::1]:0",
        "WARMSTART_LOG__FORMAT": "text",
    }
    with start_gateway(tmp_path, environment=environment) as gateway:
        assert gateway.url.startswith("http://[::1]:")
        assert (tmp_path / "elsewhere" / "v1").is_dir()
        assert "supervisor" in gateway.logs()
        assert "{" not in gateway.logs()


def test_the_module_runs_from_another_directory_too(tmp_path: Path) -> None:
    """A folder named proxy in the working directory must not be taken for the program's."""
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    script = Path(sys.executable).with_name("warmstart")
    found = subprocess.run([script, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert os.path.basename(script) in found.stdout
