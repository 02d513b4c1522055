"""The fast tier: what `pytest --fast` runs, in less than a minute on two cores.

How it works. It is a rule, so that a new test belongs to it without being listed:

1. Folders and modules in LEFT_OUT are not even imported. They start gateways, fleets, Redis or clients, or take long.
2. A test that is parametrized by event loop runs on uvloop only, which is what the gateway uses.
3. A property is tried with few examples (the profile "brief").

So it covers the parsers, both surfaces, both lanes, the store, fills, origins and the range client against servers in
this process, membership and signatures, and settings. One real gateway in front of an S3
server is among it, for `tests/s3api`. It does not cover real clients, the process tree, kills and full disks, fleets,
the image and the chart: for those, run their folders.
"""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parent

LEFT_OUT = {
    "agreement": "thousands of requests by both lanes",
    "bench": "the simulation and the peers of the benches",
    "compat": "real clients",
    "contract": "real origins",
    "crossing": "gateways before real origins",
    "tidy": "part of `just lint`",
    "trouble": "kills, full disks, slow clients",
    "cache/test_accounts.py": "every order of events",
    "cache/test_housekeeper.py": "full disks",
    "cache/test_scan.py": "whole disks",
    "cache/test_store_damage.py": "many damaged files",
    "cache/test_store_full.py": "a file system of its own",
    "cache/test_store_processes.py": "many processes",
    "cli/test_cluster.py": "gateways and Redis",
    "cli/test_commands.py": "gateways",
    "cli/test_demo.py": "gateways and an origin",
    "config/test_canaries.py": "gateways",
    "config/test_schema.py": "part of `just docs`",
    "relay/test_lease.py": "Redis",
    "upstream/test_limiter.py": "simulated origins",
    "upstream/test_rate_plan.py": "simulated fleets",
    "fleet/test_state.py": "processes that are killed",
    "fleet/test_control.py": "gateways and Redis",
    "fleet/test_forecast.py": "the simulation",
    "fleet/test_gang.py": "a fleet",
    "fleet/test_growth.py": "a fleet",
    "fleet/test_harness.py": "a fleet",
    "fleet/test_rate_store.py": "Redis",
    "fleet/test_lookups.py": "a fleet",
    "fleet/test_members_heartbeat.py": "Redis",
    "fleet/test_missing.py": "a fleet",
    "fleet/test_invalidation.py": "Redis",
    "fleet/test_ordering.py": "a model of every order of events",
    "fleet/test_pool.py": "a fleet",
    "fleet/test_redis.py": "Redis",
    "fleet/test_redis_forms.py": "Redis",
    "fleet/test_redis_input.py": "Redis",
    "fleet/test_regions.py": "a fleet",
    "fleet/test_servers.py": "Redis",
    "fleet/test_sharing.py": "Redis",
    "fleet/test_trouble_cuts.py": "a fleet",
    "fleet/test_trouble_forgers.py": "a fleet",
    "fleet/test_trouble_kills.py": "a fleet",
    "fleet/test_trouble_liars.py": "a fleet",
    "fleet/test_trouble_partition.py": "a fleet",
    "fleet/test_writes.py": "a fleet",
    "fleet/test_zones.py": "a fleet",
    "gateway/test_readahead.py": "a gateway",
    "gateway/test_first_answer.py": "a gateway",
    "hostile/test_cost.py": "measures time",
    "hostile/test_descriptors.py": "a gateway",
    "hostile/test_documents.py": "measures time",
    "hostile/test_heads.py": "measures time",
    "hostile/test_methods.py": "gateways",
    "hostile/test_watchdog.py": "a gateway",
    "hostile/test_words.py": "a gateway",
    "hostile/test_worker.py": "a gateway",
    "lanes/test_gunzip.py": "bodies in steps of one byte",
    "origin/test_directory_listing.py": "thousands of files",
    "origin/test_gcs_credentials.py": "processes and a metadata server",
    "origin/test_s3_forward.py": "uploads that stream",
    "origin/test_s3_namespace.py": "a gateway",
    "origin/test_s3_parts.py": "hundreds of parts",
    "origin/test_s3_ways.py": "TLS and proxies",
    "package/test_compose_run.py": "gateways",
    "package/test_configs_systemd.py": "systemd",
    "package/test_helm.py": "helm",
    "package/test_helm_fleet.py": "helm",
    "package/test_helm_redis.py": "helm",
    "package/test_helm_refusals.py": "helm",
    "package/test_helm_scripts.py": "helm",
    "package/test_helm_upgrade.py": "helm",
    "package/test_image_run.py": "the image",
    "package/test_kubernetes.py": "helm",
    "package/test_wheel.py": "builds a release",
    "peering/test_data_app.py": "who is refused, by hundreds of requests",
    "peering/test_simulated_fleet.py": "a small fleet",
    "s3api/test_gcs_reads.py": "a GCS server",
    "s3api/test_gcs_writes.py": "a GCS server",
    "s3api/test_writes.py": "an S3 server",
    "process/test_disklock.py": "processes that are killed",
    "process/test_housekeeping.py": "a gateway",
    "process/test_startup.py": "gateways",
    "process/test_supervisor.py": "gateways",
    "process/test_watchdog.py": "gateways",
    "process/test_worker.py": "gateways",
    "tidy/test_paths.py": "a gateway",
    "wire/test_backpressure.py": "slow sinks, and threads",
    "wire/test_tls.py": "certificates, and both ends of each connection",
}


def is_left_out(path: Path) -> bool:
    """Whether the fast tier leaves out this folder or module of the tests."""
    return path.is_relative_to(TESTS) and path.relative_to(TESTS).as_posix() in LEFT_OUT


def is_for_another_loop(test_id: str) -> bool:
    """Whether these parameters run a test on asyncio's own event loop."""
    parameters = test_id.partition("[")[2].rstrip("]").split("-")
    return "asyncio" in parameters
