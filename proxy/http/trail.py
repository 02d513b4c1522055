"""Which gateways a request has come through: an origin whose endpoint leads back here must not go round for ever.

How it works. Each gateway adds its mark, random for each run, to what it asks of an origin, in the unsigned header
`x-warmstart-hops: MARK, MARK`, which stores ignore. A request that bears this gateway's own mark, or too many, is
answered with 508 before anything is looked up: it would wait for the very look-up that it came from. The gateway that
gets the 508 knows that its origin leads in a circle. Marks that came with a request go along, by the task's context,
with whatever it causes to be asked, so circles through other gateways end, too.
"""

from __future__ import annotations

import hashlib
import re
from contextvars import ContextVar

from proxy.http.headers import HOPS, Headers

MARKS_MAX = 8  # chains of gateways are two or three long
LOOP_STATUS = 508  # RFC 5842 section 7.2

_MARKS = re.compile(r"[0-9a-f]{16}(?:, [0-9a-f]{16})*")
_before: ContextVar[str] = ContextVar("hops", default="")


class Trail:
    """`run_id` is the same in all workers of a gateway; its mark does not tell it."""

    def __init__(self, run_id: str) -> None:
        self.mark = hashlib.sha256(run_id.encode()).hexdigest()[:16]

    def loops(self, marks: str) -> bool:
        """Whether a request with these marks has been here; else they go along with what this task asks."""
        if len(marks) > MARKS_MAX * 18:
            return True
        if _MARKS.fullmatch(marks) is None:
            return False  # some client's own, worth nothing
        if self.mark in marks.split(", "):
            return True
        _before.set(marks)
        return False

    def headers(self) -> Headers:
        """What a request to an origin carries."""
        before = _before.get()
        return ((HOPS, f"{before}, {self.mark}" if before else self.mark),)


def no_marks() -> Headers:
    """For origins that can't be gateways: the clouds' own."""
    return ()
