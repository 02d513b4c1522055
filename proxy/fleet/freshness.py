"""How long this node may use what it remembers of keys without asking the origin: the freshness window, for workers.

How it works. A node whose own beat has come back over the channel of writes has heard of every write that was published
before that beat: its freshness window lasts FRESHNESS_S from the moment the beat was sent. A write returns when every
node that may hold one has acknowledged it, or when FRESHNESS_S are over. A node without one (Redis is away, or this
node's control process) trusts only what the origin said within the last FRESHNESS_S: then, too, what it says is no
older than a write that has waited for silent nodes. That keeps an outage of Redis from becoming a storm of questions at
the origin.

A subscription that had to be made again may have missed writes: what was checked before it is due once
(`due_before_s`).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from proxy.fleet.state import FleetState

FRESHNESS_S = 3.0
DRIFT_S = 0.2  # what two clocks may differ by in FRESHNESS_S; a writer waits so much longer


class Freshness:
    """`clock` is time.monotonic, as the control process writes it to the fleet state."""

    __slots__ = ("_clock", "_fleet_state")

    def __init__(self, fleet_state: FleetState, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet_state = fleet_state
        self._clock = clock

    def covers(self, checked_at_s: float, now_s: float) -> bool:
        """Whether no write that has returned by `now_s` can be missing from what was asked at `checked_at_s`.

        Both are Unix times of this machine. Costs three loads and the clock.
        """
        fleet_state = self._fleet_state
        if checked_at_s <= fleet_state.due_before_s:
            return False
        return self._clock() < fleet_state.fresh_until_s or 0 <= now_s - checked_at_s < FRESHNESS_S

    @property
    def heard(self) -> int:
        """The stamp of the last write that this node has been told of.

        What another node remembers may be kept here only if that node had heard as much when it was asked: this one
        would not hear of the same write again. Whether its freshness window is open does not matter: of what a
        subscription that broke has missed, the asker's `due_before_s` takes care, or the other node's.
        """
        return self._fleet_state.heard
