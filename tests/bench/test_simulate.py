"""The simulated fleet: links keep their limits, bytes arrive once, the ratios are what the rule is known for."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bench import simulate
from bench.__main__ import main
from bench.simulation.leases import Held, Leases
from bench.simulation.load import Load
from bench.simulation.network import Network
from bench.simulation.prediction import predict
from bench.simulation.scenario import Result, Scenario
from proxy.relay.lease import LEASE_S

SMALL = Scenario("small", 24, blocks=60)


def run(**changes: object) -> Result:
    return Load(replace(SMALL, **changes)).run()  # type: ignore[arg-type]


def network(speeds: list[float], *, origin_links: float = 2.0, zones: bool = False) -> Network:
    """Two blocks of ten pieces."""
    where = [node % 2 for node in range(len(speeds))]
    return Network(speeds, 2, 10, origin_links, 2, where, [0.5, 0.5] if zones else [])


def steps_until(links: Network, *wanted: tuple[int, int]) -> int:
    """How many until these blocks are there."""
    missing, now = set(wanted), 0
    while missing:
        missing -= set(links.step(now))
        now += 1
        assert now < 1000
    return now


def test_a_link_moves_one_piece_a_step_however_many_share_it() -> None:
    links = network([1.0, 1.0, 1.0])
    links.start(links.origin, 0, 0, 0)
    assert steps_until(links, (0, 0)) == 10
    links.start(0, 1, 0, 0)
    links.start(0, 2, 0, 0)
    assert steps_until(links, (1, 0), (2, 0)) == 20
    assert links.origin_pieces == 10
    assert links.count == links.uploads.sum() == 0


def test_a_receiver_relays_what_it_has_while_it_receives() -> None:
    links = network([1.0, 1.0, 1.0])
    links.start(links.origin, 0, 0, 0)
    links.start(0, 1, 0, 0)
    links.start(1, 2, 0, 0)
    assert steps_until(links, (0, 0), (1, 0), (2, 0)) == 12


def test_a_slow_links_share_and_the_origins_are_kept() -> None:
    links = network([0.25, 1.0], origin_links=0.5)
    links.start(links.origin, 1, 0, 0)
    assert steps_until(links, (1, 0)) == pytest.approx(20, abs=2)
    links.start(1, 0, 0, 0)
    assert steps_until(links, (0, 0)) == pytest.approx(40, abs=5)


def test_zones_share_their_link() -> None:
    links = network([1.0, 1.0, 1.0], zones=True)
    links.start(links.origin, 0, 0, 0)
    steps_until(links, (0, 0))
    links.start(0, 1, 0, 0)
    assert steps_until(links, (1, 0)) == pytest.approx(20, abs=3)
    links.start(0, 2, 0, 0)
    assert steps_until(links, (2, 0)) == 10


def test_a_dead_node_sends_nothing_and_its_readers_are_told() -> None:
    links = network([1.0, 1.0])
    links.start(links.origin, 0, 0, 0)
    links.start(0, 1, 0, 0)
    for now in range(5):
        links.step(now)
    assert links.fail(0) == [(1, 0)]
    had = links.received_bytes(1)[1]
    assert not any(links.step(now) for now in range(5, 50))
    assert links.received_bytes(1)[1] <= had + 2  # what was on its way
    assert links.stop(0, 1, 0)
    links.start(links.origin, 1, 0, 50)
    steps_until(links, (1, 0))


def test_every_block_leaves_the_origin_once_and_all_have_it_soon() -> None:
    found = run()
    assert found.copies == 1.0
    assert 1.0 <= found.median <= found.slowest < 1.15
    assert 2 <= found.longest_chain <= SMALL.nodes


def test_the_same_seed_gives_the_same_load() -> None:
    assert run().slowest == run().slowest != run(seed=2).slowest


def test_where_the_origins_link_is_the_narrow_one_it_is_all_that_counts() -> None:
    found = run(origin_links=0.25)
    assert found.copies == 1.0
    assert found.slowest < 1.03


@pytest.mark.parametrize("seed", range(1, 7))
def test_deaths_cost_little_and_stop_nobody(seed: int) -> None:
    found = run(death_share=0.125, seed=seed, node_link_bits=0.2e9)  # a load of 20 s, as in the reference
    assert 1.0 <= found.copies < 1.1
    assert found.slowest < 1.35


@pytest.mark.parametrize("seed", range(1, 4))
def test_deaths_in_zones_stop_nobody(seed: int) -> None:
    found = run(death_share=0.125, zones=3, zone_egress=0.5, seed=seed, node_link_bits=0.2e9)
    assert 1.0 <= found.copies < 1.1
    assert found.slowest < 1.6


def test_slow_nodes_that_are_known_hold_up_nobody() -> None:
    known, unknown = run(slow_share=0.1, blocks=150), run(slow_share=0.1, blocks=150, slow_known="never")
    assert known.slowest < 1.25 < unknown.slowest
    assert known.copies == 1.0


def test_a_fleet_finds_its_slow_nodes_out() -> None:
    changes = {"slow_share": 0.1, "blocks": 240, "node_link_bits": 0.8e9}
    assert run(slow_known="found", **changes).slowest < 0.9 * run(slow_known="never", **changes).slowest


def test_late_starters_find_everything_in_the_fleet() -> None:
    found = run(late_share=0.5)
    assert found.copies == 1.0
    assert found.slowest < 1.3


def test_a_new_owner_finds_the_block_by_its_lease_and_without_redis_fetches_it_again() -> None:
    assert run(late_share=0.5, late_join=True).copies == 1.0
    assert run(late_share=0.5, late_join=True, redis=False).copies > 1.05


def test_a_lease_names_its_holder_until_it_is_over() -> None:
    leases = Leases()
    assert leases.take(7, 1, 0.0) is None
    assert leases.take(7, 1, 0.0) is None
    assert leases.take(7, 2, 1.0) == Held(1, done=False)
    leases.die(1, 2.0)
    assert leases.take(7, 2, 2.0 + LEASE_S - 0.1) == Held(1, done=False)
    assert leases.take(7, 2, 2.0 + LEASE_S) is None
    leases.end(7, 1, 7.0)
    assert leases.take(7, 3, 8.0) == Held(2, done=False), "only the holder ends it"
    leases.end(7, 2, 9.0)
    assert leases.take(7, 3, 10.0) == Held(2, done=True)
    assert leases.take(7, 3, 10.0, instead=2) is None, "its whole block could not be read"


def test_zones_need_one_copy_each_over_their_narrow_links() -> None:
    found, blind = run(zones=3, zone_egress=0.25), run(zones=3, zone_egress=0.25, zone_owners=False)
    assert found.copies == 1.0
    assert found.slowest < 1.3 < 2 < blind.slowest


def test_a_prediction_is_in_seconds_of_the_links_given() -> None:
    found = predict(8, 512 << 20, 75e6, 150e6)
    assert found.ideal_s == pytest.approx((512 << 20) / 75e6)
    assert 1.0 <= found.slowest < 1.06
    assert found.median_s <= found.slowest_s
    assert found.copies == 1.0


def test_long_loads_are_predicted_from_shorter_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict(8, 300 << 20, 75e6, 150e6, block_bytes=1 << 20)
    monkeypatch.setattr("bench.simulation.prediction.BLOCKS_MAX", 120)
    assert predict(8, 300 << 20, 75e6, 150e6, block_bytes=1 << 20).slowest_s == pytest.approx(whole.slowest_s, rel=0.02)


def test_the_question_is_answered_in_a_table_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "fleet.svg"
    words = [
        "simulate",
        "--nodes",
        "2,5",
        "--blocks",
        "20",
        "--churn-nodes",
        "6",
        "--only",
        "die",
        "--plot",
        str(picture),
    ]
    assert main(words) == 0
    assert Counter(line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()) >= Counter(["| 5 % die"])
    assert xml.etree.ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_each_scenario_has_a_name_of_its_own_and_changes_something() -> None:
    assert len({scenario.name for scenario in simulate.CHURN}) == len(simulate.CHURN)
    assert all(replace(scenario, name="load") != simulate.LOAD for scenario in simulate.CHURN)
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    assert parser.parse_args(["--nodes", "8,50"]).nodes == (8, 50)
