"""Fill ids: which fill of a block a request belongs to, and how far that fill stands from the origin. Pure.

How it works. A fill id is 64 random bits but for its last three: the level of the fill, and whether bytes of other
nodes are in it. A fill of one level only ever waits for fills of a lower one, or, within one tree, for a node that
asked for it earlier; so no two nodes wait for each other, whatever each of them believes about who owns the block.

    ORIGIN   the node asks the origin, under the fleet's lease
    LEASED   it reads from the node that holds the lease
    REGION   it reads within the tree of the region's owner, whose own fill is ORIGIN or LEASED
    ZONE     it reads within the tree of its zone's owner, whose own fill is one of the others
"""

from __future__ import annotations

import secrets

ORIGIN, LEASED, REGION, ZONE = range(4)
_UNVERIFIED = 4


def new_fill_id(level: int, *, unverified: bool = False) -> int:
    """`unverified`: bytes of other nodes are in it already."""
    return (secrets.randbits(61) | 1) << 3 | (_UNVERIFIED if unverified else 0) | level


def level_of(fill_id: int) -> int:
    return fill_id & 3


def is_unverified(fill_id: int) -> bool:
    """Whether the fill brings bytes of other nodes, which count only when their checksum has been compared.

    False for 0, which is none; see `may_be_unverified`.
    """
    return fill_id != 0 and (fill_id & _UNVERIFIED != 0 or level_of(fill_id) != ORIGIN)


def may_be_unverified(fill_id: int) -> bool:
    """The same where 0 says that nobody knows."""
    return fill_id == 0 or is_unverified(fill_id)
