"""Who may speak for the fleet: requests between nodes are signed with its shared secret. Pure.

How it works. A request carries `authorization: Warmstart node="<sender>", time="<Unix seconds>", nonce="<hex>",
signature="<hex>"`. The signature is HMAC-SHA256 (RFC 2104) over the sender, the receiver, the time, the nonce, the
method and the target as sent: a request caught on the wire says the same thing to the same node, within WINDOW_S of
its time, and once to each process of it (`Nonces`). The answer's `x-warmstart-proof` is made of the request's signature
with the same secret: whoever gives it is a member, too. Of several secrets, the first one signs and all verify, so
that a fleet can change its secret without a pause: add the new one behind the old one everywhere, swap, remove.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_S = 30.0
NONCES_MAX = 200_000
PROOF_HEADER = "x-warmstart-proof"

_CREDENTIALS = re.compile(
    r'Warmstart node="(?P<node>[0-9a-f]{1,64})", time="(?P<time>\d{1,12})", '
    r'nonce="(?P<nonce>[0-9a-f]{16,64})", signature="(?P<signature>[0-9a-f]{64})"'
)


@dataclass(frozen=True, slots=True)
class Signed:
    """A request's header value, and the proof that its answer must carry (any of them, while secrets rotate)."""

    authorization: str
    proofs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified request: who sent it, and the proof to answer with."""

    node_id: str
    nonce: str
    proof: str


def sign(secrets_: Sequence[bytes], *, sender: str, receiver: str, method: str, target: bytes, now_s: float) -> Signed:
    """`receiver` is the node's id, "" where it is not known yet. `now_s` is Unix time."""
    time, nonce = str(int(now_s)), secrets.token_hex(12)
    signature = _signature(secrets_[0], (sender, receiver, time, nonce, method), target)
    header = f'Warmstart node="{sender}", time="{time}", nonce="{nonce}", signature="{signature}"'
    return Signed(header, tuple(_proof(secret, signature) for secret in secrets_))


def verify(
    secrets_: Sequence[bytes],
    authorization: str | None,
    *,
    receivers: Sequence[str],
    method: str,
    target: bytes,
    now_s: float,
) -> Caller | None:
    """The caller, or None: no member, or too old. `receivers`: the names by which this node may be meant."""
    found = _CREDENTIALS.fullmatch(authorization or "")
    if found is None or abs(now_s - int(found["time"])) > WINDOW_S:
        return None
    for secret in secrets_:
        for receiver in receivers:
            said = (found["node"], receiver, found["time"], found["nonce"], method)
            if hmac.compare_digest(_signature(secret, said, target), found["signature"]):
                return Caller(found["node"], found["nonce"], _proof(secret, found["signature"]))
    return None


class Nonces:
    """Those that a process has seen: each counts once, for as long as its request could be sent again."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def take(self, nonce: str, now_s: float) -> bool:
        """Whether it is new. `now_s` is Unix time."""
        while self._order and (now_s - self._order[0][0] > 2 * WINDOW_S or len(self._order) >= NONCES_MAX):
            self._seen.discard(self._order.popleft()[1])
        if nonce in self._seen:
            return False
        self._seen.add(nonce)
        self._order.append((now_s, nonce))
        return True


def _signature(secret: bytes, said: Sequence[str], target: bytes) -> str:
    text = "\n".join(said).encode() + b"\n" + target
    return hmac.new(secret, text, hashlib.sha256).hexdigest()


def _proof(secret: bytes, signature: str) -> str:
    return hmac.new(secret, b"proof " + signature.encode(), hashlib.sha256).hexdigest()
