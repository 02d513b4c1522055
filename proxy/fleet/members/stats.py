"""How a node is doing, as a few numbers that it tells the others: from its fleet state's rows and its disks' accounts.

uploads, fills                              under way now
sent_bytes, received_bytes, origin_bytes    blocks sent to and received from other nodes, received from origins
hits, misses                                reads answered from this node's disks, and the others
used_bytes, size_bytes                      of the disks
receive_rate                                bytes per second that come in while blocks are waited for, if known
"""

from __future__ import annotations

import time
from collections.abc import Callable

from proxy.fleet.members.slowness import ReceiveRate
from proxy.fleet.state import FILLS, HITS, MISSES, ORIGIN_BYTES, RECEIVED_BYTES, SENT_BYTES, UPLOADS, FleetState

_COLUMNS = {
    "uploads": UPLOADS,
    "fills": FILLS,
    "sent_bytes": SENT_BYTES,
    "received_bytes": RECEIVED_BYTES,
    "origin_bytes": ORIGIN_BYTES,
    "hits": HITS,
    "misses": MISSES,
}


class NodeStats:
    """`read_disks` gives used and whole bytes of all disks; `clock` counts seconds, from whenever."""

    def __init__(
        self,
        fleet_state: FleetState,
        read_disks: Callable[[], tuple[int, int]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet_state = fleet_state
        self._read_disks = read_disks
        self._clock = clock
        self._rate = ReceiveRate()

    def read(self) -> dict[str, float]:
        """Now; each call is also a sample of the receive rate."""
        stats: dict[str, float] = {name: self._fleet_state.total(column) for name, column in _COLUMNS.items()}
        stats["used_bytes"], stats["size_bytes"] = self._read_disks()
        rate = self._rate.note(self._clock(), stats["received_bytes"] + stats["origin_bytes"], stats["fills"] > 0)
        if rate is not None:
            stats["receive_rate"] = round(rate)
        return stats
