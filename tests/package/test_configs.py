"""The examples of configuration: one for each kind of deployment, each accepted by the command that users run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.cli.commands import run_command
from proxy.config.settings import Settings
from proxy.config.sources import load_configuration
from tests.package.locks import ROOT

CONFIGS = ROOT / "configs"
KINDS = {
    "laptop": "one machine",
    "one-gpu-node": "one node, disks of its own",
    "fleet-redis": "a fleet with Redis",
    "fleet-dns": "a fleet without it",
    "gcs-workload-identity": "a GCS origin, no keys",
    "coreweave": "an S3-compatible origin that takes a bucket's name in the host only",
    "crusoe": "an S3-compatible origin with an endpoint for each location",
    "hugging-face": "an S3 API with a namespace ahead of the bucket's name, that redirects unknown clients",
    "two-origins": "two clouds",
    "aws": "AWS",
    "directory": "a directory",
}
SECRET = "WARMSTART_CLUSTER__SECRET"


def settings_of(kind: str) -> Settings:
    environment = {SECRET: "sixteen characters at least"} if kind.startswith("fleet-") else {}
    return load_configuration(CONFIGS / f"{kind}.yaml", environment).settings


def test_there_is_an_example_for_each_kind_of_deployment_and_no_other() -> None:
    others = {"warmstart", "compose"}  # every key, explained; services, for Docker
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == KINDS.keys() | others


@pytest.mark.parametrize("kind", KINDS)
def test_config_check_accepts_an_example(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("WARMSTART_")]:
        monkeypatch.delenv(name)
    if kind.startswith("fleet-"):
        monkeypatch.setenv(SECRET, "sixteen characters at least")
    assert run_command(["config", "check", str(CONFIGS / f"{kind}.yaml")]) == 0
    assert ": OK. " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["fleet-redis", "fleet-dns"])
def test_an_example_of_a_fleet_asks_for_a_secret_and_brings_none(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A secret that everybody can read in the examples would be in use tomorrow."""
    monkeypatch.delenv(SECRET, raising=False)
    assert run_command(["config", "check", str(CONFIGS / f"{kind}.yaml")]) == 2
    assert "cluster.secret" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_can_connect_from_elsewhere_can_not_write(kind: str) -> None:
    settings = settings_of(kind)
    here = all(address.host in ("127.0.0.1", "::1") for address in settings.listen)
    assert here or not settings.writes_through()


def test_the_two_fleets_find_their_members_as_their_names_say() -> None:
    by_redis, by_dns = settings_of("fleet-redis").cluster, settings_of("fleet-dns").cluster
    assert by_redis is not None
    assert by_dns is not None
    assert (by_redis.redis is not None, by_redis.dns) == (True, None)
    assert by_dns.redis is None
    assert by_dns.dns is not None
    port = by_dns.dns.rpartition(":")[2]
    assert [str(address.port) for address in settings_of("fleet-dns").listen] == [port]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_no_line_of_an_example_is_longer_than_the_code_is(path: Path) -> None:
    assert not [line for line in path.read_text("utf-8").splitlines() if len(line) > 120]
