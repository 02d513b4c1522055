"""`warmstart cluster`: the members of the fleet, as this machine's node sees them."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy.cli.asking import ask
from proxy.config.sources import CONFIG_VARIABLE, Shorthands, load_configuration
from proxy.errors import ConfigInvalid
from proxy.fleet.members.address import EVERY_ADDRESS, make_url
from proxy.fleet.signing import PROOF_HEADER, sign
from proxy.peering.control_app import MEMBERS_PATH

if TYPE_CHECKING:
    from rich.table import Table

    from proxy.config.settings import Settings

TIMEOUT_S = 5.0
PERIOD_S = 1.0
PIPE_WIDTH = 160
SENDER = "0"  # not a node
STYLES = {"up": "green", "draining": "yellow", "slow": "yellow", "gone": "red"}


class NoAnswer(Exception):
    """Raised when the node can't be asked; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show the members of the fleet until Ctrl-C, as the node on this machine sees them."
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the gateway's configuration; default: $WARMSTART_CONFIG"
    )
    parser.add_argument("--url", help="URL of a node's control port; default: the one in the settings")
    parser.add_argument("--once", action="store_true", help="print the table once and exit")
    parser.add_argument("--json", action="store_true", help="print the members once, as JSON")


def run(arguments: argparse.Namespace) -> int:
    settings = load_member(arguments.config)
    if settings.cluster is None:
        raise ConfigInvalid(
            "cluster: is missing; give the gateway's own configuration, which has the fleet's secret: --config FILE"
        )
    url, secrets = arguments.url or control_url(settings), settings.cluster.secrets()
    try:
        if arguments.json:
            print(json.dumps(ask_members(url, secrets), indent=2))
        elif arguments.once:
            _print(ask_members(url, secrets))
        else:
            _watch(url, secrets)
    except NoAnswer as error:
        print(f"warmstart: {url}: {error}", file=sys.stderr)
        return 1
    return 0


def load_member(file: Path | None) -> Settings:
    """Return the settings of this machine's node. Without a file, the environment's cluster settings are enough.

    Raises ConfigInvalid.
    """
    if file is not None or os.environ.get(CONFIG_VARIABLE):
        return load_configuration(file).settings
    unasked = Shorthands(origin="file:///")  # the gateway may have got it by a flag
    return load_configuration(flags={"auth": "none"}, shorthands=unasked).settings


def control_url(settings: Settings) -> str:
    """Return the control URL of this machine's node. Raises ConfigInvalid if the settings don't determine it."""
    assert settings.cluster is not None
    first, given = settings.listen[0], settings.cluster.control
    host, port = (given.host, given.port) if given is not None else (first.host, first.port and first.port + 1)
    if not port:
        raise ConfigInvalid("--url: is missing; the settings leave the control port to the system, so give its URL")
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    assert local.keys() == set(EVERY_ADDRESS)
    return make_url(local.get(host, host), port, tls=settings.tls is not None)


def ask_members(url: str, secrets: Sequence[bytes]) -> dict[str, Any]:
    """Return `{"node": its id, "members": [each with url, zone, state, stats, …]}`. Raises NoAnswer."""
    target = MEMBERS_PATH.encode()
    signed = sign(secrets, sender=SENDER, receiver="", method="GET", target=target, now_s=time.time())
    try:
        answer = ask(url, MEMBERS_PATH, TIMEOUT_S, {"authorization": signed.authorization})
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(f"no answer ({error or type(error).__name__})") from None
    status, proof, body = answer.status, answer.headers.get(PROOF_HEADER), answer.body
    if status == 401:
        raise NoAnswer("refused: the secrets or the clocks differ")
    if not signed.proves_answer(proof, status, body):
        raise NoAnswer(f"status {status}, not from a node of this fleet")
    try:
        found = json.loads(body)
    except ValueError:
        raise NoAnswer(f"status {status}, not a list of members") from None
    if status != 200 or not isinstance(found, dict):
        raise NoAnswer(f"status {status}, not a list of members")
    return found


def make_table(found: Mapping[str, Any]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    members = found["members"]
    alive = sum(member["state"] != "gone" for member in members)
    title = f"{alive} node{'' if alive == 1 else 's'}"
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("node", overflow="fold")
    table.add_column("zone")
    table.add_column("state")
    for name in ("disk", "hits", "uploads", "in flight", "from origin", "from peers", "to peers"):
        table.add_column(name, justify="right", no_wrap=True)
    for member in members:
        own = " *" if member["node_id"] == found["node"] else ""
        state = Text(describe_state(member), style=STYLES.get(member["state"], ""))
        table.add_row(f"{member['url']}{own}", member["zone"] or "-", state, *describe_stats(member["stats"]))
    return table


def describe_state(member: Mapping[str, Any]) -> str:
    if member["state"] == "gone":
        return f"gone {member['gone_s']:.0f}s"
    return str(member["state"])


def describe_stats(stats: Mapping[str, float]) -> list[str]:
    """Return disk, hits, uploads, in flight, from origins, from peers, to peers; a dash if unknown."""
    reads = stats.get("hits", 0) + stats.get("misses", 0)
    disk = "-"
    if "used_bytes" in stats and stats.get("size_bytes"):
        disk = f"{_bytes(stats['used_bytes'])} / {_bytes(stats['size_bytes'])}"
    counts = [f"{stats[name]:.0f}" if name in stats else "-" for name in ("uploads", "fills")]
    sizes = [_bytes(stats[n]) if n in stats else "-" for n in ("origin_bytes", "received_bytes", "sent_bytes")]
    return [disk, f"{stats['hits'] / reads:.0%}" if reads else "-", *counts, *sizes]


def _bytes(number: float) -> str:
    """Render a size with three digits and a unit."""
    amount, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.0f} {units[0]}" if units[0] == "B" or amount >= 100 else f"{amount:.3g} {units[0]}"


def _print(found: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    console = console if console.is_terminal else Console(width=PIPE_WIDTH)
    console.print(make_table(found))


def _watch(url: str, secrets: Sequence[bytes]) -> None:
    """Refresh the table until Ctrl-C. If the node stops answering, keep asking: it may be restarting."""
    from rich.live import Live
    from rich.text import Text

    table = make_table(ask_members(url, secrets))
    with Live(table, auto_refresh=False) as live:
        while True:
            time.sleep(PERIOD_S)
            try:
                live.update(make_table(ask_members(url, secrets)), refresh=True)
            except NoAnswer as error:
                live.update(Text(f"{url}: {error}", style="red"), refresh=True)
