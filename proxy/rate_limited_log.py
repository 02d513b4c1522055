"""Log lines that must be seen and must not flood: each once in a while, with how often it happened since."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar

INTERVAL_S = 30.0

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the client's request that this task serves, or was started for; empty where there is none."""


class RateLimitedLog:
    """One kind of event; `say` logs its first occurrence at once, the later ones together."""

    def __init__(
        self, log: logging.Logger, level: int = logging.WARNING, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._level = level
        self._clock = clock
        self._silent_until = float("-inf")
        self._unsaid = 0

    def say(self, text: str, fields: Mapping[str, object] | None = None) -> bool:
        """Whether it was logged; otherwise it is counted in the next line."""
        now = self._clock()
        self._unsaid += 1
        if now < self._silent_until:
            return False
        more = f" ({self._unsaid} times)" if self._unsaid > 1 else ""
        self._log.log(self._level, "%s%s", text, more, extra={"fields": dict(fields or {})})
        self._silent_until = now + INTERVAL_S
        self._unsaid = 0
        return True


class RateLimitedLogs:
    """A rate-limited log for each key; the caller sees to it that there are few."""

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._limited_logs: dict[Hashable, RateLimitedLog] = {}

    def of(self, key: Hashable, level: int = logging.WARNING) -> RateLimitedLog:
        """`level` is that of the key's first call."""
        limited_log = self._limited_logs.get(key)
        if limited_log is None:
            limited_log = self._limited_logs[key] = RateLimitedLog(self._log, level, clock=self._clock)
        return limited_log
