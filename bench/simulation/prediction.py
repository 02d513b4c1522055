"""How long one load will take, by the simulation: what a measurement of a real fleet is compared with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.simulation.load import Load
from bench.simulation.scenario import AHEAD, BLOCK_BYTES, WINDOW, Result, Scenario

BLOCKS_MAX = 1200  # more are not simulated: from there on, time grows evenly with the blocks


@dataclass(frozen=True, slots=True)
class Prediction:
    """`slowest_s`: until every node has all of it; `ideal_s`: until they could, by the slower of the two links."""

    slowest_s: float
    median_s: float
    ideal_s: float
    copies: float
    longest_chain: int

    @property
    def slowest(self) -> float:
        """Over the ideal."""
        return self.slowest_s / self.ideal_s


def predict(
    nodes: int,
    size_bytes: int,
    node_link: float,
    origin_link: float,
    block_bytes: int = BLOCK_BYTES,
    *,
    ask_s: float = 0.0,
    window: int = WINDOW,
    ahead: int = AHEAD,
    seed: int = 1,
) -> Prediction:
    """All nodes read one object of this size at once. Links are in bytes per second; `ask_s`: the time of an ask."""
    scenario = Scenario(
        "prediction",
        nodes,
        -(-size_bytes // block_bytes),
        block_bytes,
        node_link_bits=node_link * 8,
        origin_links=origin_link / node_link,
        ask_s=ask_s,
        window=window,
        ahead=ahead,
        seed=seed,
    )
    ideal_s = max(size_bytes / node_link, size_bytes / origin_link)
    short = replace(scenario, blocks=min(scenario.blocks, BLOCKS_MAX))
    found = Load(short).run()
    rest = scenario.blocks - short.blocks
    if rest:
        half = Load(replace(scenario, blocks=BLOCKS_MAX // 2)).run()
        slope = [(_s(found, one) - _s(half, one)) / (BLOCKS_MAX - BLOCKS_MAX // 2) for one in ("slowest", "median")]
    else:
        slope = [0.0, 0.0]
    shorter = size_bytes / (scenario.blocks * block_bytes)  # the last block may be
    slowest_s = (_s(found, "slowest") + rest * slope[0]) * shorter
    median_s = (_s(found, "median") + rest * slope[1]) * shorter
    return Prediction(slowest_s, median_s, ideal_s, found.copies, found.longest_chain)


def _s(result: Result, which: str) -> float:
    ratio: float = getattr(result, which)
    return ratio * result.scenario.ideal_steps * result.scenario.step_s
