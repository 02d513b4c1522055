"""From a failed exchange, or an answer that can't be right, to the error family. Counts origin errors."""

from __future__ import annotations

from proxy.errors import OriginUnavailable, VersionChanged
from proxy.metrics import ORIGIN_ERRORS
from proxy.wire.errors import ConnectFailed, ConnectionBroken, MalformedResponse, TimedOut, WireError


def mismatch(origin: str, what: str) -> OriginUnavailable:
    """An answer that can't be the one to this request."""
    ORIGIN_ERRORS.labels(origin, "mismatch").inc()
    return OriginUnavailable(f"mislabelled: the origin sent {what}")


def changed(origin: str, key: str, what: str) -> VersionChanged:
    """Another version than the one asked for; not the origin's fault, so not counted as its error."""
    return VersionChanged(f"{origin} holds another version of {key!r}: {what}")


def short_body(origin: str, received_bytes: int, expected_bytes: int) -> OriginUnavailable:
    ORIGIN_ERRORS.labels(origin, "short").inc()
    return OriginUnavailable(f"the origin sent {received_bytes} of {expected_bytes} bytes")


def unreachable(origin: str, reason: str, words: str) -> OriginUnavailable:
    """An exchange that failed; `reason` is the counter's word for it."""
    ORIGIN_ERRORS.labels(origin, reason).inc()
    return OriginUnavailable(f"{reason}: {words}")


def from_wire(origin: str, error: WireError) -> OriginUnavailable:
    """What the range client raised, as ours."""
    match error:
        case ConnectFailed():
            reason = "connect"
        case TimedOut():
            reason = "connect" if error.phase in ("connect", "tls") else "timeout"
        case MalformedResponse():
            reason = "mismatch"
        case ConnectionBroken(received_bytes=received) if received > 0:
            reason = "short"
        case _:
            reason = "reset"
    return unreachable(origin, reason, str(error))
