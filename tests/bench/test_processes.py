"""What a bench starts ends with it, also when it is killed; CPU time is counted; files of nginx's are its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import which

import pytest

from bench.nginx import start_nginx
from bench.processes import children, cpu_seconds, running
from bench.sides import NGINX_FILE, Side, make_object, nginx_side, warm
from tests.gateways import alive
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
CORES = os.sched_getaffinity(0)
needs_nginx = pytest.mark.skipif(which("nginx", path="/usr/sbin:/usr/bin") is None, reason="no nginx")

STARTER = """
import sys, time
from pathlib import Path
from bench.processes import running
with running(["sleep", "60"], Path(sys.argv[1])) as process:
    print(process.pid, flush=True)
    time.sleep(60)
"""
NGINX_STARTER = """
import sys, time
from pathlib import Path
from bench.nginx import start_nginx
with start_nginx(Path(sys.argv[1]).parent, Path(sys.argv[1]).parent) as nginx:
    print(*nginx.pids, flush=True)
    time.sleep(60)
"""


def test_a_program_ends_with_its_block(tmp_path: Path) -> None:
    with running(["sleep", "60"], tmp_path / "log") as process:
        assert alive(process.pid)
        assert process.pid in children(os.getpid())
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("starter", [STARTER, pytest.param(NGINX_STARTER, marks=needs_nginx)])
def test_what_a_bench_started_ends_when_it_is_killed(tmp_path: Path, starter: str) -> None:
    command = [sys.executable, "-c", starter, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as bench:
        assert bench.stdout is not None
        pids = [int(word) for word in bench.stdout.readline().split()]
        assert pids
        bench.kill()
    wait_until(lambda: not any(alive(pid) for pid in pids), "a peer outlives its bench")


def test_cpu_time_of_a_process_is_counted() -> None:
    before = sum(cpu_seconds([os.getpid()]))
    began_s = time.process_time()
    while time.process_time() - began_s < 0.1:
        pass
    assert sum(cpu_seconds([os.getpid()])) - before >= 0.08


def test_a_process_stays_on_its_cores(tmp_path: Path) -> None:
    one = {min(CORES)}
    with running(["sleep", "60"], tmp_path / "log", one) as process:
        assert os.sched_getaffinity(process.pid) == one


@needs_nginx
def test_nginx_serves_files_and_slices_with_one_worker(tmp_path: Path) -> None:
    digest = make_object(tmp_path / "root" / "bench" / "object", 9 << 20)
    with nginx_side(tmp_path / "file", tmp_path / "root") as side:
        assert side.name == NGINX_FILE
        assert len(side.pids) == 1
        warm(side, "/bench/object", digest)
        with start_nginx(tmp_path / "slices", origin=side.url) as slices:
            warm(Side("slices", slices.url, slices.pids), "/bench/object", digest)


@needs_nginx
def test_other_bytes_are_no_side_to_measure(tmp_path: Path) -> None:
    make_object(tmp_path / "root" / "bench" / "object", 1 << 20)
    with nginx_side(tmp_path / "file", tmp_path / "root") as side, pytest.raises(RuntimeError, match="other bytes"):
        warm(side, "/bench/object", "0" * 64)
