"""`warmstart health`: asks a running gateway, for people and for container health checks."""

from __future__ import annotations

import argparse
import http.client
import sys
import time
from pathlib import Path

from proxy.cli.asking import ask
from proxy.config.sources import Shorthands, load_configuration
from proxy.errors import ConfigInvalid

_PAUSE_S = 0.2  # between the questions of --wait


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Exit with 0 when the gateway answers, with 1 and the reason when it does not."
    parser.add_argument("--config", type=Path, metavar="FILE", help="the gateway's; default: the environment's")
    parser.add_argument("--url", help="of the gateway; default: the first listener that the settings name")
    parser.add_argument("--ready", action="store_true", help="ask whether it is ready to serve, not only alive")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="of one question, default 5")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="ask again for so long, default 0")


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
    """Whether all is well, and what to print. Raises ConfigInvalid for what is no URL."""
    try:
        answer = ask(url, path, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        return False, f"warmstart: {url} does not answer ({error or type(error).__name__})"
    return answer.status == 200, answer.body.decode("utf-8", "replace").strip()


def default_url(file: Path | None = None) -> str:
    """The first listener of the settings in a file or the environment (`WARMSTART_CONFIG`, `WARMSTART_LISTEN`).

    Raises ConfigInvalid for a file that can't be used.
    """
    try:
        settings = load_configuration(file).settings
    except ConfigInvalid:
        if file is not None:
            raise
        try:  # the gateway may have got the rest by flags, of which these change no address
            settings = load_configuration(flags={"auth": "none"}, shorthands=Shorthands(origin="file:///")).settings
        except ConfigInvalid:
            return "http://127.0.0.1:9000"
    address = settings.listen[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    scheme = "https" if settings.tls is not None else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{address.port}"
