"""configs/compose.yaml: services that fit together, settings that the gateway accepts, nothing more open than said."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from proxy.config.settings import Settings
from proxy.config.sources import load_configuration
from proxy.process.supervisor import KILL_AFTER_S
from tests.package.locks import ROOT
from tests.package.recipe import read_stages

PATH = ROOT / "configs/compose.yaml"
FILE: dict[str, Any] = yaml.safe_load(PATH.read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
GATEWAYS = {name: service for name, service in SERVICES.items() if service["image"].startswith("warmstart:")}
FLEET = {name: service for name, service in GATEWAYS.items() if name != "origin"}
IMAGE = read_stages()[1][-1]


def settings_of(name: str) -> Settings:
    """What its environment makes, where `${NAME:-default}` is not set."""
    given = {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for key, value in GATEWAYS[name]["environment"].items()}
    return load_configuration(None, given).settings


def test_it_opens_with_when_to_use_it() -> None:
    assert PATH.read_text("utf-8").startswith("# When ")


def test_there_are_two_gateways_a_redis_and_a_test_origin() -> None:
    assert SERVICES.keys() == {"gateway", "neighbour", "origin", "redis"}
    assert len(FLEET) == 2


@pytest.mark.parametrize("name", GATEWAYS)
def test_the_gateway_accepts_the_settings(name: str) -> None:
    settings = settings_of(name)
    assert [str(address) for address in settings.listen] == ["0.0.0.0:9000"]
    assert not settings.writes_through()


@pytest.mark.parametrize("name", FLEET)
def test_a_gateway_reads_from_the_origin_and_meets_the_other_in_redis(name: str) -> None:
    settings = settings_of(name)
    (origin,) = settings.origins.values()
    assert getattr(origin, "endpoint", None) == "http://origin:9000"
    assert settings.cluster is not None
    assert settings.cluster.redis is not None
    assert urlsplit(settings.cluster.redis.get_secret_value()).hostname == "redis"
    assert FLEET[name]["depends_on"].keys() == {"origin", "redis"}
    assert all(wait == {"condition": "service_healthy"} for wait in FLEET[name]["depends_on"].values())
    assert FLEET[name]["environment"] == next(iter(FLEET.values()))["environment"]


@pytest.mark.parametrize("name", GATEWAYS)
def test_each_gateway_has_a_cache_of_its_own_where_the_image_expects_it(name: str) -> None:
    mounts = [volume.rsplit(":", 1) for volume in GATEWAYS[name]["volumes"] if not volume.endswith(":ro")]
    assert mounts == [[name, IMAGE.last("VOLUME").text]]
    assert name in FILE["volumes"]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not {"privileged", "network_mode", "pid"} & service.keys()


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_gets_the_time_that_its_drain_takes(name: str) -> None:
    grace_s = int(GATEWAYS[name]["stop_grace_period"].removesuffix("s"))
    assert grace_s > settings_of(name).limits.drain_timeout + KILL_AFTER_S


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_is_checked_by_its_own_command(name: str) -> None:
    form, *command = GATEWAYS[name]["healthcheck"]["test"]
    assert form == "CMD"
    assert command[:2] == ["warmstart", "health"]
    assert (ROOT / "configs" / GATEWAYS[name]["build"] / "Dockerfile").exists()


def test_other_images_have_full_versions() -> None:
    others = [service["image"] for name, service in SERVICES.items() if name not in GATEWAYS]
    assert all(re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+(-[\w.]+)?", image) for image in others)


def test_no_two_services_take_one_port() -> None:
    ports = [port.rsplit(":", 1)[0] for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == len(set(ports)) == 2


def test_the_lines_at_its_head_read_what_it_serves() -> None:
    """The bucket is the folder mounted there, which holds this file's neighbours."""
    asked = re.findall(r"http://127\.0\.0\.1:(\d+)/models/(\S+)", PATH.read_text("utf-8"))
    published = {port.split(":")[1] for service in FLEET.values() for port in service["ports"]}
    assert {port for port, _ in asked} == published
    assert all((ROOT / "configs" / key).exists() for _, key in asked)
    assert "${MODELS:-.}:/data/models:ro" in SERVICES["origin"]["volumes"]
