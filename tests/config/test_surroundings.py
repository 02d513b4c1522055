"""Endpoints that lead back to the gateway, endpoints from the environment, directories that are not there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from proxy.cli.commands import run_command
from proxy.config.origins import S3OriginSettings
from proxy.config.sources import Configuration, Shorthands, load_configuration
from proxy.errors import ConfigInvalid


def load(origin: str, listen: str = "127.0.0.1:9000", **environment: str) -> Configuration:
    return load_configuration(None, environment, {"listen": [listen], "auth": "none"}, Shorthands(origin=origin))


def endpoint_of(configuration: Configuration) -> str | None:
    [origin] = configuration.settings.origins.values()
    assert isinstance(origin, S3OriginSettings)
    return origin.endpoint


@pytest.mark.parametrize(
    ("endpoint", "listen"),
    [
        ("http://127.0.0.1:9000", "127.0.0.1:9000"),
        ("http://localhost:9000", "127.0.0.1:9000"),
        ("http://localhost:9000", "[::1]:9000"),
        ("http://127.0.0.1:9000", "0.0.0.0:9000"),
        ("http://127.0.0.2:9000", "0.0.0.0:9000"),
        ("https://localhost", "0.0.0.0:443"),
        (f"http://{socket.gethostname().lower()}:9000", "0.0.0.0:9000"),
    ],
)
def test_an_endpoint_that_is_the_own_listener_is_refused(endpoint: str, listen: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"origins\.command-line\.endpoint: .* is this gateway's own listener"):
        load(endpoint, listen)


@pytest.mark.parametrize(
    ("endpoint", "listen"),
    [
        ("http://127.0.0.1:9001", "127.0.0.1:9000"),
        ("http://127.0.0.2:9000", "127.0.0.1:9000"),
        ("http://192.0.2.1:9000", "0.0.0.0:9000"),
        ("http://store:9000", "0.0.0.0:9000"),
        ("http://localhost:9000", "0.0.0.0:0"),
    ],
)
def test_other_endpoints_are_taken(endpoint: str, listen: str) -> None:
    assert endpoint_of(load(endpoint, listen)) == endpoint


def test_an_endpoint_of_the_environment_is_taken_where_the_settings_name_none() -> None:
    found = load("s3://", AWS_ENDPOINT_URL="http://store:1/", AWS_ENDPOINT_URL_S3="http://s3:1")
    assert endpoint_of(found) == "http://s3:1"
    assert found.notes == ("origins.command-line: the endpoint comes from AWS_ENDPOINT_URL_S3: http://s3:1",)
    assert endpoint_of(load("s3://", AWS_ENDPOINT_URL="http://store:1")) == "http://store:1"
    assert endpoint_of(load("http://other:1", AWS_ENDPOINT_URL="http://store:1")) == "http://other:1"
    ignored = load("s3://", AWS_ENDPOINT_URL="http://store:1", AWS_IGNORE_CONFIGURED_ENDPOINT_URLS="true")
    assert endpoint_of(ignored) is None


def test_an_endpoint_of_the_environment_that_is_this_gateway_is_its_clients_and_left_alone() -> None:
    found = load("s3://", AWS_ENDPOINT_URL="http://localhost:9000")
    assert endpoint_of(found) is None
    assert found.notes == (
        "origins.command-line: AWS_ENDPOINT_URL is this gateway's own listener and is ignored; AWS is used",
    )


def test_an_endpoint_of_the_environment_that_makes_no_sense_is_named_without_its_password() -> None:
    with pytest.raises(ConfigInvalid, match=r"^AWS_ENDPOINT_URL: contains credentials") as caught:
        load("s3://", AWS_ENDPOINT_URL="http://me:canary@store")
    assert "canary" not in str(caught.value)


def test_config_check_says_that_a_directory_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "warmstart.yaml"
    path.write_text(f"origins: {{shelf: {{type: file, root: {tmp_path}/nowhere}}}}\n", "utf-8")
    assert run_command(["config", "check", str(path)]) == 0
    told = f"note: origins.shelf.root: '{tmp_path}/nowhere' is not a directory; reads fail until it is one"
    assert told in capsys.readouterr().out
    (tmp_path / "nowhere").mkdir()
    assert run_command(["config", "check", str(path)]) == 0
    assert "note:" not in capsys.readouterr().out
