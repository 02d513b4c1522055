"""The links: which transfer moves its next piece in a step. NumPy, one array element for each running transfer.

How it works. A transfer may send a piece that its source has and that it has not sent, while fewer than
`flight_pieces` of its pieces are between the two links. In each step every source's link takes its share of pieces,
from those of its transfers that waited longest (so the link is shared evenly among all that can use it, and none of it
is lost while anybody can); then every receiver's link takes in those that were sent first. What a receiver has taken
in, it can send on in the next step. Links of less than a piece for each step save up; the origin and the links between
zones may move several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
_ROUNDING = 1e-9
_PIECE = 1.0 - _ROUNDING
_NEVER = np.int64(1) << 60
_COLUMNS = ("source", "target", "block", "source_at", "target_at", "sent", "passed", "got", "moved", "ready")


class Network:
    """Nodes are numbered from 0; the origin's number is the one behind the last."""

    def __init__(
        self,
        speeds: Sequence[float],
        blocks: int,
        pieces: int,
        origin_links: float,
        flight_pieces: int,
        zones: Sequence[int],
        zone_links: Sequence[float],
    ) -> None:
        self.nodes, self.blocks, self.pieces = len(speeds), blocks, pieces
        self.origin = self.nodes
        self.have = np.zeros((self.nodes + 1) * blocks, np.int64)
        self.have[self.origin * blocks :] = pieces
        self.uploads = np.zeros(self.nodes + 1, np.int64)
        self.origin_pieces = 0
        self.count = 0
        self._flight = flight_pieces
        self._columns: dict[str, Ints] = {name: np.zeros(1024, np.int64) for name in _COLUMNS}
        self._live = dict(self._columns)  # the part of each column that is in use
        self._best = np.zeros(self.nodes + 1, np.int64)
        self._speeds = np.array([*speeds, 0.0])
        self._credit_out = np.zeros(self.nodes + 1)
        self._credit_in = np.zeros(self.nodes + 1)
        self._even = bool((self._speeds[:-1] == 1.0).all())
        self._origin_links, self._origin_credit = origin_links, 0.0
        self._zones = np.array([*zones, -1])
        self._zone_links = np.array(zone_links)
        self._zone_credit = np.zeros(len(zone_links))

    def start(self, source: int, target: int, block: int, ready_step: int) -> None:
        """A transfer of what the target lacks."""
        if self.count == len(self._columns["source"]):
            self._columns = {name: np.concatenate([column, column]) for name, column in self._columns.items()}
        at = self._at(target, block)
        got = self.have[at]
        local = self._zone_links.size == 0 or source == self.origin or self._zones[source] == self._zones[target]
        values = (source, target, block, self._at(source, block), at, got, got, got, -1, ready_step)
        for name, value in zip(_COLUMNS, values, strict=True):
            self._columns[name][self.count] = value
        if local:
            self._columns["passed"][self.count] = self.pieces
        self.uploads[source] += 1
        self._use(self.count + 1)

    def _at(self, node: int, block: int) -> int:
        return node * self.blocks + block

    def whole(self, node: int, block: int) -> bool:
        return bool(self.have[self._at(node, block)] == self.pieces)

    def received_bytes(self, piece_bytes: int) -> list[int]:
        """By each node, so far."""
        found = self.have[: self.nodes * self.blocks].reshape(self.nodes, self.blocks).sum(axis=1) * piece_bytes
        return [int(each) for each in found]

    def fail(self, node: int) -> list[tuple[int, int]]:
        """A node dies: what it received is over, what it sent stands still. Who read what from it."""
        self._speeds[node] = 0.0
        self._even = False
        live = slice(0, self.count)
        readers = np.flatnonzero(self._columns["source"][live] == node)
        found = [(int(self._columns["target"][i]), int(self._columns["block"][i])) for i in readers]
        self._remove(np.flatnonzero(self._columns["target"][live] == node))
        return found

    def stop(self, source: int, target: int, block: int) -> bool:
        """Whether there was such a transfer."""
        live = slice(0, self.count)
        found = np.flatnonzero(
            (self._columns["target_at"][live] == self._at(target, block)) & (self._columns["source"][live] == source)
        )
        self._remove(found)
        return len(found) > 0

    def step(self, now: int) -> list[tuple[int, int]]:
        """One step; the transfers that are complete, as (target, block)."""
        if self.count == 0:
            self._save()
            return []
        self._send(now)
        if self._zone_links.size:
            self._pass(now)
        done = self._receive()
        found = [(int(self._columns["target"][i]), int(self._columns["block"][i])) for i in done]
        self._remove(done)
        return found

    def _save(self) -> None:
        self._origin_credit = min(self._origin_credit + self._origin_links, 1.0 + self._origin_links)
        if not self._even:
            for credit in (self._credit_out, self._credit_in):
                np.minimum(credit + self._speeds, 1.0 + self._speeds, out=credit)
        if self._zone_links.size:
            np.minimum(self._zone_credit + self._zone_links, 1.0 + self._zone_links, out=self._zone_credit)

    def _send(self, now: int) -> None:
        self._save()
        source, sent, got, moved = (self._live[name] for name in ("source", "sent", "got", "moved"))
        able = self.have[self._live["source_at"]] > sent
        able &= sent - got < self._flight
        able &= self._live["ready"] <= now
        if not self._even:
            able &= (self._credit_out[source] >= _PIECE) | (source == self.origin)
        chosen = able.nonzero()[0]
        from_origin = chosen[source[chosen] == self.origin]
        chosen = self._first(chosen, source, moved)
        chosen = chosen[source[chosen] != self.origin]
        sent[chosen] += 1
        moved[chosen] = now
        if not self._even:
            self._credit_out[source[chosen]] -= 1.0
        count = min(int(self._origin_credit + _ROUNDING), len(from_origin))
        if count:
            longest = from_origin[np.argsort(moved[from_origin], kind="stable")[:count]]
            sent[longest] += 1
            moved[longest] = now
            self._origin_credit -= count
            self.origin_pieces += count

    def _pass(self, now: int) -> None:
        """From zone to zone."""
        sent, passed, source, moved = (self._live[name] for name in ("sent", "passed", "source", "moved"))
        waiting = np.flatnonzero(sent > passed)
        for zone in range(len(self._zone_links)):
            mine = waiting[self._zones[source[waiting]] == zone]
            count = min(int(self._zone_credit[zone] + _ROUNDING), len(mine))
            if count:
                longest = mine[np.argsort(moved[mine], kind="stable")[:count]]
                passed[longest] += 1
                self._zone_credit[zone] -= count

    def _receive(self) -> Ints:
        target, sent, got, moved = (self._live[name] for name in ("target", "sent", "got", "moved"))
        arrived = np.minimum(sent, self._live["passed"]) if self._zone_links.size else sent
        able = arrived > got
        if not self._even:
            able &= self._credit_in[target] >= _PIECE
        chosen = self._first(able.nonzero()[0], target, moved)
        got[chosen] += 1
        self.have[self._live["target_at"][chosen]] = got[chosen]
        if not self._even:
            self._credit_in[target[chosen]] -= 1.0
        complete: Ints = chosen[got[chosen] == self.pieces]
        return complete

    def _first(self, chosen: Ints, node: Ints, moved: Ints) -> Ints:
        """Of each node's transfers among the chosen, the one that moved longest ago."""
        if not chosen.size:
            return chosen
        best = self._best
        best.fill(_NEVER)
        np.minimum.at(best, node[chosen], (moved[chosen] + 1) * (1 << 24) + chosen)
        found: Ints = best[best < _NEVER] & ((1 << 24) - 1)
        return found

    def _remove(self, gone: Ints) -> None:
        """The last ones take the places of those that are gone."""
        for i in sorted((int(each) for each in gone), reverse=True):
            self.uploads[self._columns["source"][i]] -= 1
            last = self.count - 1
            for column in self._columns.values():
                column[i] = column[last]
            self._use(last)

    def _use(self, count: int) -> None:
        self.count = count
        self._live = {name: column[:count] for name, column in self._columns.items()}
