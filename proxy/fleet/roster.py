"""The members of the fleet as one value: who they are, where they answer, what they can hold.

A node's id is random, made once, and kept in its disks' layout; hashing uses ids alone, so a new address moves nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Member:
    """`url` is where it serves bytes, `control_url` where it answers asks; both without a trailing slash.

    `capacity_bytes`: of all its disks. `draining`: it is about to leave, and owns nothing. `slow`: its link brings far
    less than the others': it gets sources and is nobody's.
    """

    node_id: str
    url: str
    control_url: str
    zone: str = ""
    capacity_bytes: int = 0
    draining: bool = False
    slow: bool = False


@dataclass(frozen=True)
class Roster:
    """All members that are alive, this node among them, in the order of their ids."""

    members: tuple[Member, ...] = ()
    by_id: dict[str, Member] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.members, key=lambda member: member.node_id))
        object.__setattr__(self, "members", ordered)
        object.__setattr__(self, "by_id", {member.node_id: member for member in ordered})

    @property
    def epoch(self) -> str:
        """A name of this membership: equal on every node that sees the same members."""
        return hashlib.sha256(render_roster(self)).hexdigest()[:16]

    def zones(self) -> frozenset[str]:
        return frozenset(member.zone for member in self.members)


def render_roster(roster: Roster) -> bytes:
    return json.dumps([asdict(member) for member in roster.members], separators=(",", ":")).encode()


def parse_roster(text: bytes) -> Roster:
    """Raises ValueError."""
    found = json.loads(text)
    if not isinstance(found, list):
        raise ValueError("a roster is a list of members")
    return Roster(tuple(parse_member(values) for values in found))


def parse_member(values: Any) -> Member:
    """A member from another node's words; keys that this program does not know are left out. Raises ValueError."""
    if not isinstance(values, dict):
        raise ValueError("a member is a mapping")
    known = {name: values[name] for name in _FIELDS if name in values}
    texts = ("node_id", "url", "control_url", "zone")
    sound = all(isinstance(known.get(name, ""), str) for name in texts)
    capacity_bytes = known.get("capacity_bytes", 0)
    sound = sound and type(capacity_bytes) is int and 0 <= capacity_bytes < 1 << 63
    sound = sound and all(type(known.get(name, False)) is bool for name in ("draining", "slow"))
    if not sound or not known.get("node_id") or not known.get("url") or not known.get("control_url"):
        raise ValueError("not a member")
    return Member(**known)


def with_own(members: Iterable[Member], own: Member) -> Roster:
    """The roster of these members and this node, whatever others say of it."""
    return Roster((*(member for member in members if member.node_id != own.node_id), own))


_FIELDS = tuple(each.name for each in fields(Member))
