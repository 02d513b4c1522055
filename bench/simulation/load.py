"""All nodes read one model: their windows, deaths and late starts; from a scenario to a result."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

from bench.simulation.asks import Asks
from bench.simulation.judges import Judges
from bench.simulation.leases import Leases
from bench.simulation.network import Network
from bench.simulation.scenario import Result, Scenario
from proxy.fleet.members.heartbeat import EXPIRES_S
from proxy.relay.relay import HOLDER_PAUSE_S

STEPS_MAX = 40  # of the ideal: something stands still
_NOBODY = -1


@dataclass(frozen=True, slots=True)
class _Fill:
    """`directory`: the node that named the source, as its zone's owner or the region's."""

    source: int
    directory: int
    level: str


class Load:
    """One run."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        nodes = scenario.nodes
        self._random = random.Random(scenario.seed)
        self._zones = [node % scenario.zones for node in range(nodes)]
        chance = self._random.sample(range(nodes), nodes)
        self._slow = set(chance[: round(nodes * scenario.slow_share)])
        self._late = set(chance[nodes - round(nodes * scenario.late_share) :])
        self._dying = set(chance[len(self._slow) : len(self._slow) + round(nodes * scenario.death_share)])
        self._network = Network(
            [scenario.slow_speed if node in self._slow else 1.0 for node in range(nodes)],
            scenario.blocks,
            scenario.pieces,
            scenario.origin_links,
            scenario.flight_pieces,
            self._zones,
            [scenario.zone_egress * nodes / scenario.zones] * scenario.zones if scenario.zones > 1 else [],
        )
        self._asks = Asks(scenario, self._network, self._zones, self._slow if scenario.slow_known == "always" else ())
        self._dead: set[int] = set()
        self._noticed: dict[int, set[int]] = {}  # of a node: the dead that it has met
        self._expired: set[int] = set()  # the dead that all know of
        self._waiting = set(range(nodes))
        self._leases = Leases()
        self._fills: dict[tuple[int, int], _Fill] = {}  # running, of a node and a block
        self._failed: dict[tuple[int, int, int], set[int]] = {}  # of a node, a block and a directory: sources that died
        self._depth: dict[tuple[int, int], int] = {}  # relays up to the origin
        self._next = [0] * nodes
        self._reader = [0] * nodes
        self._flying = [0] * nodes
        self._began: dict[int, int] = {}
        self._ended: dict[int, int] = {}
        self._now = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._event_count = 0
        self._hungry: set[int] = set()

    def run(self) -> Result:
        began_s = time.monotonic()
        scenario = self.scenario
        self._plan()
        steps_max = STEPS_MAX * scenario.ideal_steps
        while self._waiting:
            while self._events and self._events[0][0] <= self._now:
                heapq.heappop(self._events)[2]()
            hungry = sorted(self._hungry)
            self._hungry.clear()
            self._random.shuffle(hungry)
            for node in hungry:
                self._feed(node)
            for node, block in self._network.step(self._now):
                self._complete(node, block)
            self._now += 1
            if self._now > steps_max:
                raise RuntimeError(f"{scenario.name}: nothing has moved for long")
        ratios = [
            (ended - self._began[node]) / scenario.ideal_steps
            for node, ended in self._ended.items()
            if node not in self._slow and node not in self._dead
        ]
        copies = self._network.origin_pieces / (scenario.blocks * scenario.pieces)
        return Result(
            scenario, max(ratios), median(ratios), copies, max(self._depth.values()), time.monotonic() - began_s
        )

    def _plan(self) -> None:
        scenario = self.scenario
        early = [node for node in range(scenario.nodes) if node not in self._late]
        if scenario.late_join:
            self._asks.join(early)
        for node in range(scenario.nodes):
            at = int(self._random.random() * scenario.ideal_steps) if node in self._late else 0
            self._at(at, partial(self._begin, node))
        for node in sorted(self._dying):
            at = int((0.05 + 0.9 * self._random.random()) * scenario.ideal_steps)
            self._at(at, partial(self._die, node))
        if self._slow and scenario.slow_known == "found":
            self._judges = Judges(scenario.nodes)
            self._at(self._steps(1.0), self._judge)

    def _at(self, step: int, action: Callable[[], None]) -> None:
        self._event_count += 1
        heapq.heappush(self._events, (step, self._event_count, action))

    def _begin(self, node: int) -> None:
        self._began[node] = self._now
        if self.scenario.late_join and node in self._late:
            self._asks.join(
                [each for each in range(self.scenario.nodes) if each in self._began or each not in self._late]
            )
        self._hungry.add(node)

    def _judge(self) -> None:
        """Once a second, as nodes do: who is slow?"""
        now_s = self._now * self.scenario.step_s
        slow = self._judges.slow(now_s, self._network.received_bytes(self.scenario.piece_bytes), self._waiting)
        if slow != self._asks.slow:
            self._asks.slow = slow
            self._asks.join(range(self.scenario.nodes))
        self._at(self._now + self._steps(1.0), self._judge)

    def _feed(self, node: int) -> None:
        scenario = self.scenario
        if node in self._dead or node not in self._began:
            return
        self._advance(node)
        while self._flying[node] < scenario.window and self._next[node] < min(
            scenario.blocks, self._reader[node] + scenario.ahead
        ):
            block = self._next[node]
            self._next[node] += 1
            if not self._network.whole(node, block):
                self._flying[node] += 1
                self._want(node, block)

    def _want(self, node: int, block: int) -> None:
        """Ask for it, where nothing brings it already."""
        if node in self._dead or (node, block) in self._fills or self._network.whole(node, block):
            return
        owner, level = self._directory(node, block)
        if owner == node:
            self._start_at_origin(node, block)
        elif owner in self._dead:
            self._fills[node, block] = _Fill(owner, owner, level)
            self._see_death_later(owner, node, block)
        else:
            self._own(owner, block, self._noticed.get(node, set()))
            source = self._asks.source(owner, node, block, level, self._failed.get((node, block, owner), ()))
            self._start(source, node, block, owner, level)

    def _start_at_origin(self, node: int, block: int) -> None:
        """Under the lease, where there is Redis; or from the node that has it."""
        tried = self._failed.get((node, block, node), set())
        held = None
        if self.scenario.redis:
            instead = next(iter(tried), None)
            held = self._leases.take(block, node, self._now * self.scenario.step_s, instead)
        if held is None:
            self._start(self._network.origin, node, block, node, "region")
        elif held.node in tried and not held.done:
            self._fills[node, block] = _Fill(_NOBODY, node, "region")
            self._at(self._now + self._steps(HOLDER_PAUSE_S), partial(self._retry, node, block))
        else:
            self._start(held.node, node, block, node, "region")

    def _retry(self, node: int, block: int) -> None:
        fill = self._fills.get((node, block))
        if fill is not None and fill.source == _NOBODY:
            del self._fills[node, block]
            self._want(node, block)

    def _own(self, node: int, block: int, gone: set[int]) -> None:
        """A node is asked for a block as its owner: it reads as an owner does, behind nobody who may stand behind it.

        The ask says which nodes the asker found gone.
        """
        if gone:
            self._noticed.setdefault(node, set()).update(gone)
        fill = self._fills.get((node, block))
        if fill is not None and (fill.directory, fill.level) != self._directory(node, block):
            self._network.stop(fill.source, node, block)
            del self._fills[node, block]
        self._want(node, block)

    def _directory(self, node: int, block: int) -> tuple[int, str]:
        """Which node to ask, and whether as the zone's owner or the region's; itself: the origin is to be read."""
        without = self._noticed.get(node, set()) | self._expired
        owner = self._asks.owner(block, self._asks.zone(node), without)
        if owner != node:
            return owner, "zone"
        return self._asks.owner(block, None, without), "region"

    def _start(self, source: int, node: int, block: int, directory: int, level: str) -> None:
        self._fills[node, block] = _Fill(source, directory, level)
        above = 0 if source == self._network.origin else self._depth.get((source, block), 0)
        self._depth[node, block] = above + 1
        self._network.start(source, node, block, self._now + self._steps(self.scenario.ask_s))
        if source in self._dead:
            self._see_death_later(source, node, block)

    def _complete(self, node: int, block: int) -> None:
        del self._fills[node, block]
        self._leases.end(block, node, self._now * self.scenario.step_s)
        if block < self._next[node]:
            self._flying[node] -= 1
        self._hungry.add(node)

    def _advance(self, node: int) -> None:
        while self._reader[node] < self.scenario.blocks and self._network.whole(node, self._reader[node]):
            self._reader[node] += 1
        if self._reader[node] == self.scenario.blocks:
            self._ended[node] = self._now
            self._waiting.discard(node)

    def _die(self, node: int) -> None:
        self._dead.add(node)
        self._leases.die(node, self._now * self.scenario.step_s)
        self._waiting.discard(node)
        for reader, block in self._network.fail(node):
            self._see_death_later(node, reader, block)
        self._at(self._now + self._steps(EXPIRES_S), lambda: self._expired.add(node))

    def _see_death_later(self, source: int, reader: int, block: int) -> None:
        delay_s = self._random.uniform(*self.scenario.notice_s)
        self._at(self._now + self._steps(delay_s), lambda: self._see_death(source, reader, block))

    def _see_death(self, source: int, reader: int, block: int) -> None:
        self._noticed.setdefault(reader, set()).add(source)
        fill = self._fills.get((reader, block))
        if reader in self._dead or fill is None or fill.source != source:
            return
        self._network.stop(source, reader, block)
        if source != fill.directory:
            self._failed.setdefault((reader, block, fill.directory), set()).add(source)
        del self._fills[reader, block]
        self._want(reader, block)

    def _steps(self, time_s: float) -> int:
        return round(time_s / self.scenario.step_s)
