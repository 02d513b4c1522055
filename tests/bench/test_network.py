"""The bench's network of namespaces: its links are as fast as told, and nothing of it is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import network
from bench.client import read_stream
from bench.loopback import make_data, start_origin
from bench.network import Network, permitted, remove_left
from bench.processes import Missing

needs_namespaces = pytest.mark.skipif(not permitted(), reason="may not make network namespaces")
MIB = 1 << 20
READ = "from bench.client import read_stream; import sys; print(read_stream(sys.argv[1], '/bench/key').seconds)"
ABANDON = """
import os
from bench.network import Network
network = Network().__enter__()
network.add(0)
print(network.namespaces[0].name, flush=True)
os._exit(0)
"""


def names() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


@needs_namespaces
def test_a_link_passes_no_more_than_its_rate_and_the_side_way_is_free(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", 4 * MIB)
    with Network() as network:
        near, far = network.add(20e6), network.add(20e6)
        with start_origin(data, host="0.0.0.0", prefix=near.prefix) as origin:
            command = far.command([sys.executable, "-c", READ, f"http://{near.address}:{origin.port}"])
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            assert float(done.stdout) > 4 * MIB / 20e6 * 0.85  # a link that was idle passes a burst at once
            assert read_stream(f"http://{near.side_address}:{origin.port}", "/bench/key").received_bytes == 4 * MIB
        assert near.name in names()
    assert near.name not in names()
    assert not any(Path("/sys/class/net").glob(f"ws{os.getpid():x}*"))


@needs_namespaces
def test_what_a_killed_bench_left_is_removed_by_the_next() -> None:
    root = Path(__file__).parent.parent.parent
    done = subprocess.run([sys.executable, "-c", ABANDON], cwd=root, capture_output=True, text=True, check=True)
    left = done.stdout.strip()
    assert left
    remove_left()
    assert left not in names()
    assert not any(Path("/sys/class/net").glob(f"{left.partition('-')[0]}*"))


def test_without_the_programs_nothing_is_permitted_and_nothing_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, install: str) -> str:
        raise Missing(f"{name} is not installed: {install}")

    monkeypatch.setattr(network, "program", missing)
    assert not permitted()
