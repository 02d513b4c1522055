"""The errors of the wire, which origins translate into those of `proxy.errors`."""

from __future__ import annotations


class WireError(Exception):
    """The root of the family; `str()` says in words what happened."""


class ConnectFailed(WireError):
    """No connection: the name does not resolve, no address answers, or TLS fails. No request was sent."""


class ConnectionBroken(WireError):
    """The peer closed or reset before the response was complete; `received_bytes` of its body were delivered."""

    def __init__(self, message: str, *, received_bytes: int = 0) -> None:
        super().__init__(message)
        self.received_bytes = received_bytes


class MalformedResponse(WireError):
    """The peer sent no HTTP/1.x response that this client accepts; the connection has been dropped."""


class TimedOut(WireError):
    """A wait reached its limit. `phase` is what was waited for: "connect", "tls", "head" or "read"."""

    def __init__(self, phase: str, limit_s: float) -> None:
        super().__init__(f"timed out: {phase} took longer than {limit_s:g} s")
        self.phase = phase
        self.limit_s = limit_s
