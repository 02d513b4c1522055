"""Which nodes find that they are slow, by the product's own rule: each by what it receives and what the others tell."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from proxy.fleet.members.slowness import ReceiveRate, Slowness


class Judges:
    """Of all nodes."""

    def __init__(self, nodes: int) -> None:
        self._rates = [ReceiveRate() for _ in range(nodes)]
        self._judges = [Slowness() for _ in range(nodes)]

    def slow(self, now_s: float, received_bytes: Sequence[int], waiting: Collection[int]) -> frozenset[int]:
        """Call it once a second. `waiting`: the nodes that wait for blocks."""
        told = [
            rate.note(now_s, total_bytes, node in waiting)
            for node, (rate, total_bytes) in enumerate(zip(self._rates, received_bytes, strict=True))
        ]
        found = set()
        for node, judge in enumerate(self._judges):
            others = [rate for other, rate in enumerate(told) if rate is not None and other != node]
            if judge.judge(told[node], others):
                found.add(node)
        return frozenset(found)
