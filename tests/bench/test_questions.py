"""`python -m bench`: every question can be asked, tables and JSON say what was found, a missing peer is told."""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bench.hot
from bench import Row
from bench.__main__ import find_questions, main, render
from bench.processes import Missing, program

ROOT = Path(__file__).parent.parent.parent
ISSUED = {"hot", "tls", "many", "profile", "cold", "memory", "wire"}
ROWS: list[Row] = [
    {"size": "4 KiB", "side": "nginx file", "req/s": 52000, "CPU s/GB": 0.123456},
    {"size": "4 KiB", "side": "warmstart", "req/s": 51000, "CPU ratio": "1.02 (0.98-1.05)"},
]


def test_every_question_has_a_sentence_and_a_way_to_measure_it() -> None:
    found = find_questions()
    assert found.keys() >= ISSUED
    for name, question in found.items():
        module = importlib.import_module(f"bench.{name}")
        assert question.endswith("?"), name
        assert list(inspect.signature(module.measure).parameters) == ["quick"], name


def test_a_table_has_every_column_of_every_row() -> None:
    assert render(ROWS).splitlines() == [
        "| size | side | req/s | CPU s/GB | CPU ratio |",
        "| --- | --- | --- | --- | --- |",
        "| 4 KiB | nginx file | 52000 | 0.123 |  |",
        "| 4 KiB | warmstart | 51000 |  | 1.02 (0.98-1.05) |",
    ]


def test_an_answer_is_printed_and_written_with_date_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.hot, "measure", lambda quick: ROWS)
    assert main(["hot", "--quick", "--json", str(tmp_path / "rows.json")]) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["rows"] == ROWS
    assert written["bench"] == "hot"
    assert f"{written['date']}; {written['machine']}" in printed
    assert render(ROWS) in printed


def test_a_dialect_has_a_question_and_a_measurement_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.hot, "measure_gcs", lambda quick: ROWS)
    assert main(["hot", "--quick", "--dialect", "gcs"]) == 0
    assert bench.hot.QUESTION_GCS in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["wire", "--dialect", "gcs"])


def test_a_missing_peer_is_told_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(quick: bool) -> list[Row]:
        program("no-such-peer", "apt-get install no-such-peer")
        return []

    monkeypatch.setattr(bench.hot, "measure", measure)
    assert main(["hot"]) == 2
    assert capsys.readouterr().err == "no-such-peer is not installed: apt-get install no-such-peer\n"
    with pytest.raises(Missing):
        measure(quick=True)


@pytest.mark.long
@pytest.mark.skipif(not (shutil.which("wrk") and shutil.which("nginx", path="/usr/sbin:/usr/bin")), reason="no peers")
def test_a_quick_run_gives_ratios_to_nginx(tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    command = [sys.executable, "-m", "bench", "tls", "--quick", "--json", str(target)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(target.read_text())["rows"]
    assert {row["side"] for row in rows} == {"warmstart", "nginx file"}
    assert all(float(row["req/s ratio"].split()[0]) > 0 for row in rows)
    assert "| size | connections | side |" in done.stdout
