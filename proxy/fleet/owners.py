"""Who owns a block or a key: weighted rendezvous hashing over node ids. Pure.

How it works. Every node scores every item (the 64-bit hash of a block or key); the highest score owns it, in its zone
and, over all zones, in the region. When a node leaves, only what it owned moves; when one joins, it takes its share and
nothing else moves [Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998]. The highest score
of a zone's nodes is compared in the region too, so the region's owner is its own zone's owner. Nodes that advertise
less than half of the median capacity own nothing, and nor do those that are draining, or slow; of the others a
node's share is proportional to its capacity.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterable
from operator import itemgetter
from statistics import median

from proxy.fleet.roster import Member, Roster

CAPACITY_SHARE_MIN = 0.5  # of the median
_MASK = (1 << 64) - 1
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # the multipliers of splitmix64


def hash_name(name: str) -> int:
    """64 bits of a node's id."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def hash_block(version_digest: bytes, index: int) -> int:
    """The 64-bit number of a block of an object version."""
    return mix(int.from_bytes(version_digest[:8], "little") + (index + 1) * 0x9E3779B97F4A7C15)


def hash_key(key_digest: bytes) -> int:
    """The 64-bit number of a key."""
    return int.from_bytes(key_digest[:8], "little")


def mix(number: int) -> int:
    """A 64-bit number whose every bit depends on every bit of the other (splitmix64's last step)."""
    number &= _MASK
    number = ((number ^ (number >> 30)) * _FIRST) & _MASK
    number = ((number ^ (number >> 27)) * _SECOND) & _MASK
    return number ^ (number >> 31)


class Owners:
    """The owners of one membership."""

    def __init__(self, roster: Roster) -> None:
        able = eligible(roster.members)
        self._even = len({member.capacity_bytes for member in able}) <= 1
        self._able = [(hash_name(member.node_id), float(member.capacity_bytes or 1), member) for member in able]

    def order(self, item_hash: int, zone: str | None = None, count: int | None = None) -> list[Member]:
        """All who may own an item, or the first `count`, the owner first; of one zone, or of the region."""
        scored = [
            (self._score(hashed, weight, item_hash), member.node_id, member)
            for hashed, weight, member in self._able
            if zone is None or member.zone == zone
        ]
        if count is None:
            scored.sort(key=_by_score, reverse=True)
        else:
            scored = heapq.nlargest(count, scored, key=_by_score)
        return [member for _, _, member in scored]

    def owner(self, item_hash: int, zone: str | None = None) -> Member | None:
        """The first of `order`; None where nobody may own anything."""
        best: tuple[float, str, Member] | None = None
        for hashed, weight, member in self._able:
            if zone is None or member.zone == zone:
                score = self._score(hashed, weight, item_hash)
                if best is None or (score, member.node_id) > best[:2]:
                    best = (score, member.node_id, member)
        return best[2] if best is not None else None

    def _score(self, hashed: int, weight: float, item_hash: int) -> float:
        mixed = mix(hashed ^ item_hash)
        if self._even:
            return mixed
        return -weight / math.log((mixed >> 11 | 1) / 2**53)  # as a float it is never 0 or 1, as 64 bits may become


def eligible(members: Iterable[Member]) -> list[Member]:
    """Those that may own something: all, where nobody is fit."""
    listed = list(members)
    fit = [member for member in listed if not member.draining and not member.slow]
    fit = fit or [member for member in listed if not member.draining] or listed
    if not fit:
        return []
    least = CAPACITY_SHARE_MIN * median(member.capacity_bytes for member in fit)
    return [member for member in fit if member.capacity_bytes >= least]


_by_score = itemgetter(0, 1)
