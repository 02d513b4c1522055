"""`warmstart health`: checks a running gateway, for people and for container health checks."""

from __future__ import annotations

import argparse
import http.client
import sys
import time
from pathlib import Path

from proxy.cli.asking import ask
from proxy.config.sources import Shorthands, load_configuration
from proxy.errors import ConfigInvalid

_PAUSE_S = 0.2  # between attempts with --wait


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Exit with 0 if the gateway is healthy; otherwise print the reason and exit with 1."
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the gateway's configuration; default: $WARMSTART_CONFIG"
    )
    parser.add_argument("--url", help="URL of the gateway; default: the first listener in the settings")
    parser.add_argument("--ready", action="store_true", help="check that it is ready to serve, not just alive")
    parser.add_argument(
        "--timeout", type=float, default=5.0, metavar="SECONDS", help="time-out of one attempt, default 5"
    )
    parser.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="keep trying for this long, default 0"
    )


def run(arguments: argparse.Namespace) -> int:
    url = arguments.url or default_url(arguments.config)
    path = "/-/ready" if arguments.ready else "/-/health"
    deadline = time.monotonic() + arguments.wait
    well, text = _ask(url, path, arguments.timeout)
    while not well and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
        well, text = _ask(url, path, arguments.timeout)
    print(text, file=sys.stdout if well else sys.stderr)
    return 0 if well else 1


def _ask(url: str, path: str, timeout_s: float) -> tuple[bool, str]:
    """Return whether the gateway is healthy, and what to print. Raises ConfigInvalid for an invalid URL."""
    try:
        answer = ask(url, path, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        return False, f"warmstart: {url} does not answer ({error or type(error).__name__})"
    return answer.status == 200, answer.body.decode("utf-8", "replace").strip()


def default_url(file: Path | None = None) -> str:
    """Return the first listener in a file's or the environment's settings (`WARMSTART_CONFIG`, `WARMSTART_LISTEN`).

    Raises ConfigInvalid for an invalid file.
    """
    try:
        settings = load_configuration(file).settings
    except ConfigInvalid:
        if file is not None:
            raise
        try:  # the gateway may have got the rest by flags; these two change no address
            settings = load_configuration(flags={"auth": "none"}, shorthands=Shorthands(origin="file:///")).settings
        except ConfigInvalid:
            return "http://127.0.0.1:9000"
    address = settings.listen[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    scheme = "https" if settings.tls is not None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{address.port}"
