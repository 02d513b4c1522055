"""What a node says of itself, in Redis and in its answer to a hello: who it is, and how it is doing. Pure.

It names the protocol that it speaks: a node of another one is no member, for neither believes the other's answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from proxy.fleet.messages import parse_json
from proxy.fleet.roster import Member, parse_member
from proxy.fleet.signing import PROTOCOL

STATS_MAX = 64
STATUS_BYTES_MAX = 16 << 10  # one has less than a kilobyte


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A member as it was seen last. `stats` are numbers by name: proxy.fleet.members.stats lists them.

    `left`: this was its last word, it is no member any more.
    """

    member: Member
    stats: Mapping[str, float] = field(default_factory=dict)
    left: bool = False


def status_values(status: NodeStatus) -> dict[str, Any]:
    values = {"protocol": PROTOCOL, "self": asdict(status.member), "stats": dict(status.stats)}
    return values | {"left": True} if status.left else values


def read_status(values: Any) -> NodeStatus:
    """What this program does not know is left out. Raises ValueError."""
    if not isinstance(values, dict):
        raise ValueError("a status is a mapping")
    if values.get("protocol") != PROTOCOL:
        said = str(values.get("protocol", 1))[:20]
        raise ValueError(f"it speaks protocol {said} of the fleet, this node {PROTOCOL}: run one version on both")
    stats = values.get("stats", {})
    if not isinstance(stats, dict):
        raise ValueError("stats are a mapping")
    numbers = {name: value for name, value in stats.items() if _is_number(value)}
    left = values.get("left") is True
    return NodeStatus(parse_member(values.get("self")), dict(list(numbers.items())[:STATS_MAX]), left)


def render_status(status: NodeStatus) -> bytes:
    return json.dumps(status_values(status), separators=(",", ":")).encode()


def parse_status(text: bytes) -> NodeStatus:
    """Raises ValueError."""
    return read_status(parse_json(text, bytes_max=STATUS_BYTES_MAX))


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, float) and math.isfinite(value))
