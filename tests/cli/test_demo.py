"""The demo as a user runs it, and the model that it makes."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.blocks import update_sum
from proxy.cli.demo.model import make_model
from proxy.objects import SumKind

DEMO = [sys.executable, "-m", "proxy", "demo"]


def run_demo(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DEMO, *flags], capture_output=True, text=True, timeout=120)


def test_the_demo_loads_a_model_three_ways_and_the_hot_one_costs_the_origin_nothing(tmp_path: Path) -> None:
    done = run_demo("--size", "16MiB", "--rate", "100MB", "--listen", "127.0.0.1:0", "--dir", str(tmp_path), "--exit")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        line.split("│")[1].strip(): line.split("│")
        for line in done.stdout.splitlines()
        if "via" in line and "│" in line
    }
    assert re.search(r"0\.02 GB", rows["cold via warmstart"][5])
    assert re.search(r"0\.00 GB", rows["hot via warmstart"][5])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("flag", "value"), [("--size", "much"), ("--size", "5"), ("--rate", "0"), ("--latency", "20")])
def test_a_bad_figure_is_named_with_its_flag(flag: str, value: str) -> None:
    done = run_demo(flag, value, "--exit")
    assert done.returncode == 2
    assert flag in done.stderr
    assert value in done.stderr


def test_the_models_shards_are_safetensors_and_its_index_names_them(tmp_path: Path) -> None:
    files = make_model(tmp_path, 8 << 20)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    for file in files:
        data = (tmp_path / file.name).read_bytes()
        assert (len(data), update_sum(SumKind.CRC32C, memoryview(data))) == (file.size_bytes, file.crc32c)
        if file.name.endswith(".safetensors"):
            (length,) = struct.unpack("<Q", data[:8])
            header = json.loads(data[8 : 8 + length])
            assert max(tensor["data_offsets"][1] for tensor in header.values()) == len(data) - 8 - length
            assert {index["weight_map"][name] for name in header} == {file.name}


def test_a_fleets_nodes_load_the_model_at_once_and_the_origin_sends_it_once(tmp_path: Path) -> None:
    flags = ("--nodes", "3", "--size", "64MiB", "--link", "100MB", "--listen", "127.0.0.1:0", "--dir", str(tmp_path))
    done = run_demo(*flags, "--exit")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split("│")[1].strip(): line.split("│") for line in done.stdout.splitlines() if "│" in line}
    assert [cell.strip() for cell in rows["each node directly"][5:7]] == ["0.20 GB", "3.00"]
    assert [cell.strip() for cell in rows["the fleet, cold"][5:7]] == ["0.07 GB", "1.00"]
    assert [cell.strip() for cell in rows["the fleet, hot"][5:7]] == ["0.00 GB", "0.00"]
    nodes = [cells for name, cells in rows.items() if name.startswith("http://")]
    assert len(nodes) == 3
    for cells in nodes:
        from_origin, from_nodes = (float(cell.split()[0]) for cell in cells[3:5])
        assert from_origin + from_nodes == pytest.approx(0.067, abs=0.012)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [("--nodes", "0"), ("--nodes", "100"), ("--nodes", "2", "--link", "0")])
def test_a_fleet_that_cannot_be_shown_is_refused(flags: tuple[str, ...]) -> None:
    done = run_demo(*flags, "--exit")
    assert done.returncode == 2
    assert flags[-2] in done.stderr


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_a_taken_port_is_named(tmp_path: Path, nodes: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run_demo("--nodes", nodes, "--size", "1MiB", "--listen", place, "--dir", str(tmp_path), "--exit")
    assert done.returncode == 2
    assert f"--listen '{place}'" in done.stderr
