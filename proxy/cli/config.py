"""`warmstart config check FILE` and `warmstart config schema`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from proxy.cache.capacity import DiskClaim, check_capacity
from proxy.config.quantities import render_size
from proxy.config.schema import render_schema
from proxy.config.sources import load_configuration
from proxy.errors import ConfigInvalid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="check whether `serve --config FILE` would accept the file")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument(
        "--environment",
        type=Path,
        metavar="FILE",
        help="the gateway's environment: lines of NAME=value, as in systemd's EnvironmentFile",
    )
    check.set_defaults(config_run=_check)
    schema = commands.add_parser("schema", help="print the JSON schema of the configuration file, for editors")
    schema.set_defaults(config_run=_schema)


def run(arguments: argparse.Namespace) -> int:
    status: int = arguments.config_run(arguments)
    return status


def _check(arguments: argparse.Namespace) -> int:
    if arguments.environment is not None:
        os.environ.update(read_environment_file(arguments.environment))
    loaded = load_configuration(arguments.file)
    settings = loaded.settings
    cache = settings.cache
    claims = [
        DiskClaim(f"cache.disks[{index}]", disk.path, disk.size)
        for index, disk in enumerate(cache.disks)
        if disk.path.exists()  # if not, the file may be meant for another machine
    ]
    for warning in check_capacity(claims, cache.block_size):
        print(f"warning: {warning}")
    disks = ", ".join(f"{disk.path.absolute()} ({render_size(disk.size)})" for disk in cache.disks)
    listeners = ", ".join(map(str, settings.listen))
    print(f"{arguments.file}: OK. Listens on {listeners}; caches in {disks}; origins: {', '.join(settings.origins)}.")
    for note in loaded.notes:
        print(f"{arguments.file}: note: {note}")
    return 0


def read_environment_file(path: Path) -> dict[str, str]:
    """Return the variables in a file for systemd's EnvironmentFile (systemd.exec(5)); values may be in quotes.

    Raises ConfigInvalid. Its message shows no value: such files hold secrets.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigInvalid(f"{path}: can't be read; give the path of a file with lines of NAME=value") from None
    found = {}
    for number, line in enumerate(lines, 1):
        name, equals, value = line.strip().partition("=")
        if not name or name.startswith(("#", ";")):
            continue
        if not equals or not name.isidentifier():
            raise ConfigInvalid(f"{path}: line {number} is not NAME=value; correct it")
        value = value.strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        found[name] = value[1:-1] if quoted else value
    return found


def _schema(arguments: argparse.Namespace) -> int:
    print(render_schema(), end="")
    return 0
