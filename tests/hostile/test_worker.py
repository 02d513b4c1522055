"""A running gateway and one hostile client: another client's hits go on, and the process spends and grows little."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fleet.asking import SECRET, control_url
from tests.gateways import GatewayProcess, start_gateway
from tests.hostile.requests import HOSTILE, HostileRequest, send

GROWTH_BYTES = 32 << 20
CPU_S = 2.0  # of the process, for all that the client sends and for the hits meanwhile: most need a twentieth
CONTENT = bytes(100_000)
HITS_MAX = 300
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the gateway, seen from outside."""

    pid: int
    address: tuple[str, int]

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_bytes(self) -> int:
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        """Since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("hostile")
    bucket = folder / "shelf" / "b"
    bucket.mkdir(parents=True)
    for key in ("hit", "warm", "cold"):
        (bucket / key).write_bytes(CONTENT)
    cluster = {"cluster": {"secret": SECRET, "peers": ["http://127.0.0.1:9"]}}
    with start_gateway(folder, origin=f"file://{bucket.parent}", config=cluster) as gateway:
        for key in ("hit", "warm"):
            gateway.wait_until_hot(lambda key=key: read(gateway, key))  # type: ignore[misc]
        yield gateway


def read(gateway: GatewayProcess, key: str) -> None:
    httpx.get(f"{gateway.url}/b/{key}", trust_env=False).raise_for_status()


def processes(gateway: GatewayProcess) -> dict[str, Process]:
    [worker] = gateway.worker_pids()
    data, control = urlsplit(gateway.url), urlsplit(control_url(gateway))
    return {
        "data": Process(worker, (data.hostname or "", data.port or 0)),
        "control": Process(gateway.control_pid(), (control.hostname or "", control.port or 0)),
    }


@pytest.mark.parametrize("request_", HOSTILE, ids=str)
def test_a_hostile_request_costs_little_and_others_are_served(
    gateway: GatewayProcess, request_: HostileRequest
) -> None:
    process = processes(gateway)[request_.port]
    statuses: list[int] = []
    sender = threading.Thread(target=lambda: statuses.extend(send(process.address, request_)))
    process.reset_peak()
    resident_bytes, cpu_s = process.resident_bytes(), process.cpu_s()
    with httpx.Client(trust_env=False, timeout=30) as other:
        sender.start()
        for _ in range(HITS_MAX):
            answer = other.get(f"{gateway.url}/b/hit")
            assert (answer.status_code, answer.headers["x-cache"], len(answer.content)) == (200, "HIT", len(CONTENT))
            if not sender.is_alive():
                break
    sender.join(60)
    assert not sender.is_alive(), "the server does not end it"
    assert process.cpu_s() - cpu_s < CPU_S
    assert process.peak_bytes() - resident_bytes < GROWTH_BYTES
    assert set(statuses) <= request_.statuses
    assert bool(statuses) != request_.unread
