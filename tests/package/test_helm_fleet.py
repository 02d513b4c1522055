"""Gateways with the configuration and the variables of the chart's pods find each other, as pods of two nodes would."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.fleet.redis_servers import start_redis
from tests.gateways import GatewayProcess, start_gateway
from tests.package.charts import Release, needs_helm, render
from tests.servers import free_port
from tests.waiting import wait_until


def start_pod(folder: Path, release: Release, address: str, redis_url: str) -> GatewayProcess:
    """One pod's gateway at an address of this machine; the name of the chart's Redis stands for one that runs here."""
    configuration = release.configuration()
    cluster = configuration["cluster"]
    port, control = (place.rpartition(":")[2] for place in (configuration["listen"], cluster["control"]))
    here = {
        "listen": f"{address}:{port}",
        "cluster": cluster | {"control": f"{address}:{control}"},
        "cache": {"disks": [{"path": str(folder / "cache"), "size": "1GiB"}]},
    }
    environment = release.environment() | {"POD_IP": address, "WARMSTART_CLUSTER__REDIS": redis_url}
    del environment["WARMSTART_CONFIG"]
    folder.mkdir()
    return start_gateway(folder, config=configuration | here, environment=environment)


def members_are(count: int, pod: GatewayProcess) -> bool:
    return pod.metric("warmstart_fleet_members") == count


@needs_helm
def test_two_pods_of_a_release_with_redis_become_one_fleet(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    release = render(
        config={"origins": {"shelf": {"type": "file", "root": f"{tmp_path}/objects"}}, "workers": 1},
        service={"port": free_port(), "controlPort": free_port()},
        redis={"enabled": True},
    )
    password = release.secrets()["warmstart"]["redis-password"]
    with (
        start_redis(tmp_path, password=password) as redis,
        start_pod(tmp_path / "one", release, "127.0.0.71", redis.url) as one,
        start_pod(tmp_path / "two", release, "127.0.0.72", redis.url) as two,
    ):
        for pod in (one, two):
            wait_until(partial(members_are, 2, pod), "the pods don't find each other")
            assert pod.metric("warmstart_fleet_coordinated") == 1
        keys = [str(key) for key in redis.client().scan_iter()]
        assert keys
        assert not [key for key in keys if not key.startswith("models.warmstart")]
