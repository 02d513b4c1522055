"""Redis' part: who has the lease on a block, or had it lately. The times are the product's."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.relay.lease import DONE_S, LEASE_S


@dataclass(slots=True)
class _Lease:
    node: int
    done_s: float | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """By another node, which may be dead; `done`: it has the whole block."""

    node: int
    done: bool


class Leases:
    """Of all blocks. Times are in seconds of the simulation."""

    def __init__(self) -> None:
        self._leases: dict[int, _Lease] = {}
        self._died_s: dict[int, float] = {}

    def take(self, block: int, node: int, now_s: float, instead: int | None = None) -> Held | None:
        """None: it has it now. `instead`: the node whose whole block could not be read."""
        lease = self._leases.get(block)
        if lease is not None and lease.node not in (node, instead):
            if lease.done_s is None:
                if now_s < self._died_s.get(lease.node, now_s) + LEASE_S:
                    return Held(lease.node, False)
            elif now_s < lease.done_s + DONE_S:
                return Held(lease.node, True)
        self._leases[block] = _Lease(node)
        return None

    def end(self, block: int, node: int, now_s: float) -> None:
        """It has the block; nothing, where it hasn't the lease."""
        lease = self._leases.get(block)
        if lease is not None and lease.node == node and lease.done_s is None:
            lease.done_s = now_s

    def die(self, node: int, now_s: float) -> None:
        """It renews nothing any more."""
        self._died_s[node] = now_s
