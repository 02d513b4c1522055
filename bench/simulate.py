"""The fleet's rule on many nodes that nobody has at hand: the product's own chains and owners over simulated links.

How it works. `bench/simulation` has the links; whom a node reads from, `proxy/fleet` decides. Every load is told as a
ratio to the ideal: the size over the origin's link or over a node's, whichever takes longer. `load` is all nodes at
once, well, on an origin's link of two nodes'; each other scenario changes one thing. Slow and dead nodes are not in the
ratios; late nodes count from their own start.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import Row
from bench.simulation.load import Load
from bench.simulation.plot import draw
from bench.simulation.scenario import Result, Scenario

QUESTION = "How long does a load take on a fleet of N nodes, simulated, and how often does the origin send the model?"

NODES = (2, 8, 50, 200, 2000)
QUICK_NODES = (8, 50)
CHURN_NODES = 200
QUICK_CHURN_NODES = 50
LOAD = Scenario("load", CHURN_NODES)
CHURN = (
    replace(LOAD, name="origin's link as a node's", origin_links=1.0),
    replace(LOAD, name="origin's link 1/5 of a node's", origin_links=0.2),
    replace(LOAD, name="asks take 10 ms", ask_s=0.01),
    replace(LOAD, name="5 % slow, known", slow_share=0.05),
    replace(LOAD, name="5 % slow, found out", slow_share=0.05, slow_known="found"),
    replace(LOAD, name="5 % slow, unknown", slow_share=0.05, slow_known="never"),
    replace(LOAD, name="1 % die", death_share=0.01),
    replace(LOAD, name="5 % die", death_share=0.05),
    replace(LOAD, name="5 % die, no Redis", death_share=0.05, redis=False),
    replace(LOAD, name="half start late", late_share=0.5),
    replace(LOAD, name="half join late", late_share=0.5, late_join=True),
    replace(LOAD, name="half join late, no Redis", late_share=0.5, late_join=True, redis=False),
    replace(LOAD, name="3 zones", zones=3),
    replace(LOAD, name="3 zones, 5 % die", zones=3, death_share=0.05),
    replace(LOAD, name="3 zones, not told", zones=3, zone_owners=False),
    replace(LOAD, name="3 times as many blocks", blocks=900),
    replace(LOAD, name="16 ahead, as one stream", window=16, ahead=16),
    replace(LOAD, name="window of 8", window=8, ahead=64),
    replace(LOAD, name="window of 64, 128 ahead", window=64, ahead=128),
    replace(LOAD, name="pieces of 1 MiB", piece_bytes=1 << 20),
)
DEAR = ("3 zones, not told",)  # takes many times the ideal to simulate, too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--nodes", type=_numbers, metavar="N,N", help=f"sizes; default {NODES}")
    parser.add_argument("--blocks", type=int, metavar="N", help=f"of 8 MiB; default {LOAD.blocks}")
    parser.add_argument("--churn-nodes", type=int, metavar="N", help=f"of the other scenarios; default {CHURN_NODES}")
    parser.add_argument("--all", action="store_true", help=f"with {', '.join(DEAR)}, which takes half a minute more")
    parser.add_argument("--only", metavar="WORD", help="scenarios whose name has it")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each; the worst is told")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the result")


def measure(quick: bool) -> list[Row]:
    scenarios = [each for each in _scenarios(quick, None, None, None) if each.name not in DEAR]
    return [_row(result) for result in _results(scenarios, 1)]


def measure_with(arguments: argparse.Namespace) -> list[Row]:
    scenarios = _scenarios(arguments.quick, arguments.nodes, arguments.blocks, arguments.churn_nodes)
    scenarios = [each for each in scenarios if arguments.all or each.name not in DEAR]
    scenarios = [each for each in scenarios if arguments.only is None or arguments.only in each.name]
    results = list(_results(scenarios, arguments.seeds))
    if arguments.plot is not None:
        arguments.plot.write_text(draw(results))
    return [_row(result) for result in results]


def _scenarios(
    quick: bool, nodes: tuple[int, ...] | None, blocks: int | None, churn_nodes: int | None
) -> list[Scenario]:
    found = [replace(LOAD, nodes=number) for number in nodes or (QUICK_NODES if quick else NODES)]
    number = churn_nodes or (QUICK_CHURN_NODES if quick else CHURN_NODES)
    found += [replace(each, nodes=number) for each in CHURN]
    if blocks:
        found = [replace(each, blocks=blocks * each.blocks // LOAD.blocks) for each in found]
    return found


def _results(scenarios: list[Scenario], seeds: int) -> Iterator[Result]:
    for scenario in scenarios:
        print(f"{scenario.name}, {scenario.nodes} nodes", file=sys.stderr)
        runs = [Load(replace(scenario, seed=seed)).run() for seed in range(1, seeds + 1)]
        worst = max(runs, key=lambda run: run.slowest)
        yield replace(worst, copies=max(run.copies for run in runs), took_s=sum(run.took_s for run in runs))


def _row(result: Result) -> Row:
    return {
        "scenario": result.scenario.name,
        "nodes": result.scenario.nodes,
        "slowest / ideal": f"{result.slowest:.3f}",
        "median / ideal": f"{result.median:.3f}",
        "origin copies": f"{result.copies:.4f}",
        "longest chain": result.longest_chain,
        "simulated in s": f"{result.took_s:.1f}",
    }


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))
