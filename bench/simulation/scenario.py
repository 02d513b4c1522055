"""What is simulated, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WINDOW = 32  # blocks in flight
AHEAD = 64  # of the reader
PIECE_BYTES = 128 << 10  # what a node relays at once
BLOCK_BYTES = 8 << 20
NODE_LINK_BITS = 1e9  # per second; with 300 blocks a load takes 20 s, as one of 72 GB does over 29 Gbit/s


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load of one model by all nodes, each with a link of `node_link_bits` per second in and as much out.

    `origin_links`: the origin's link as a multiple of a node's. `window`, `ahead`: blocks in flight, and how far they
    may run ahead of the reader. `flight_pieces`: a connection holds as many between two links. Shares are of the nodes.

    Slow nodes' links have `slow_speed` of a link; `slow_known`: from the start, once nodes have found it (by the
    product's own `Slowness`), or never. Nodes that die fall silent at any moment of the load, and each who read from
    them notices within `notice_s`, at random. Late ones begin at any moment of an ideal load; with `late_join` they
    were no members before. Each zone has one link to the others, of `zone_egress` of its nodes' links together;
    `zone_owners`: the fleet knows the zones. `redis`: there are leases.
    """

    name: str
    nodes: int
    blocks: int = 300
    block_bytes: int = BLOCK_BYTES
    piece_bytes: int = PIECE_BYTES
    node_link_bits: float = NODE_LINK_BITS
    origin_links: float = 2.0
    window: int = WINDOW
    ahead: int = AHEAD
    flight_pieces: int = 2
    ask_s: float = 0.0
    slow_share: float = 0.0
    slow_speed: float = 0.25
    slow_known: Literal["always", "found", "never"] = "always"
    death_share: float = 0.0
    notice_s: tuple[float, float] = (0.5, 1.0)
    late_share: float = 0.0
    late_join: bool = False
    zones: int = 1
    zone_egress: float = 0.05
    zone_owners: bool = True
    redis: bool = True
    seed: int = 1

    @property
    def pieces(self) -> int:
        """Of a block."""
        return -(-self.block_bytes // self.piece_bytes)

    @property
    def step_s(self) -> float:
        return self.piece_bytes * 8 / self.node_link_bits

    @property
    def ideal_steps(self) -> float:
        """Until a load of all nodes could be over: by the origin's link or a node's, whichever takes longer."""
        return self.blocks * self.pieces / min(1.0, self.origin_links)


@dataclass(frozen=True, slots=True)
class Result:
    """`slowest` and `median`: the time of those nodes, from their own start, over the ideal; slow and dead nodes left
    out. `copies`: bytes that the origin sent, over the model's. `longest_chain`: relays between a node and the origin.
    """

    scenario: Scenario
    slowest: float
    median: float
    copies: float
    longest_chain: int
    took_s: float  # the simulation itself

    @property
    def slowest_s(self) -> float:
        return self.slowest * self.scenario.ideal_steps * self.scenario.step_s
