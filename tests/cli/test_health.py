"""`warmstart health`: whom it asks, and how long: a start that takes its time, and one that never comes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from proxy.cli.commands import run_command
from proxy.cli.health import default_url


@contextmanager
def server(refusals: int) -> Iterator[tuple[str, list[str]]]:
    """One that says 503 so many times and then is well; its URL and the paths that it was asked."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(503 if len(asked) <= refusals else 200)
            self.end_headers()
            self.wfile.write(b"starting\n" if len(asked) <= refusals else b"ready\n")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}", asked
        finally:
            listening.shutdown()
            thread.join()


def test_it_asks_again_until_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    with server(refusals=2) as (url, asked):
        assert run_command(["health", "--url", url, "--ready", "--wait", "60"]) == 0
    assert asked == ["/-/ready"] * 3
    assert capsys.readouterr() == ("ready\n", "")


def test_without_waiting_it_asks_once(capsys: pytest.CaptureFixture[str]) -> None:
    with server(refusals=2) as (url, asked):
        assert run_command(["health", "--url", url]) == 1
    assert asked == ["/-/health"]
    assert capsys.readouterr() == ("", "starting\n")


def test_its_wait_ends_and_says_once_what_it_found_last(capsys: pytest.CaptureFixture[str]) -> None:
    with server(refusals=10**6) as (url, asked):
        assert run_command(["health", "--url", url, "--wait", "0.3"]) == 1
    assert len(asked) > 1
    assert capsys.readouterr() == ("", "starting\n")


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({}, "http://127.0.0.1:9000"),
        (
            {"WARMSTART_LISTEN": "0.0.0.0:9100", "WARMSTART_AUTH": "none", "WARMSTART_ORIGIN": "s3://"},
            "http://127.0.0.1:9100",
        ),
        ({"WARMSTART_LISTEN": "0.0.0.0:9100"}, "http://127.0.0.1:9100"),  # --auth and --origin are flags of serve
        ({"WARMSTART_LISTEN": "[::]:9100"}, "http://[::1]:9100"),
        ({"WARMSTART_LISTEN": "nonsense"}, "http://127.0.0.1:9000"),
    ],
)
def test_it_asks_the_first_listener_that_the_environment_names(
    environment: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WARMSTART_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_url() == url


def test_it_asks_where_a_file_says_whose_origin_is_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "warmstart.yaml").write_text("listen: 0.0.0.0:9200\n")
    monkeypatch.setenv("WARMSTART_CONFIG", str(tmp_path / "warmstart.yaml"))
    assert default_url() == "http://127.0.0.1:9200"
