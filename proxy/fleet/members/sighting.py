"""What a node says of itself, in Redis and in its answer to a hello: who it is, and how it is doing. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from proxy.fleet.roster import Member, parse_member

STATS_MAX = 64


@dataclass(frozen=True, slots=True)
class Sighting:
    """A member as it was seen last. `stats` are numbers by name: proxy.fleet.members.stats lists them."""

    member: Member
    stats: Mapping[str, float] = field(default_factory=dict)


def render_sighting(sighting: Sighting) -> bytes:
    values = {"member": asdict(sighting.member), "stats": dict(sighting.stats)}
    return json.dumps(values, separators=(",", ":")).encode()


def parse_sighting(text: bytes) -> Sighting:
    """What this program does not know is left out. Raises ValueError."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("a sighting is a mapping")
    stats = found.get("stats", {})
    if not isinstance(stats, dict):
        raise ValueError("stats are a mapping")
    numbers = {name: value for name, value in stats.items() if type(value) in (int, float) and math.isfinite(value)}
    return Sighting(parse_member(found.get("member")), dict(list(numbers.items())[:STATS_MAX]))
