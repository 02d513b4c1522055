"""The fleet as one worker sees it: members from the fleet state, owners of what it asks for, and whom to leave alone.

A member that failed is avoided for a while, longer each time: what it owns is asked of the next in the hash order.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from proxy.fleet.owners import Owners
from proxy.fleet.roster import Member, Roster, parse_roster
from proxy.fleet.state import FleetState

AVOID_S = 2.0
AVOID_MAX_S = 30.0
KEPT_MAX = 65_536
ORDER_MAX = 8  # of the next in the hash order: who asks so many in vain asks the origin


class FleetView:
    """`clock` counts seconds, from whenever."""

    def __init__(
        self,
        fleet_state: FleetState,
        node_id: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        orders_max: int = KEPT_MAX,
    ) -> None:
        self._orders_max = orders_max
        self.fleet_state = fleet_state
        self.node_id = node_id
        self._clock = clock
        self._sequence = -1
        self._roster = Roster()
        self._owners = Owners(self._roster)
        self._orders: dict[tuple[int, str | None], tuple[Member, ...]] = {}
        self._avoided: dict[str, tuple[float, float]] = {}  # until when, and for how long

    @property
    def roster(self) -> Roster:
        if self.fleet_state.sequence != self._sequence:
            self._read()
        return self._roster

    @property
    def alone(self) -> bool:
        return all(member.node_id == self.node_id for member in self.roster.members)

    def me(self) -> Member | None:
        return self.roster.by_id.get(self.node_id)

    def url(self) -> str:
        """Where this node serves; "" while it does not know."""
        me = self.me()
        return me.url if me is not None else ""

    @property
    def zone(self) -> str | None:
        """This node's; None while nobody knows it here."""
        me = self.me()
        return me.zone if me is not None else None

    def order(self, item_hash: int, zone: str | None = None) -> list[Member]:
        """Who owns the item, and who would if those before it were gone; who failed lately is gone."""
        roster = self.roster
        found = self._orders.get((item_hash, zone))
        if found is None:
            if len(self._orders) >= self._orders_max:
                self._orders.clear()
            found = self._orders[item_hash, zone] = tuple(self._owners.order(item_hash, zone, ORDER_MAX))
        assert roster is self._roster
        return [member for member in found if not self.avoids(member.node_id)]

    def avoid(self, node_id: str) -> None:
        """It has failed just now."""
        if node_id == self.node_id:
            return
        now_s = self._clock()
        until_s, for_s = self._avoided.get(node_id, (0.0, 0.0))
        if now_s < until_s:
            return
        for_s = min(2 * for_s, AVOID_MAX_S) if now_s - until_s < AVOID_MAX_S and for_s else AVOID_S
        self._avoided[node_id] = (now_s + for_s, for_s)

    def trust(self, node_id: str) -> None:
        """It has served well."""
        self._avoided.pop(node_id, None)

    def avoids(self, node_id: str) -> bool:
        found = self._avoided.get(node_id)
        return found is not None and self._clock() < found[0]

    def _read(self) -> None:
        found = self.fleet_state.read_roster()
        if found is None:
            return
        self._sequence, text = found
        try:
            roster = parse_roster(text)
        except ValueError:  # another program's control process, which is restarted soon: not looked at again
            return
        self._roster, self._owners = roster, Owners(roster)
        self._orders.clear()
        self._avoided = {name: until for name, until in self._avoided.items() if name in roster.by_id}
