"""Who is in the fleet: found by heartbeats in Redis (`heartbeat`), or by saying hello at known addresses (`discovery`).

Either way the result is the same: `registry` holds who was seen last, with this node among them, and writes the roster
that the node's workers read from the fleet state. Runs in the control process; knows no blocks and no keys.
"""

from typing import Protocol


class Membership(Protocol):
    """One way to find the members. `leave` raises nothing."""

    async def run(self) -> None:
        """Keep the registry up to date until cancelled."""

    def hurry(self) -> None:
        """This node has changed: the others should know soon."""

    async def leave(self) -> None:
        """This node is no member any more."""
