"""What nodes leave for each other in Redis, and say to each other in JSON: input, until it has been judged. Pure.

How it works. Whoever can write to Redis can write anything there. So a message of a node is sealed: a JSON mapping with
the node's id, the time, and as its last field an HMAC with the fleet's secret over all before it and over the kind of
message. `Seals.open` looks at the length, then at the seal, and parses only what a member of the fleet has written.
Redis can hold messages back or give them twice, but can forge none.

`parse_json` is the one parser of all that comes from outside of this process, sealed or not: the length and the depth
are bounded before `json` sees it, and numbers are such as a 64-bit word or a float can hold.
"""

from __future__ import annotations

import hmac
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from proxy.fleet.signing import PROTOCOL, WINDOW_S

DEPTH_MAX = 8  # a status has 3, a list of members 4
DIGITS_MAX = 20  # of a 64-bit number with its sign
NODE_ID_MAX = 128
_SEAL = re.compile(rb',"seal":"([0-9a-f]{64})"\}')
_SEAL_BYTES = len(b',"seal":""}') + 64
# Either all of a string, closed or not, or a bracket; what is between them is passed over. Each byte is looked at once.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.?)*+"?|[\[{]|[\]}]', re.DOTALL)


class Unsealed(ValueError):
    """No member of the fleet has written it, or it is too old. `reason` is the metrics' word: signature or time."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """A sealed message of a node. `at_s` is the Unix time at which that node sealed it."""

    node_id: str
    at_s: float
    values: Mapping[str, Any]


def parse_json(text: bytes, *, bytes_max: int) -> Any:
    """Raises ValueError, and nothing else whatever the text is. Linear in its length."""
    if len(text) > bytes_max:
        raise ValueError(f"{len(text)} bytes; {bytes_max} are the most")
    depth = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        if first in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise ValueError(f"more than {DEPTH_MAX} levels deep")
        elif first in b"]}":
            depth -= 1
    try:
        return json.loads(text, parse_int=_parse_int, parse_float=_parse_float)
    except RecursionError:  # the depth is bounded; the stack may be nearly used up all the same
        raise ValueError("too deep") from None


class Seals:
    """`secrets`: the fleet's; the first one seals, all open. `clock` is Unix time."""

    def __init__(self, secrets: Sequence[bytes], clock: Callable[[], float] = time.time) -> None:
        assert secrets
        self._secrets = tuple(secrets)
        self._clock = clock

    def seal(self, kind: str, node_id: str, values: Mapping[str, Any]) -> bytes:
        """As bytes that are JSON."""
        assert "seal" not in values
        body = json.dumps({"node": node_id, "time": round(self._clock(), 3), **values}, separators=(",", ":")).encode()
        return body[:-1] + b',"seal":"' + _make(self._secrets[0], kind, body).encode() + b'"}'

    def open(self, kind: str, text: bytes, *, bytes_max: int, window_s: float | None = WINDOW_S) -> Message:
        """Raises Unsealed, or ValueError for what a member has written and this program can't read.

        `window_s`: how old or early it may be; None: its time says nothing.
        """
        if len(text) > bytes_max:
            raise Unsealed("signature", f"{len(text)} bytes; {bytes_max} are the most")
        found = _SEAL.fullmatch(text[-_SEAL_BYTES:])
        body = text[:-_SEAL_BYTES] + b"}"
        given = found[1].decode() if found is not None else ""
        if not any(hmac.compare_digest(_make(secret, kind, body), given) for secret in self._secrets):
            raise Unsealed("signature", "not sealed with this fleet's secret")
        values = parse_json(body, bytes_max=bytes_max)
        node_id, at_s = values.pop("node", None), values.pop("time", None)
        if not isinstance(node_id, str) or len(node_id) > NODE_ID_MAX or type(at_s) not in (int, float):
            raise ValueError("a message names its node and its time")
        if window_s is not None and abs(self._clock() - at_s) > window_s:
            raise Unsealed("time", f"sealed {self._clock() - at_s:.0f} s ago; {window_s:.0f} s are the most")
        return Message(node_id, float(at_s), values)


def _make(secret: bytes, kind: str, body: bytes) -> str:
    return hmac.digest(secret, f"message {PROTOCOL} {kind} ".encode() + body, "sha256").hex()


def _parse_int(text: str) -> int:
    if len(text) > DIGITS_MAX:
        raise ValueError("a number of too many digits")
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number that is too large")
    return value
