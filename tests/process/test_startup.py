"""What each process of a run loads before it does its work: a start's time is mostly the time of imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.config.handover import render_settings
from proxy.config.sources import Layer, check_layers

HEAVY = {"awscrt", "botocore", "google", "httpx", "prometheus_client", "pydantic", "starlette", "uvicorn", "uvloop"}

# What a child does with its settings, short of serving.
BUILD = """
import asyncio, os, sys
from proxy.cache.shared import SharedTables
from proxy.config.handover import parse_settings
from proxy.composition.app import build_parts, load_later

async def build():
    settings = parse_settings(open(sys.argv[1], "rb").read())
    tables = SharedTables.create()
    parts = build_parts(settings, tables, "run", "writer")
    if sys.argv[2] == "later":
        load_later(settings.origins.values())
    await parts.aclose()
    tables.close()

import proxy.process.bootstrap, proxy.process.worker
asyncio.run(build())
"""


def loaded(code: str, *arguments: str) -> set[str]:
    """The heavy libraries that a fresh interpreter has loaded after that code."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return set(done.stdout.split()) & HEAVY


def worker_loads(folder: Path, origin: dict[str, Any], when: str = "at start") -> set[str]:
    values = {"origins": {"o": origin}, "cache": {"disks": [{"path": str(folder / "cache"), "size": "1GiB"}]}}
    (folder / "settings").write_bytes(render_settings(check_layers([Layer("test", values)]).settings))
    return loaded(BUILD, str(folder / "settings"), when)


def test_the_supervisor_checks_settings_and_loads_nothing_that_serves() -> None:
    assert loaded("import proxy.cli.serve, proxy.process.supervisor") <= {"pydantic"}


def test_a_child_begins_with_nothing_but_the_standard_library() -> None:
    assert loaded("import proxy.__main__, proxy.process.bootstrap") == set()


def test_the_housekeeper_knows_no_network_and_no_settings_models() -> None:
    assert loaded("import proxy.process.bootstrap, proxy.process.housekeeping") <= {"awscrt", "prometheus_client"}


def test_a_worker_before_a_directory_loads_no_http_client_and_no_settings_models(tmp_path: Path) -> None:
    found = worker_loads(tmp_path, {"type": "file", "root": "/shelf"})
    assert not found & {"botocore", "google", "httpx", "pydantic"}
    assert {"uvicorn", "uvloop"} <= found


@pytest.mark.parametrize(
    "origin", [{"type": "s3", "endpoint": "http://127.0.0.1:9"}, {"type": "gcs", "endpoint": "http://127.0.0.1:9"}]
)
def test_a_worker_serves_hits_before_it_loads_what_misses_need(tmp_path: Path, origin: dict[str, Any]) -> None:
    assert not worker_loads(tmp_path, origin) & {"botocore", "google", "httpx", "pydantic"}


def test_what_misses_need_is_loaded_after_the_start(tmp_path: Path) -> None:
    chain = {"type": "s3", "endpoint": "http://127.0.0.1:9"}
    assert {"botocore", "httpx"} <= worker_loads(tmp_path, chain, "later")
    keys = chain | {"access_key_id": "a", "secret_access_key": "b"}
    assert worker_loads(tmp_path, keys, "later") & {"botocore", "httpx"} == {"httpx"}
    assert not worker_loads(tmp_path, {"type": "file", "root": "/shelf"}, "later") & {"botocore", "httpx"}


@pytest.mark.parametrize(("when", "told"), [("at start", "False"), ("later", "True")])
def test_a_worker_serves_before_it_knows_the_other_dialect(tmp_path: Path, when: str, told: str) -> None:
    worker_loads(tmp_path, {"type": "file", "root": str(tmp_path)})
    code = BUILD + "print('gcsapi.app' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "settings"), when]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == told
