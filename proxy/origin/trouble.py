"""From a failed exchange, or an answer that can't be right, to the error family. Counts origin errors."""

from __future__ import annotations

import httpx

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


def from_httpx(origin: str, error: httpx.HTTPError) -> OriginUnavailable:
    """What httpx raised, as ours."""
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError() | httpx.UnsupportedProtocol():
            reason = "connect"
        case httpx.TimeoutException():
            reason = "timeout"
        case _:
            reason = "reset"
    ORIGIN_ERRORS.labels(origin, reason).inc()
    words = str(error) or type(error).__name__
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
    ORIGIN_ERRORS.labels(origin, reason).inc()
    return OriginUnavailable(f"{reason}: {error}")
