"""A worker's counters in the fleet's shared state, written there once a second for the control process."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Counter

from proxy.fleet.state import FILLS, HITS, MISSES, ORIGIN_BYTES, FleetState
from proxy.metrics import ORIGIN_BYTES as ORIGIN_BYTES_COUNTER
from proxy.metrics import REQUESTS

HIT_VALUES = ("HIT", "STALE")
MISS_VALUES = ("MISS", "PARTIAL")


class WorkerCounters:
    """This worker's; its predecessor's totals stay in it."""

    def __init__(self, fleet_state: FleetState, number: int) -> None:
        self._fleet_state = fleet_state
        self._number = number
        self._known = dict.fromkeys((HITS, MISSES, ORIGIN_BYTES), 0)
        fleet_state.clear_row(number)

    def publish(self, fills: int) -> None:
        """Bring what was counted since the last call. `fills`: blocks on their way to this worker now."""
        self._fleet_state.put(self._number, FILLS, fills)
        for column, total in _read_counters().items():
            self._fleet_state.add(self._number, column, total - self._known[column])
            self._known[column] = total


def _read_counters() -> dict[int, int]:
    """Of this process alone, by the fleet state's columns."""
    totals = {HITS: 0, MISSES: 0, ORIGIN_BYTES: 0}
    for labels, value in _samples(REQUESTS):
        if not labels["status"].startswith("2"):
            continue
        if labels["cache"] in HIT_VALUES:
            totals[HITS] += value
        elif labels["cache"] in MISS_VALUES:
            totals[MISSES] += value
    for _, value in _samples(ORIGIN_BYTES_COUNTER):
        totals[ORIGIN_BYTES] += value
    return totals


def _samples(counter: Counter) -> Iterator[tuple[dict[str, str], int]]:
    for family in counter.collect():
        for sample in family.samples:
            if sample.name.endswith("_total"):
                yield sample.labels, int(sample.value)
