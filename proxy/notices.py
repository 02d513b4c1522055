"""Log lines that must be seen and must not flood: each once in a while, with how often it happened since."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

INTERVAL_S = 30.0


class Notice:
    """One kind of event; `say` logs its first occurrence at once, the later ones together."""

    def __init__(
        self, log: logging.Logger, level: int = logging.WARNING, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._level = level
        self._clock = clock
        self._silent_until = float("-inf")
        self._unsaid = 0

    def say(self, text: str) -> None:
        now = self._clock()
        self._unsaid += 1
        if now < self._silent_until:
            return
        more = f" ({self._unsaid} times)" if self._unsaid > 1 else ""
        self._log.log(self._level, "%s%s", text, more)
        self._silent_until = now + INTERVAL_S
        self._unsaid = 0
