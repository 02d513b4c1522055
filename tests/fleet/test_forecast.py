"""The forecast of a load's time: it agrees with the simulation that its numbers are from, and knows what bounds it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.simulation.prediction import predict
from proxy.fleet.forecast import SIMULATED_NODES_MAX, forecast, forecast_alone

GB = 10**9
BLOCK = 8 << 20


@pytest.mark.parametrize("nodes", [1, 5, 8, 40])
@pytest.mark.parametrize("origin_links", [0.25, 1.0, 2.0])
@pytest.mark.parametrize("blocks", [64, 160])
def test_it_agrees_with_the_simulation(nodes: int, origin_links: float, blocks: int) -> None:
    told = forecast(nodes, blocks * BLOCK, 1 * GB, origin_links * GB)
    simulated = predict(nodes, blocks * BLOCK, 1 * GB, origin_links * GB)
    assert told.ideal_s == pytest.approx(simulated.ideal_s)
    assert 0.985 < told.time_s / simulated.slowest_s < 1.09


@pytest.mark.long
@pytest.mark.parametrize("nodes", [200, 500, 2000])
def test_it_agrees_with_the_simulation_of_many_nodes(nodes: int) -> None:
    told = forecast(nodes, 300 * BLOCK, 1 * GB, 2 * GB)
    simulated = predict(nodes, 300 * BLOCK, 1 * GB, 2 * GB)
    assert 0.99 < told.time_s / simulated.slowest_s < 1.04


@given(
    st.integers(1, 5000),
    st.integers(1, 10**15),
    st.floats(1e6, 1e12),
    st.floats(1e6, 1e12),
    st.none() | st.floats(1e6, 1e12),
)
def test_no_load_is_faster_than_the_narrowest_of_links_and_disk(
    nodes: int, size_bytes: int, node_link: float, origin_link: float, disk: float | None
) -> None:
    told = forecast(nodes, size_bytes, node_link, origin_link, disk=disk)
    least_s = size_bytes / min(node_link, origin_link, disk or node_link)
    assert told.ideal_s == pytest.approx(least_s)
    assert told.time_s >= told.ideal_s * (1 - 1e-9)
    assert told.origin_bytes == size_bytes
    alone = forecast_alone(nodes, size_bytes, node_link, origin_link, disk=disk)
    assert alone.origin_bytes == nodes * size_bytes
    assert alone.time_s >= told.ideal_s * (1 - 1e-9)


@given(st.integers(1, 3000))
def test_more_nodes_never_take_less_time(nodes: int) -> None:
    fewer, more = (forecast(each, 72 * GB, 10 * GB, 20 * GB).time_s for each in (nodes, nodes + 1))
    assert fewer <= more


def test_what_takes_longest_is_said() -> None:
    assert forecast(8, GB, 2 * GB, 1 * GB).bound == "origin link"
    assert forecast(8, GB, 1 * GB, 2 * GB).bound == "node link"
    assert forecast(8, GB, 2 * GB, 3 * GB, disk=1 * GB).bound == "disk"
    assert forecast_alone(8, GB, 1 * GB, 7 * GB).bound == "origin link"


def test_each_zone_but_one_gets_a_copy_from_another() -> None:
    assert forecast(9, GB, GB, GB, zones=3).zone_bytes == 2 * GB


def test_beyond_what_was_simulated_nothing_grows() -> None:
    most, more = (forecast(each, GB, GB, GB).time_s for each in (SIMULATED_NODES_MAX, 10 * SIMULATED_NODES_MAX))
    assert most == more
