"""How long a fleet will take to load a model that none of its nodes has. Pure.

How it works. In blocks' times on the narrower end of a node (its link, or its disk), a load of `blocks` takes

    max(blocks / origin's link, blocks x (1 + spread) + start)

where the origin's link is in nodes'. `start` is what it takes until every relay chain is under way, `spread` the share
of the links' time that is lost because no piece is there to be sent. Both grow with the nodes, and are read off
simulations of this fleet's own rule (`python -m bench simulate`), rounded up: from 64 blocks on, the forecast lies
between the simulated time of the slowest node and 4 % above it. It is too long, by up to a quarter, for fewer.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from math import log

BLOCK_BYTES = 8 << 20
SIMULATED_NODES_MAX = 2000
ORIGIN_START = 2.0  # blocks' times that the first blocks take through the chains, where the origin's link is narrow

# nodes: start in blocks' times, spread as a share
_SIMULATED = (
    (1, 0.0, 0.0),
    (2, 0.5, 0.0),
    (4, 1.5, 0.0),
    (8, 4.0, 0.001),
    (16, 5.0, 0.003),
    (32, 7.5, 0.017),
    (50, 8.0, 0.027),
    (100, 8.0, 0.041),
    (200, 8.0, 0.052),
    (500, 8.5, 0.059),
    (1000, 9.0, 0.06),
    (2000, 11.0, 0.06),
)


@dataclass(frozen=True, slots=True)
class Forecast:
    """`bound`: what takes the longest: "origin link", "node link" or "disk". `ideal_s`: that alone."""

    time_s: float
    ideal_s: float
    bound: str
    origin_bytes: int
    zone_bytes: int  # that cross from one zone to another


def forecast(
    nodes: int,
    size_bytes: int,
    node_link: float,
    origin_link: float,
    *,
    disk: float | None = None,
    zones: int = 1,
    block_bytes: int = BLOCK_BYTES,
) -> Forecast:
    """Until all nodes, that start together, have all of it. Links and disk are in bytes per second."""
    rate = min(node_link, disk or node_link)
    times = {"origin link": size_bytes / origin_link, "node link": size_bytes / node_link}
    if disk is not None:
        times["disk"] = size_bytes / disk
    bound = max(times, key=lambda name: times[name])
    start, spread = _losses(nodes)
    block_s = min(block_bytes, size_bytes) / rate
    origin_s = times["origin link"] + (ORIGIN_START * block_s if nodes > 1 else 0.0)
    node_s = size_bytes / rate * (1 + spread) + start * block_s
    return Forecast(max(origin_s, node_s), times[bound], bound, size_bytes, (zones - 1) * size_bytes)


def forecast_alone(
    nodes: int, size_bytes: int, node_link: float, origin_link: float, *, disk: float | None = None
) -> Forecast:
    """The same without a fleet: each node reads all of it from the origin, whose link they share."""
    times = {"origin link": nodes * size_bytes / origin_link, "node link": size_bytes / node_link}
    if disk is not None:
        times["disk"] = size_bytes / disk
    bound = max(times, key=lambda name: times[name])
    return Forecast(times[bound], times[bound], bound, nodes * size_bytes, 0)


def _losses(nodes: int) -> tuple[float, float]:
    """`start` and `spread`, between two simulated sizes by the logarithm of the nodes."""
    sizes = [size for size, _, _ in _SIMULATED]
    at = bisect_left(sizes, nodes)
    if at == len(sizes):
        return _SIMULATED[-1][1:]
    above, below = _SIMULATED[at], _SIMULATED[max(at - 1, 0)]
    share = 0.0 if above == below else log(nodes / below[0]) / log(above[0] / below[0])
    return below[1] + share * (above[1] - below[1]), below[2] + share * (above[2] - below[2])
