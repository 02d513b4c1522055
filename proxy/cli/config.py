"""`warmstart config check FILE` and `warmstart config schema`."""

from __future__ import annotations

import argparse
from pathlib import Path

from proxy.config.quantities import render_size
from proxy.config.schema import render_schema
from proxy.config.sources import load_configuration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check = commands.add_parser("check", help="say whether `serve --config FILE` would accept it")
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(config_run=_check)
    schema = commands.add_parser("schema", help="print the JSON schema of the file, for editors")
    schema.set_defaults(config_run=_schema)


def run(arguments: argparse.Namespace) -> int:
    status: int = arguments.config_run(arguments)
    return status


def _check(arguments: argparse.Namespace) -> int:
    settings = load_configuration(arguments.file).settings
    disks = ", ".join(f"{disk.path} ({render_size(disk.size)})" for disk in settings.cache.disks)
    listeners = ", ".join(map(str, settings.listen))
    print(f"{arguments.file}: fine. Listens at {listeners}; caches in {disks}; origins: {', '.join(settings.origins)}.")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    print(render_schema(), end="")
    return 0
