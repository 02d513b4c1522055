"""The owner's block directory: answers asks for the blocks that this node owns. One process of the node has it.

How it works. The first ask for a block begins its chain, and a fill id that stands for it; the id is written in the
fleet state, so that the node's workers know it for their own when the first GET comes: the fill itself is theirs to
begin. Whoever asks is an owner's business alone: a node that was asked acts as the owner, whatever it thinks itself,
for those who ask may know other members. An ask that names nodes it has tried goes on from there: to this node, else to
one that should have the whole block by now, under a fill id that is nobody's: only a whole block is served then. A
chain is forgotten a minute after its last ask.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from proxy.fleet.chains import Chain, is_head
from proxy.fleet.fill_ids import REGION, ZONE, new_fill_id
from proxy.fleet.owners import hash_block, hash_name
from proxy.fleet.protocol import Ask, NamedSource
from proxy.fleet.state import UPLOADS, FleetState

FORGET_S = 60.0
CHAINS_MAX = 200_000
WHOLE_AFTER_S = 5.0  # a node that asked so long ago should have the block, or it says that it hasn't


class _Kept:
    __slots__ = ("asked_s", "chain", "fill_id", "since_s")

    def __init__(self, node_id: str, level: int) -> None:
        self.chain: Chain[str] = Chain(node_id)
        self.fill_id = new_fill_id(level)
        self.asked_s = 0.0
        self.since_s: dict[str, float] = {}  # when each node was given a source


class BlockDirectory:
    """`clock` counts seconds, from whenever."""

    def __init__(self, node_id: str, fleet_state: FleetState, clock: Callable[[], float] = time.monotonic) -> None:
        self._node_id = node_id
        self._fleet_state = fleet_state
        self._clock = clock
        self._kept: OrderedDict[tuple[bytes, int, int], _Kept] = OrderedDict()  # the one asked last at the end
        self._uploads: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def answer(self, query: Mapping[str, str], caller: str) -> dict[str, Any]:
        """To the query of an ask, by the node that sent it. Raises ValueError."""
        return self.name(Ask.parse(query), caller).render()

    def name(self, ask: Ask, asker: str) -> NamedSource:
        """The source for this ask. Raises ValueError for a level that has no tree."""
        if ask.level not in (REGION, ZONE):
            raise ValueError(f"no tree has the level {ask.level}")
        now_s = self._clock()
        self._forget(now_s)
        kept, block_hash = self._keep(ask), hash_block(ask.digest, ask.index)
        fill_id = kept.fill_id
        kept.asked_s = now_s
        self._uploads[asker] = ask.uploads
        self._fleet_state.own(block_hash + ask.level, kept.fill_id)
        if ask.tried or asker in kept.chain:
            source = kept.chain.reattach(asker, ask.tried, lambda node: self._is_whole(kept, node, now_s))
            if source != self._node_id:
                # It is only thought to have it all, and may stand behind this very asker: it must not relay.
                fill_id = new_fill_id(ask.level)
        else:
            head = is_head(hash_name(asker), block_hash)
            source = kept.chain.attach(asker, self._load, head=head, slow=ask.slow)
        kept.since_s[asker] = now_s
        return NamedSource(source, fill_id)

    def _load(self, node_id: str) -> int:
        if node_id == self._node_id:
            return self._fleet_state.total(UPLOADS)
        return self._uploads.get(node_id, 0)

    def _is_whole(self, kept: _Kept, node_id: str, now_s: float) -> bool:
        return now_s - kept.since_s.get(node_id, now_s) >= WHOLE_AFTER_S

    def _keep(self, ask: Ask) -> _Kept:
        key = (ask.digest, ask.index, ask.level)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept(self._node_id, ask.level)
        self._kept.move_to_end(key)
        return kept

    def _forget(self, now_s: float) -> None:
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if now_s - oldest.asked_s <= FORGET_S and len(self._kept) <= CHAINS_MAX:
                return
            self._kept.popitem(last=False)
