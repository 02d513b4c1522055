"""Adaptive time-outs: how long a server may be silent before its request is abandoned, learnt from its own answers.

How it works. The silence of an answer is its longest wait for bytes: for the head, or between two receives. Nine of ten
recent answers were silent for no longer than the "usual" silence.
1. While few answers are known, a request is abandoned after `first_s`.
2. After that it is abandoned after FACTOR times the usual silence, but never before `least_s`, so that jitter costs no
   request. A server that is usually slow gets the time it needs, even if longer than `first_s`, up to `most_s`.
3. An abandoned request is sent again. If that one is silent too, the time doubles, and so on each time. The server may
   need that long for this one target (a slow tier), and asking it again and again would only add to its work.
4. An answer that came exceptionally late is remembered for its target: the next request for it waits longer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cachetools import LRUCache

FACTOR = 4.0  # of the usual silence
SAMPLES = 64  # recent answers
SAMPLES_MIN = 8  # with fewer, nothing is usual
USUAL_SHARE = 0.9  # of the answers
LATE_FACTOR = 2.0  # of a target's own late answer
TARGETS_MAX = 512  # remembered as silent or late; each is three numbers


@dataclass(frozen=True, slots=True)
class Wait:
    """The time-out of one request. `silences`: how many requests for the target were abandoned in a row before it."""

    limit_s: float
    silences: int


@dataclass(slots=True)
class _Target:
    silences: int = 0
    late_s: float = 0.0


class Patience:
    """The time-outs for one server in one process. `0 < least_s <= first_s <= most_s`, in seconds."""

    def __init__(self, least_s: float, first_s: float, most_s: float) -> None:
        assert 0 < least_s <= first_s <= most_s
        self._least_s = least_s
        self._limit_s = first_s
        self._most_s = most_s
        self._silences_s: deque[float] = deque(maxlen=SAMPLES)
        self._unsorted = 0
        self._targets: LRUCache[int, _Target] = LRUCache(TARGETS_MAX)

    @property
    def limit_s(self) -> float:
        """How long a request for an unknown target may be silent."""
        return self._limit_s

    def wait(self, target: int) -> Wait:
        """Return the time-out of a request that leaves now; `target` is a hash of what it requests."""
        known = self._targets.get(target) if self._targets else None
        if known is None:
            return Wait(self._limit_s, 0)
        limit_s = max(self._limit_s, LATE_FACTOR * known.late_s) * 2.0 ** max(0, known.silences - 1)
        return Wait(min(limit_s, self._most_s), known.silences)

    def answered(self, target: int, silence_s: float) -> None:
        """Learn from an answer that has ended, and its longest silence. Costs an append, and sometimes a sort."""
        late = silence_s > self._limit_s
        if late:
            self._targets[target] = _Target(late_s=silence_s)
        elif self._targets:
            self._targets.pop(target, None)
        self._silences_s.append(silence_s)
        self._unsorted += 1
        if late or self._unsorted >= SAMPLES_MIN:
            self._learn()

    def silent(self, target: int, wait: Wait, *, moved: bool) -> None:
        """Note an abandoned request. `moved`: part of its body had come. Of several in parallel, one counts."""
        known = self._targets.get(target) or _Target()
        if moved:
            known.silences = 1
        elif known.silences == wait.silences:
            known.silences += 1
        self._targets[target] = known

    def _learn(self) -> None:
        self._unsorted = 0
        if len(self._silences_s) < SAMPLES_MIN:
            return
        ordered = sorted(self._silences_s)
        usual_s = ordered[int(USUAL_SHARE * (len(ordered) - 1))]
        self._limit_s = min(max(FACTOR * usual_s, self._least_s), self._most_s)
