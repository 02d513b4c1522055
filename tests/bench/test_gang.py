"""Clients that read at the same moment: they find the right sum, and a server that ends early is a failed read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.fleet import Case
from bench.gang import Gang, file_sum
from bench.loopback import Link, make_data, start_origin
from bench.processes import free_port

MIB = 1 << 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("bench") / "data", 8 * MIB)


def test_a_gang_begins_together_and_sums_what_it_reads(data: Path) -> None:
    with start_origin(data) as origin, Gang([(f"{origin.url}/bench/model", ())] * 2, 30) as gang:
        gang.go()
        reads = gang.wait()
    assert [(read.received_bytes, read.crc32c, read.error) for read in reads] == [(8 * MIB, file_sum(data), "")] * 2
    assert all(read.seconds > 0 for read in reads)


def test_a_killed_client_and_a_refused_connection_are_failed_reads(data: Path) -> None:
    with start_origin(data, Link(total_bytes_per_s=2e6)) as origin:
        clients = [(f"{origin.url}/bench/model", ()), (f"http://127.0.0.1:{free_port()}/bench/model", ())]
        with Gang(clients, 30) as gang:
            gang.go()
            gang.kill(0)
            killed, refused = gang.wait()
    assert killed.error.startswith("no answer")
    assert "refused" in refused.error


def test_links_leave_cpu_for_all_nodes() -> None:
    for nodes in (2, 4, 8, 12):
        case = Case(nodes, "plain")
        assert nodes * case.node_link <= 150e6
        assert case.ideal_s == case.size_bytes / case.node_link
