"""Whom each node reads a block from: the product's owners and chains, with the fleet's desks in one place.

How it works. A directory belongs to one node and knows what its askers told it: the number of their running uploads
came with their last ask. A node asks the owner in its zone; a zone's owner asks the region's, at a chain apart; the
region's reads from the origin. Where an owner is known to be dead, the next in the hash order takes its place.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256

import numpy as np

from bench.simulation.network import Network
from bench.simulation.scenario import Scenario
from proxy.fleet.chains import Chain, is_head
from proxy.fleet.owners import Owners, hash_block, hash_name
from proxy.fleet.roster import Member, Roster

_CAPACITY_BYTES = 1 << 40


class Asks:
    """`slow`: nodes that the fleet knows to be slow."""

    def __init__(self, scenario: Scenario, network: Network, zones: list[int], slow: Collection[int]) -> None:
        self._scenario, self._network, self._zones = scenario, network, zones
        self.slow = frozenset(slow)
        self._names = [sha256(f"{scenario.seed}/{node}".encode()).hexdigest()[:32] for node in range(scenario.nodes)]
        self._numbers = {name: node for node, name in enumerate(self._names)}
        self._hashes = [hash_name(name) for name in self._names]
        digest = sha256(f"model/{scenario.seed}".encode()).digest()
        self._item_hashes = [hash_block(digest, block) for block in range(scenario.blocks)]
        self._told = np.zeros((scenario.nodes, scenario.nodes), np.int16)  # owner, node: uploads
        self._chains: dict[tuple[int, int, str], Chain[int]] = {}
        self.join(range(scenario.nodes))

    def join(self, members: Collection[int]) -> None:
        """The members change."""
        roster = Roster(tuple(self._member(node) for node in members))
        self._owners = Owners(roster)
        self._orders: dict[tuple[int, str | None], list[int]] = {}

    def owner(self, block: int, zone: str | None, without: Collection[int]) -> int:
        """The first that is not among `without`."""
        order = self._orders.get((block, zone))
        if order is None:
            order = [self._numbers[member.node_id] for member in self._owners.order(self._item_hashes[block], zone)]
            self._orders[block, zone] = order
        return next(node for node in order if node not in without)

    def zone(self, node: int) -> str | None:
        """Whose owner a node asks; None: the region's."""
        return f"zone-{self._zones[node]}" if self._scenario.zones > 1 and self._scenario.zone_owners else None

    def source(self, owner: int, asker: int, block: int, level: str, tried: Collection[int]) -> int:
        """What the desk answers. `tried`: sources that it named and that failed the asker."""
        chain = self._chains.get((owner, block, level))
        if chain is None:
            chain = self._chains[owner, block, level] = Chain(owner)
        self._told[owner, asker] = self._network.uploads[asker]
        self._told[owner, owner] = self._network.uploads[owner]
        if not tried:
            head = is_head(self._hashes[asker], self._item_hashes[block])
            return chain.attach(asker, self._told[owner].item, head=head, slow=asker in self.slow)
        found = chain.reattach(asker, tried, lambda node: self._network.whole(node, block))
        assert found is not None, "a directory that answers is a source"
        return found

    def _member(self, node: int) -> Member:
        url = f"http://node-{node}"
        zone = f"zone-{self._zones[node]}"
        return Member(self._names[node], url, url, zone, _CAPACITY_BYTES, slow=node in self.slow)
