"""Who asks this node as a member of its fleet: verified, counted, and said where it is refused for what can be mended.

How it works. A stranger is counted, and no more is said: anybody may knock. A node of this fleet that is refused (its
secret is another one, its clock is off, its program is of another protocol) is a fault that shows nowhere else: the
log names its address and what to look at, now and then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from proxy.fleet.signing import PROTOCOL, Caller, Nonces, Refusal, verify
from proxy.metrics import PEER_REFUSED
from proxy.rate_limited_log import RateLimitedLog

_SAID = {
    Refusal.SECRET: "it signs with another secret than this node's: compare cluster.secret on both",
    Refusal.CLOCK: "its clock and this node's differ by more than half a minute: set them by NTP",
    Refusal.PROTOCOL: f"it does not speak protocol {PROTOCOL} of the fleet, as this node does: run one version on both",
}

log = logging.getLogger("warmstart.fleet")


class Callers:
    """Those of one process. `clock` is Unix time."""

    def __init__(self, secrets: Sequence[bytes], clock: Callable[[], float] = time.time) -> None:
        self._secrets = tuple(secrets)
        self._clock = clock
        self._nonces = Nonces()
        self._limited_logs = {reason: RateLimitedLog(log) for reason in _SAID}

    def identify(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        receivers: Sequence[str],
        method: str,
        target: bytes,
        address: str,
    ) -> Caller | Refusal:
        """`address`: where the request comes from, for the log."""
        authorization = next((value.decode("latin-1") for name, value in headers if name == b"authorization"), None)
        now_s = self._clock()
        caller = verify(self._secrets, authorization, receivers=receivers, method=method, target=target, now_s=now_s)
        if isinstance(caller, Caller):
            if self._nonces.take(caller.nonce, now_s):
                return caller
            caller = Refusal.REPLAYED
        PEER_REFUSED.labels(caller.value).inc()
        if caller in _SAID:
            self._limited_logs[caller].say(f"a request of the node at {address} is refused: {_SAID[caller]}")
        return caller


def address_of(client: tuple[str, int] | None) -> str:
    """An ASGI scope's `client` without its port, which says nothing about who it is."""
    return client[0] if client is not None else "an unknown address"
