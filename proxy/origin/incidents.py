"""Incidents at one origin, counted and logged: one line when one begins, one now and then, one when it is over.

How it works.
1. `failed` gets each error that carries an `OriginTrouble`. It counts it. It logs the first of its reason at once, and
   the later ones together every half minute, with their number. What an operator must fix is a warning. What a retry
   usually fixes is information, until `gave_up` says that retries did not help.
2. `answered` gets each answer without an error. From then on the incident may be over; another failure of its reason
   cancels that. For a refusal, only an answer for the same key counts: other keys were never refused.
3. `tick`, once a second, ends the incidents that have not returned for QUIET_S, and logs how long they lasted.
Lines name the configured origin, bucket and key, and quote what the origin said, in bounded length and masked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proxy.errors import OriginTrouble, WarmstartError
from proxy.http.masking import mask_words
from proxy.metrics import ORIGIN_ERRORS
from proxy.rate_limited_log import REQUEST_ID, RateLimitedLogs

QUIET_S = 3.0
KEY_CHARACTERS_MAX = 200
PASSING = frozenset(("reset", "short", "timeout", "server", "throttled"))  # a retry usually fixes them

log = logging.getLogger("warmstart.origin")


@dataclass(slots=True)
class _Incident:
    """An incident of one reason. `better_since_s`: when the origin first answered after the last failure."""

    began_s: float
    bucket: str
    key: str
    failures: int = 0
    logged: bool = False
    better_since_s: float | None = None


class Incidents:
    """The incidents of the origin configured as `name`; its `secrets` appear in no line. `clock` is monotonic."""

    def __init__(self, name: str, secrets: Iterable[str] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._secrets = tuple(secrets)
        self._clock = clock
        self._open: dict[str, _Incident] = {}  # by reason
        self._limited_logs = RateLimitedLogs(log, clock=clock)

    def failed(self, error: WarmstartError, bucket: str, key: str) -> None:
        """Count and log an error that carries a trouble."""
        trouble = error.trouble
        assert trouble is not None
        ORIGIN_ERRORS.labels(self.name, trouble.reason).inc()
        incident = self._open.get(trouble.reason)
        if incident is None:
            incident = self._open[trouble.reason] = _Incident(self._clock(), bucket, key)
        incident.failures += 1
        incident.bucket, incident.key, incident.better_since_s = bucket, key, None
        level = logging.INFO if trouble.reason in PASSING else logging.WARNING
        limited_log = self._limited_logs.of(trouble.reason, level)
        if limited_log.say(self._text(error), self._fields(trouble, bucket, key)):
            incident.logged = True

    def gave_up(self, error: WarmstartError, bucket: str, key: str, tries: int, after_s: float) -> None:
        """Log that retries have ended with this error, which the client gets."""
        trouble = error.trouble or OriginTrouble("throttled")  # from our throttle: the pause would be too long
        fields = self._fields(trouble, bucket, key) | {"tries": tries, "after_s": round(after_s, 1)}
        self._limited_logs.of(("gave up", trouble.reason)).say(f"{self._text(error)}; given up", fields)

    def answered(self, bucket: str, key: str) -> None:
        """Note an answer without an error. Costs one look at an empty mapping while all is well."""
        if not self._open:
            return
        for reason, incident in self._open.items():
            same = (bucket, key) == (incident.bucket, incident.key)
            if incident.better_since_s is None and (same or reason != "refused"):
                incident.better_since_s = self._clock()

    def tick(self) -> None:
        """End the incidents that are over."""
        now_s = self._clock()
        for reason, incident in list(self._open.items()):
            if incident.better_since_s is None or now_s - incident.better_since_s < QUIET_S:
                continue
            del self._open[reason]
            if incident.logged:
                lasted_s = round(incident.better_since_s - incident.began_s, 1)
                fields = {"origin": self.name, "reason": reason, "lasted_s": lasted_s, "failures": incident.failures}
                log.info("origin %s answers again", self.name, extra={"fields": fields})

    def _text(self, error: WarmstartError) -> str:
        return f"origin {self.name}: {mask_words(str(error), self._secrets)}"

    def _fields(self, trouble: OriginTrouble, bucket: str, key: str) -> dict[str, object]:
        fields: dict[str, object] = {"origin": self.name, "reason": trouble.reason, "bucket": bucket}
        said, shown = mask_words(trouble.said, self._secrets), mask_words(key, characters_max=KEY_CHARACTERS_MAX)
        named = {"key": shown, "said": said, "origin_request_id": mask_words(trouble.request_id, self._secrets)}
        named["request_id"] = REQUEST_ID.get()
        return fields | {name: value for name, value in named.items() if value}
