"""Redis as it is run: one that fails over in mid-load, one that asks for TLS, a user and a password."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from tests.fakes.certificates import make_certificates
from tests.fleet.fleet import BLOCK_BYTES, start_fleet
from tests.fleet.held_origin import HeldOrigin
from tests.fleet.midload import begin
from tests.fleet.redis_servers import replica_state, start_redis, start_sentinels, tls_door
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent


def test_a_fleet_loads_and_writes_over_tls_as_the_user_of_the_docs(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    rights = re.search(r"^ACL SETUSER (.*)$", (ROOT / "docs/fleet.md").read_text("utf-8"), re.MULTILINE)
    assert rights is not None
    content = b"shared" * BLOCK_BYTES
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        start_redis(tmp_path, arguments=("--user", *rights[1].split(), "--user", "default", "off")) as redis,
        tls_door(redis.port, certificates.server_file, certificates.key_file) as port,
    ):
        url = f"rediss://warmstart:password@127.0.0.1:{port}/0?ssl_ca_certs={certificates.ca_file}"
        cloud.put("model", content)
        with start_fleet(tmp_path, cloud, nodes=2, redis=redis, config={"cluster": {"redis": url}}) as fleet:
            fleet.assert_right(fleet.load("model"), content)
            assert set(cloud.block_gets("model").values()) == {1}
            assert fleet.metric("warmstart_unleased_fills_total") == 0
            assert fleet.metric("warmstart_fleet_coordinated") == 2
            for number in fleet.living:
                assert "NOPERM" not in fleet.nodes[number].logs()


def test_the_master_dies_in_mid_load_and_another_takes_over(tmp_path: Path) -> None:
    with (
        HeldOrigin(BLOCK_BYTES) as cloud,
        start_sentinels(tmp_path) as redis,
        start_fleet(tmp_path, cloud, nodes=3, redis=redis) as fleet,
        contextlib.closing(redis.replica.client()) as replica,
    ):
        middle = begin(fleet, "failover")
        redis.master.kill()
        wait_until(lambda: "role:master" in replica_state(replica), "nobody takes over")
        middle.end()
        assert max(cloud.block_gets("failover").values()) == 1
        for number in fleet.living:
            gateway = fleet.nodes[number]
            wait_until(
                lambda: gateway.metric("warmstart_fleet_coordinated") == 1,  # noqa: B023
                "a node does not find the new master",
            )
            assert gateway.metric("warmstart_fleet_members") == 3
