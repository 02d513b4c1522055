"""What `/-/metrics` reads: the counters' files of all processes, of which some may be starting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.admin.exposition import render_metrics

COUNTS = "from prometheus_client import Counter; Counter('counted', 'Of a process that has ended.').inc(7)"


def test_a_file_that_a_starting_process_has_just_made_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    subprocess.run([sys.executable, "-c", COUNTS], check=True)
    (tmp_path / "counter_1.db").touch()
    body, _ = render_metrics("")
    assert b"counted_total 7.0" in body
