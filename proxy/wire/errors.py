"""What can go wrong on the wire; origins translate these into `proxy.errors`."""

from __future__ import annotations


class WireError(Exception):
    """Root of the family; `str()` says what happened, in words."""


class ConnectFailed(WireError):
    """No connection: the name does not resolve, no address answers, or TLS does not agree. Nothing was sent."""


class ConnectionBroken(WireError):
    """The peer closed or reset before the response was complete; `received_bytes` of its body were delivered."""

    def __init__(self, message: str, *, received_bytes: int = 0) -> None:
        super().__init__(message)
        self.received_bytes = received_bytes


class MalformedResponse(WireError):
    """What came is not an HTTP/1.x response that this client accepts; the connection has been dropped."""


class TimedOut(WireError):
    """A wait came to its limit. `phase` is what was waited for: "connect", "tls", "head" or "read"."""

    def __init__(self, phase: str, limit_s: float) -> None:
        super().__init__(f"timed out: {phase} took longer than {limit_s:g} s")
        self.phase = phase
        self.limit_s = limit_s
