"""The throttles of a node's origins: what workers share of them, and what a killed one leaves behind."""

from __future__ import annotations

from pathlib import Path

from proxy.cache.shared import SharedTables
from proxy.composition.app import build_origin
from proxy.composition.upstream import build_throttles
from proxy.config.sources import Shorthands, load_configuration
from proxy.upstream.throttle import OriginThrottles


def throttles_of(folder: Path, tables: SharedTables) -> OriginThrottles:
    """As a process of a run builds them."""
    settings = load_configuration(
        environment={}, shorthands=Shorthands(origin="http://127.0.0.1:9", anonymous=True, cache_dir=str(folder))
    ).settings
    origins = {name: build_origin(name, rule, settings.limits) for name, rule in settings.origins.items()}
    return build_throttles(settings, origins, tables)


async def test_a_new_worker_gives_back_what_the_slots_last_holder_had_under_way_before_it_serves(
    tmp_path: Path,
) -> None:
    """Both workers were killed, and only one of the new ones is asked for anything: the other has no throttle yet."""
    first = SharedTables.create()
    killed = SharedTables.attach(first.fd)
    throttle = throttles_of(tmp_path, killed).of("s3://127.0.0.1:9")
    for _ in range(4):
        assert throttle.try_enter() is not None
    killed.close()  # with its locks, as when the process dies
    idle, asked = SharedTables.attach(first.fd), SharedTables.attach(first.fd)
    throttles_of(tmp_path, idle)
    assert throttles_of(tmp_path, asked).of("s3://127.0.0.1:9").limiter.under_way == 0
