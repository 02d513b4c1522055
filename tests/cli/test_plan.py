"""`warmstart plan`: what it says, to people and programs, and how it refuses what it can't read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.cli.commands import EXIT_CONFIG, run_command
from proxy.cli.plan import parse_price
from proxy.config.quantities import parse_rate

ROOT = Path(__file__).parents[2]
GOOD = {"--nodes": "200", "--model": "72GB", "--node-link": "100Gbit", "--origin-link": "20Gbit"}


def words(**changes: str) -> list[str]:
    flags = GOOD | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return ["plan", *(word for pair in flags.items() for word in pair)]


def told(capsys: pytest.CaptureFixture[str], **changes: str) -> dict[str, Any]:
    assert run_command([*words(**changes), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_plan_says_time_bytes_and_cost_with_a_fleet_and_without(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words(egress_price="0.12/GB")) == 0
    out = capsys.readouterr().out
    rows = {line[:24].strip(): line[24:].split("  ") for line in out.splitlines() if line[:1] not in "A "}
    cells = {name: [cell.strip() for cell in row if cell.strip()] for name, row in rows.items()}
    assert cells["all nodes have it after"] == ["28.8 s", "1 h 36 min"]
    assert cells["from the origin"] == ["72 GB", "14.4 TB"]
    assert cells["egress"] == ["8.64", "1,728.00"]
    assert "Assumed: all nodes start at the same moment" in out


def test_programs_get_bytes_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, zones="3", egress_price="$0.10/GB")
    assert found["fleet"]["origin_bytes"] == found["size_bytes"] == 72 * 10**9
    assert found["fleet"]["zone_bytes"] == 2 * 72 * 10**9
    assert found["alone"]["origin_bytes"] == 200 * 72 * 10**9
    assert found["alone"]["time_s"] == pytest.approx(5760)
    assert found["fleet"]["time_s"] == pytest.approx(28.8, rel=0.01)
    assert found["fleet"]["egress_cost"] == 7.2
    assert found["fleet"]["bound"] == "origin link"


def test_without_a_price_nothing_is_said_of_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys)["fleet"]["egress_cost"] is None
    assert run_command(words()) == 0
    assert "egress" not in capsys.readouterr().out


def test_a_disk_that_writes_slowly_bounds_the_load(capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, disk="1GB/s")
    assert found["fleet"]["bound"] == "disk"
    assert 72 < found["fleet"]["time_s"] < 77


def test_more_nodes_than_were_simulated_are_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(words(nodes="5000")) == 0
    assert "Only up to 2,000 nodes were simulated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("nodes", "0", "--nodes: '0' is not a count; write a whole number, 1 or more"),
        ("nodes", "some", "--nodes: 'some' is not a count; write a whole number, 1 or more"),
        ("zones", "201", "--zones: 201 zones for 200 nodes; use at most one zone per node"),
        ("model", "72G", "--model: '72G' is ambiguous; write 72GiB (powers of 1024) or 72GB (powers of 1000)"),
        ("model", "0", "--model: '0' is not a model's size; write a size such as 72GB"),
        ("node_link", "100Gb", "--node-link: '100Gb' is ambiguous: bits or bytes? write a number and its unit"),
        ("origin_link", "fast", "--origin-link: 'fast' is not a rate; write a number and its unit, such as 25Gbit"),
        ("disk", "0GB/s", "--disk: '0GB/s' is zero; write a number and its unit"),
        ("egress_price", "0.12", "--egress-price: '0.12' is not a price; write an amount per size, such as 0.12/GB"),
        ("egress_price", "0.12/G", "--egress-price: '0.12/G' is ambiguous; write 1GiB"),
    ],
)
def test_a_value_that_cannot_be_read_names_its_flag_and_the_fix(
    flag: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words(**{flag: value})) == EXIT_CONFIG
    printed = capsys.readouterr()
    assert printed.err.startswith(f"warmstart: {said}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_missing_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(["plan", "--nodes", "3"])
    assert caught.value.code == 2
    assert "--model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100Gbit", 12.5e9),
        ("25 Gbit/s", 3.125e9),
        ("10gbit", 1.25e9),
        ("10Gbps", 1.25e9),
        ("800Mbit", 1e8),
        ("2GB/s", 2e9),
        ("1.5GiB/s", 1.5 * 2**30),
        ("1MBps", 1e6),
        ("8bit", 1.0),
        ("7B/s", 7.0),
    ],
)
def test_rates_are_read_as_people_write_them(text: str, rate: float) -> None:
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize(
    "value", ["", "G", "100", "100G", "10Gb", "10Gb/s", "10gb/s", "-1Gbit", "1Xbit", "1iB/s", 5, None]
)
def test_what_may_mean_two_rates_or_none_is_refused_with_the_fix(value: object) -> None:
    with pytest.raises(ValueError, match="25Gbit"):
        parse_rate(value)


def test_prices_are_for_a_size() -> None:
    assert parse_price("0.12/GB").of(72 * 10**9) == pytest.approx(8.64)
    assert parse_price("$0.5 / GiB").of(2**30) == pytest.approx(0.5)
    assert parse_price("€1/TB").symbol == "€"


def test_planning_needs_no_numpy_and_loads_no_server() -> None:
    code = "import sys; from proxy.cli.commands import run_command; run_command(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words()], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    loaded = done.stdout.splitlines()[-1].split()
    assert "proxy.fleet.forecast" in loaded
    assert not {"numpy", "uvicorn", "httpx", "botocore"} & set(loaded)
