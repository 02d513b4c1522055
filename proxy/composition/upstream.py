"""The gates before the origins of one worker, over ledgers that all workers of the node share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

from proxy.cache.shared import LEDGER_COUNT, LEDGER_WORDS, SharedTables
from proxy.metrics import ORIGIN_CONCURRENCY, ORIGIN_RATE, ORIGIN_UNDER_WAY, ORIGIN_WAITING
from proxy.origin import Origin
from proxy.upstream.limiter import FREE_RATE, LEDGER_NUMBERS, SLOT_COUNT, Ledger, private_numbers
from proxy.upstream.sharing import Hold
from proxy.upstream.throttle import Gates

if TYPE_CHECKING:
    from proxy.config.origins import RemoteOriginSettings
    from proxy.config.settings import Settings

STREAMS_SHARE = 0.5  # of an origin's requests, for streams past the cache: the rest is for fills and metadata

assert LEDGER_WORDS == LEDGER_NUMBERS


def build_gates(settings: Settings, origins: Mapping[str, Origin], tables: SharedTables) -> Gates:
    """Origins that are reached by HTTP have a ledger each, by their id; a directory has no limits.

    All ledgers are opened here, before the first request: that gives back at once what an earlier holder of this
    process's slot had under way when it was killed. Nobody else may do it while the slot is held.
    """
    slot = tables.locks.take_slot(SLOT_COUNT)
    limited = {name: cast("RemoteOriginSettings", rule) for name, rule in settings.origins.items() if rule.by_http}
    ids = list(dict.fromkeys(origins[name].id for name in limited))
    bandwidths = {origins[name].id: rule.bandwidth for name, rule in limited.items()}
    hedges = {origins[name].id: rule.hedge or 0.0 for name, rule in limited.items()}

    ledgers = {
        origin_id: Ledger(
            tables.ledger(place),
            slot,
            concurrency_max=settings.limits.origin_requests,
            bytes_per_s=bandwidths[origin_id],
            name=origin_id,
            lock=partial(tables.locks.ledger, place),
            dead=tables.locks.dead_slot,
        )
        for place, origin_id in enumerate(ids[:LEDGER_COUNT])
    }

    def make(origin_id: str) -> Ledger:
        return ledgers.get(origin_id) or Ledger(private_numbers(), 0, concurrency_max=1 << 20, start_rate=FREE_RATE)

    streams_max = max(1, int(settings.limits.origin_requests * STREAMS_SHARE) // settings.workers)
    return Gates(make, lambda origin_id: hedges.get(origin_id, 0.0), streams_max=streams_max)


def build_holds(settings: Settings, tables: SharedTables) -> list[Hold]:
    """The ledgers of the node's origins, for the control process of a fleet's node."""
    slot = tables.locks.take_slot(SLOT_COUNT)
    count = sum(rule.by_http for rule in settings.origins.values())
    holds = []
    for place in range(min(count, LEDGER_COUNT)):
        numbers, lock = tables.ledger(place), partial(tables.locks.ledger, place)
        ledger = Ledger(numbers, slot, concurrency_max=settings.limits.origin_requests, lock=lock)
        holds.append(Hold(ledger, numbers))
    return holds


def publish(gates: Gates, origins: Iterable[Origin]) -> None:
    """The gauges of `/-/metrics`, up to date, and what killed workers had under way given back: call it each second.

    Origins at one endpoint share a gate: each of their rows shows all of it.
    """
    for gate in gates.all.values():
        gate.ledger.sweep()
    for origin in origins:
        if origin.id not in gates.all:
            continue
        gate = gates.all[origin.id]
        ledger = gate.ledger
        ORIGIN_RATE.labels(origin.name).set(ledger.rate if ledger.rate < FREE_RATE else float("inf"))
        ORIGIN_CONCURRENCY.labels(origin.name).set(ledger.concurrency)
        ORIGIN_UNDER_WAY.labels(origin.name).set(ledger.under_way)
        ORIGIN_WAITING.labels(origin.name).set(gate.waiting)
