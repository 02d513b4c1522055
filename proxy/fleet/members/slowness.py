"""Which node's link brings far less than the others': it gets sources, and is nobody's. Pure.

How it works. A node measures what comes in while it waits for blocks, and tells it with its stats. Whoever brings less
than half of the median, of three nodes at least, calls itself slow, by the same numbers that all nodes see, and all
believe it: so every node knows the same slow ones. Both turns take a few rounds, and the way back a better rate than
the way out: a node at the limit does not come and go, for with each turn blocks change their owners.
"""

from __future__ import annotations

from collections.abc import Collection
from statistics import median

NODES_MIN = 3
SLOW_SHARE = 0.5  # of the median: below it a node is slow
WELL_SHARE = 0.7  # above it a slow node is well again
ROUNDS = 3  # in a row that say the same
FADE = 0.95  # of the best rate, with each second that brought less
SAMPLES_MIN = 3
FORGET_S = 30.0  # a rate that nothing has confirmed for so long says nothing about now


class ReceiveRate:
    """Bytes per second, in the best of the last seconds; only time in which something was waited for counts.

    The best and not the mean: what a node brings while it waits for another one says nothing about its own link. By
    means, the whole fleet slowed down by a slow node looks like that one, which then calls itself well.
    """

    def __init__(self) -> None:
        self._last: tuple[float, float, bool] | None = None
        self._rate: float | None = None
        self._samples = 0
        self._busy_s = 0.0

    def note(self, now_s: float, received_bytes: float, busy: bool) -> float | None:
        """Call it about once a second with the bytes received so far; the rate, or None where it is not known."""
        last, self._last = self._last, (now_s, received_bytes, busy)
        if last is not None and last[2] and busy and now_s > last[0]:
            sample = max(0.0, received_bytes - last[1]) / (now_s - last[0])
            self._rate = sample if self._rate is None else max(sample, FADE * self._rate)
            self._samples += 1
            self._busy_s = now_s
        elif self._rate is not None and now_s - self._busy_s > FORGET_S:
            self._rate, self._samples = None, 0
        return self._rate if self._samples >= SAMPLES_MIN else None


class Slowness:
    """One node's judgement of itself."""

    def __init__(self) -> None:
        self.slow = False
        self._rounds = 0

    def judge(self, own_rate: float | None, others: Collection[float]) -> bool:
        """Call it once a round; whether this node is slow."""
        turn = _turns(self.slow, own_rate, others)
        self._rounds = self._rounds + 1 if turn else 0
        if self._rounds >= ROUNDS:
            self.slow, self._rounds = not self.slow, 0
        return self.slow


def _turns(slow: bool, own_rate: float | None, others: Collection[float]) -> bool:
    """Whether this round speaks against what is believed."""
    if own_rate is None or len(others) + 1 < NODES_MIN:
        return slow
    share = own_rate / max(1.0, median([*others, own_rate]))
    return share >= WELL_SHARE if slow else share < SLOW_SHARE
