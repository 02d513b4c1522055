"""The table of commands, and how a command is run.

Each command is a module with `add_arguments(parser)` and `run(arguments) -> int` (the exit status). Only the module
of the chosen command is imported: a health check must not load a web server.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.errors import ConfigInvalid

EXIT_CONFIG = 2
EXIT_PIPE = 128 + signal.SIGPIPE  # the status that a shell gives a program killed by SIGPIPE


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    module: str
    summary: str


COMMANDS = (
    Command("serve", "proxy.cli.serve", "run the gateway"),
    Command("demo", "proxy.cli.demo.show", "load a model from a slow cloud, with and without a gateway, and compare"),
    Command("health", "proxy.cli.health", "check whether a running gateway is healthy"),
    Command("cluster", "proxy.cli.cluster", "show the nodes of the fleet"),
    Command("plan", "proxy.cli.plan", "estimate how long a fleet takes to load a model, and what the origin sends"),
    Command("config", "proxy.cli.config", "check a configuration file, or print its JSON schema"),
)


def run_command(argv: Sequence[str]) -> int:
    """Parse and run. An invalid configuration prints one line on standard error and exits with 2."""
    arguments = _parser(argv).parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
    except ConfigInvalid as error:
        print(f"warmstart: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at exit
        return EXIT_PIPE
    except KeyboardInterrupt:
        return 130
    return status


def installed_version() -> str:
    """Return the version of the installed package, or a placeholder in a bare source tree."""
    from importlib import metadata

    try:
        return metadata.version("warmstart")
    except metadata.PackageNotFoundError:
        return "(not installed)"


class _Version(argparse.Action):
    """Looks the version up only when asked: reading a package's metadata would slow every start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        print(f"warmstart {installed_version()}")
        parser.exit()


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="warmstart",
        description="A cache on this machine's disks between S3 and GCS clients and a remote object store.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for command in COMMANDS:
        below = commands.add_parser(command.name, help=command.summary, description=command.summary.capitalize() + ".")
        if command.name == asked:
            module = importlib.import_module(command.module)
            module.add_arguments(below)
            below.set_defaults(run=module.run)
    return parser
