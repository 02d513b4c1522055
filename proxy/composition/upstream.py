"""The throttles before the origins of one worker, over limiters that all workers of the node share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

from proxy.cache.shared import LIMITER_COUNT, LIMITER_WORDS, SharedTables
from proxy.metrics import ORIGIN_CONCURRENCY, ORIGIN_RATE, ORIGIN_UNDER_WAY, ORIGIN_WAITING
from proxy.origin import Origin
from proxy.upstream.limiter import FREE_RATE, LIMITER_NUMBERS, SLOT_COUNT, AdaptiveLimiter, private_numbers
from proxy.upstream.sharing import SharedLimiter
from proxy.upstream.throttle import OriginThrottles

if TYPE_CHECKING:
    from proxy.config.origins import RemoteOriginSettings
    from proxy.config.settings import Settings

STREAMS_SHARE = 0.5  # of an origin's requests, for streams past the cache: the rest is for fills and metadata

assert LIMITER_WORDS == LIMITER_NUMBERS


def build_throttles(settings: Settings, origins: Mapping[str, Origin], tables: SharedTables) -> OriginThrottles:
    """Origins that are reached by HTTP have a limiter each, by their id; a directory has no limits.

    All limiters are opened here, before the first request: that gives back at once what an earlier holder of this
    process's slot had under way when it was killed. Nobody else may do it while the slot is held.
    """
    slot = tables.locks.take_slot(SLOT_COUNT)
    limited = {name: cast("RemoteOriginSettings", rule) for name, rule in settings.origins.items() if rule.by_http}
    ids = list(dict.fromkeys(origins[name].id for name in limited))
    bandwidths = {origins[name].id: rule.bandwidth for name, rule in limited.items()}
    hedges = {origins[name].id: rule.hedge or 0.0 for name, rule in limited.items()}

    limiters = {
        origin_id: AdaptiveLimiter(
            tables.limiter(index),
            slot,
            concurrency_max=settings.limits.origin_requests,
            bytes_per_s=bandwidths[origin_id],
            name=origin_id,
            lock=partial(tables.locks.limiter, index),
            dead=tables.locks.dead_slot,
        )
        for index, origin_id in enumerate(ids[:LIMITER_COUNT])
    }

    def make(origin_id: str) -> AdaptiveLimiter:
        return limiters.get(origin_id) or AdaptiveLimiter(
            private_numbers(), 0, concurrency_max=1 << 20, start_rate=FREE_RATE
        )

    streams_max = max(1, int(settings.limits.origin_requests * STREAMS_SHARE) // settings.workers)
    return OriginThrottles(make, lambda origin_id: hedges.get(origin_id, 0.0), streams_max=streams_max)


def build_shared_limiters(settings: Settings, tables: SharedTables) -> list[SharedLimiter]:
    """The limiters of the node's origins, for the control process of a fleet's node."""
    slot = tables.locks.take_slot(SLOT_COUNT)
    count = sum(rule.by_http for rule in settings.origins.values())
    shared_limiters = []
    for index in range(min(count, LIMITER_COUNT)):
        numbers, lock = tables.limiter(index), partial(tables.locks.limiter, index)
        limiter = AdaptiveLimiter(numbers, slot, concurrency_max=settings.limits.origin_requests, lock=lock)
        shared_limiters.append(SharedLimiter(limiter, numbers))
    return shared_limiters


def publish(throttles: OriginThrottles, origins: Iterable[Origin]) -> None:
    """The gauges of `/-/metrics`, up to date, and what killed workers had under way given back: call it each second.

    Origins at one endpoint share a throttle: each of their rows shows all of it.
    """
    for throttle in throttles.all.values():
        throttle.limiter.sweep()
    for origin in origins:
        if origin.id not in throttles.all:
            continue
        throttle = throttles.all[origin.id]
        limiter = throttle.limiter
        ORIGIN_RATE.labels(origin.name).set(limiter.rate if limiter.rate < FREE_RATE else float("inf"))
        ORIGIN_CONCURRENCY.labels(origin.name).set(limiter.concurrency)
        ORIGIN_UNDER_WAY.labels(origin.name).set(limiter.under_way)
        ORIGIN_WAITING.labels(origin.name).set(throttle.waiting)
