"""Who may speak for the fleet, and what it said: requests between nodes are signed, and their answers proved. Pure.

How it works. A request carries `authorization: Warmstart-2 node="<sender>", time="<Unix seconds>", nonce="<hex>",
signature="<hex>"`. The signature is HMAC-SHA256 (RFC 2104) over the sender, the receiver, the time, the nonce, the
method and the target as sent: a request caught on the wire says the same thing to the same node, within WINDOW_S of
its time, and once to each process of it (`Nonces`).

The answer's `x-warmstart-proof` is an HMAC with the secret that signed the request, over the request's signature and
what is said: the status and the body of a small answer, the status and the length of a block's. The block's bytes are
proved by the MAC in its tail (`proxy.fleet.tail`). So an answer can neither be changed on its way, nor be taken from
one request for another.

Of several secrets, the first one signs and all verify, so that a fleet can change its secret without a pause: add the
new one behind the old one everywhere, swap, remove.

The number in the scheme is the protocol's. Nodes of another protocol refuse each other, and each reads from the origin
what it can't read from the other: a rolling upgrade loses no reads.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

PROTOCOL = 2
WINDOW_S = 30.0
NONCES_MAX = 200_000
PROOF_HEADER = "x-warmstart-proof"

_CREDENTIALS = re.compile(
    r'Warmstart(?:-(?P<protocol>\d{1,4}))? node="(?P<node>[0-9a-f]{1,64})", time="(?P<time>\d{1,12})", '
    r'nonce="(?P<nonce>[0-9a-f]{16,64})", signature="(?P<signature>[0-9a-f]{64})"'
)


class Refusal(StrEnum):
    """Why a request is not believed."""

    UNSIGNED = "unsigned"
    PROTOCOL = "protocol"  # signed as another version of this program does
    SECRET = "secret"  # signed with none of this node's secrets, or for another request
    CLOCK = "clock"  # signed with this fleet's secret, too long ago or too early
    REPLAYED = "replayed"


@dataclass(frozen=True, slots=True)
class Proofs:
    """What only members of the fleet can say about one request: both ends compute the same, and compare."""

    secret: bytes
    signature: str

    def answer(self, status: int, body: bytes) -> str:
        """The proof header of an answer that is sent as a whole."""
        return self._make("answer", f"{status} {hashlib.sha256(body).hexdigest()}".encode()).hex()

    def stream(self, status: int, length: int) -> str:
        """The proof header of an answer whose body proves itself by its tail. `length` is in bytes, the tail's too."""
        return self._make("stream", b"%d %d" % (status, length)).hex()

    def tail(self, said: bytes) -> bytes:
        """The MAC of what a tail says."""
        return self._make("tail", said)

    def _make(self, kind: str, said: bytes) -> bytes:
        return hmac.digest(self.secret, f"{kind} {self.signature} ".encode() + said, "sha256")


@dataclass(frozen=True, slots=True)
class Signed:
    """A request's header value, and what proves its answer."""

    authorization: str
    proofs: Proofs

    def proves_answer(self, given: str | None, status: int, body: bytes) -> bool:
        return _equal(given, self.proofs.answer(status, body))

    def proves_stream(self, given: str | None, status: int, length: int) -> bool:
        return _equal(given, self.proofs.stream(status, length))


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified request: who sent it, and what proves the answer to it."""

    node_id: str
    nonce: str
    proofs: Proofs


def sign(secrets_: Sequence[bytes], *, sender: str, receiver: str, method: str, target: bytes, now_s: float) -> Signed:
    """`receiver` is the node's id, "" where it is not known yet. `now_s` is Unix time."""
    time, nonce = str(int(now_s)), secrets.token_hex(12)
    signature = _signature(secrets_[0], (sender, receiver, time, nonce, method), target)
    header = f'Warmstart-{PROTOCOL} node="{sender}", time="{time}", nonce="{nonce}", signature="{signature}"'
    return Signed(header, Proofs(secrets_[0], signature))


def verify(
    secrets_: Sequence[bytes],
    authorization: str | None,
    *,
    receivers: Sequence[str],
    method: str,
    target: bytes,
    now_s: float,
) -> Caller | Refusal:
    """The caller, or why the request is not believed. `receivers`: the names by which this node may be meant."""
    found = _CREDENTIALS.fullmatch(authorization or "")
    if found is None:
        return Refusal.UNSIGNED
    if found["protocol"] != str(PROTOCOL):
        return Refusal.PROTOCOL
    for secret in secrets_:
        for receiver in receivers:
            said = (found["node"], receiver, found["time"], found["nonce"], method)
            if hmac.compare_digest(_signature(secret, said, target), found["signature"]):
                if abs(now_s - int(found["time"])) > WINDOW_S:
                    return Refusal.CLOCK
                return Caller(found["node"], found["nonce"], Proofs(secret, found["signature"]))
    return Refusal.SECRET


class Nonces:
    """Those that a process has seen: each counts once, for as long as its request could be sent again."""

    def __init__(self, nonces_max: int = NONCES_MAX) -> None:
        self._nonces_max = nonces_max
        self._seen: set[str] = set()
        self._order: deque[tuple[float, str]] = deque()

    def take(self, nonce: str, now_s: float) -> bool:
        """Whether it is new. `now_s` is Unix time."""
        while self._order and (now_s - self._order[0][0] > 2 * WINDOW_S or len(self._order) >= self._nonces_max):
            self._seen.discard(self._order.popleft()[1])
        if nonce in self._seen:
            return False
        self._seen.add(nonce)
        self._order.append((now_s, nonce))
        return True


def _signature(secret: bytes, said: Sequence[str], target: bytes) -> str:
    text = "\n".join((f"request {PROTOCOL}", *said)).encode() + b"\n" + target
    return hmac.digest(secret, text, "sha256").hex()


def _equal(given: str | None, expected: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
