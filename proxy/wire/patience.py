"""How long a server may be silent before its request is abandoned: learnt from the server's own answers.

How it works. The silence of an answer is its longest wait for bytes: for the head, or between two receives. Nine of ten
recent answers were silent for no longer than the "usual" silence.
1. Few answers are known: a request is abandoned after `first_s`.
2. Else after FACTOR times the usual silence, and never before `least_s`: jitter must not cost a request. A server that
   is slow as a rule gets the time it needs, however much longer than `first_s` that is, up to `most_s`.
3. What was abandoned is asked for again. When that goes silent, too, and each time after it, the time doubles: the
   server may need so long for this one target (a slow tier), and asking it ever again would only add to its work.
4. An answer that came late, against the rule, is remembered for its target: the next request for it waits longer.
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
    """What one request may wait for each of its bytes. `silences`: earlier requests in a row that waited in vain."""

    limit_s: float
    silences: int


@dataclass(slots=True)
class _Target:
    silences: int = 0
    late_s: float = 0.0


class Patience:
    """One server's, for one process. `0 < least_s <= first_s <= most_s`, in seconds."""

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
        """How long a request for a target of which nothing is known may be silent."""
        return self._limit_s

    def wait(self, target: int) -> Wait:
        """For a request that leaves now; `target` is a hash of what is asked for."""
        known = self._targets.get(target) if self._targets else None
        if known is None:
            return Wait(self._limit_s, 0)
        limit_s = max(self._limit_s, LATE_FACTOR * known.late_s) * 2.0 ** max(0, known.silences - 1)
        return Wait(min(limit_s, self._most_s), known.silences)

    def answered(self, target: int, silence_s: float) -> None:
        """An answer has come to its end, and was silent for so long at most. Costs an append, seldom a sort."""
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
        """A request was abandoned; `moved`: some of its body had come. Of several side by side, one counts."""
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
