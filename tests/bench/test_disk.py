"""The disk bench's parts: every range once, and the latency of a small read from a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

from bench.disk import CASES
from bench.lag import watch_lag
from tests.gateways import start_gateway


def test_each_run_reads_the_whole_file_once() -> None:
    size = 32 << 20
    for case in CASES:
        spans = case.spans(size, 1)
        ends = [0, *(end for _, end in sorted(spans))]
        assert [start for start, _ in sorted(spans)] == ends[:-1]
        assert ends[-1] == size
        assert (spans == sorted(spans)) != case.at_random


def test_lag_is_told_while_something_runs(tmp_path: Path) -> None:
    (tmp_path / "origin" / "b").mkdir(parents=True)
    (tmp_path / "origin" / "b" / "small").write_bytes(b"x" * 100)
    with start_gateway(tmp_path, origin=f"file://{tmp_path / 'origin'}") as gateway:
        with watch_lag(gateway.url, "/b/small") as lag:
            time.sleep(0.2)
        assert lag.latencies_ms
        assert 0 < lag.percentile(50) <= lag.percentile(99)
