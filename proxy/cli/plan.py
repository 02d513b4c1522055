"""`warmstart plan`: estimates how long a fleet takes to load a model, and what the origin sends and charges."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from proxy.config.quantities import parse_rate, parse_size
from proxy.errors import ConfigInvalid
from proxy.fleet.forecast import BLOCK_BYTES, SIMULATED_NODES_MAX, Forecast, forecast, forecast_alone

_PRICE = re.compile(r"\s*([$€£]?)\s*(\d+(?:\.\d+)?)\s*/\s*([A-Za-z]+)\s*")
_Value = TypeVar("_Value")

ASSUMED = """\
Assumed: all nodes start at the same moment with empty caches; links are full duplex and carry no other traffic; only
the origin's link is shared; the origin serves any number of connections; each node's readers together keep 32 blocks
in flight. The fleet's time is simulated (python -m bench simulate) with blocks of 8 MiB and no dead or slow nodes: see
docs/fleet.md. Without a fleet every node reads everything from the origin, and all share its link."""


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one byte; `symbol` is the currency's, or empty."""

    per_byte: float
    symbol: str

    def of(self, size_bytes: int) -> float:
        return self.per_byte * size_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", required=True, metavar="N", help="how many nodes load it at once")
    parser.add_argument("--model", required=True, metavar="SIZE", help="size of the model, such as 72GB")
    parser.add_argument(
        "--node-link", required=True, metavar="RATE", help="link of each node, such as 100Gbit or 12.5GB/s"
    )
    parser.add_argument(
        "--origin-link", required=True, metavar="RATE", help="link that all nodes share, such as 20Gbit"
    )
    parser.add_argument("--disk", metavar="RATE", help="write rate of a node's cache disks, such as 2GB/s")
    parser.add_argument("--zones", default="1", metavar="N", help="number of zones the nodes are in, default 1")
    parser.add_argument("--egress-price", metavar="PRICE", help="price of data leaving the origin, such as 0.12/GB")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: argparse.Namespace) -> int:
    nodes, zones = _read("--nodes", arguments.nodes, _count), _read("--zones", arguments.zones, _count)
    size_bytes = _read("--model", arguments.model, parse_size)
    if size_bytes == 0:
        raise ConfigInvalid("--model: '0' is not a model's size; write a size such as 72GB")
    if zones > nodes:
        raise ConfigInvalid(f"--zones: {zones} zones for {nodes} nodes; use at most one zone per node")
    node_link = _read("--node-link", arguments.node_link, parse_rate)
    origin_link = _read("--origin-link", arguments.origin_link, parse_rate)
    disk = None if arguments.disk is None else _read("--disk", arguments.disk, parse_rate)
    price = None if arguments.egress_price is None else _read("--egress-price", arguments.egress_price, parse_price)
    fleet = forecast(nodes, size_bytes, node_link, origin_link, disk=disk, zones=zones)
    alone = forecast_alone(nodes, size_bytes, node_link, origin_link, disk=disk)
    if arguments.json:
        print(json.dumps(_values(nodes, size_bytes, fleet, alone, price), indent=1))
    else:
        print(_render(nodes, size_bytes, fleet, alone, price, zones))
    return 0


def parse_price(value: object) -> Price:
    """Return the price in `0.12/GB` or `$0.09/GiB`. Raises ValueError with the fix."""
    match = _PRICE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a price; write an amount per size, such as 0.12/GB")
    return Price(float(match[2]) / parse_size(f"1{match[3]}"), match[1])


def _count(value: object) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or int(value) == 0:
        raise ValueError("is not a count; write a whole number, 1 or more")
    return int(value)


def _read(flag: str, text: str, parse: Callable[[object], _Value]) -> _Value:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigInvalid(f"{flag}: {text!r} {error}") from None


def _values(nodes: int, size_bytes: int, fleet: Forecast, alone: Forecast, price: Price | None) -> dict[str, Any]:
    found: dict[str, Any] = {"nodes": nodes, "size_bytes": size_bytes}
    for name, told in (("fleet", fleet), ("alone", alone)):
        cost = None if price is None else round(price.of(told.origin_bytes), 2)
        found[name] = asdict(told) | {"egress_cost": cost}
    return found


def _render(nodes: int, size_bytes: int, fleet: Forecast, alone: Forecast, price: Price | None, zones: int) -> str:
    blocks = -(-size_bytes // BLOCK_BYTES)
    rows = [
        ("", "a fleet", "each on its own"),
        ("all nodes have it after", _time(fleet.time_s), _time(alone.time_s)),
        ("limited by", f"the {fleet.bound}", f"the {alone.bound}"),
        ("from the origin", _size(fleet.origin_bytes), _size(alone.origin_bytes)),
    ]
    if zones > 1:
        rows.append(("between zones", _size(fleet.zone_bytes), _size(0)))
    if price is not None:
        mine, theirs = (f"{price.symbol}{price.of(told.origin_bytes):,.2f}" for told in (fleet, alone))
        rows.append(("egress", mine, theirs))
    node_word = "node loads" if nodes == 1 else "nodes load"
    lines = [f"{nodes} {node_word} {_size(size_bytes)} ({blocks:,} block{'s' * (blocks > 1)} of 8 MiB).", ""]
    lines += [f"{name:24}{mine:>18}{theirs:>18}" for name, mine, theirs in rows]
    over = fleet.time_s / fleet.ideal_s - 1
    lines += ["", f"The {fleet.bound} alone would take {_time(fleet.ideal_s)}: relaying adds {over:.1%}.", ASSUMED]
    if zones > 1:
        lines.append("Each zone gets each block once, over a link at least 5 % as fast as its nodes' links together.")
    if nodes > SIMULATED_NODES_MAX:
        lines.append(f"Only up to {SIMULATED_NODES_MAX:,} nodes were simulated: the fleet's time is that of so many.")
    return "\n".join(lines)


def _time(time_s: float) -> str:
    if time_s < 100:
        return f"{time_s:.3g} s"
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def _size(size_bytes: int) -> str:
    """Render a size in powers of 1000, as links and prices are quoted."""
    amount, unit = float(size_bytes), "B"
    for larger in ("KB", "MB", "GB", "TB", "PB", "EB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:,.0f} {unit}" if amount >= 100 or amount == int(amount) else f"{amount:.3g} {unit}"
