"""`warmstart serve`: reads the settings, prepares the runtime folder, and becomes the supervisor."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from proxy.config.sources import Configuration, Shorthands, load_configuration
from proxy.errors import ConfigInvalid
from proxy.process.logs import start_logging
from proxy.process.runtime import METRICS_VARIABLE, RuntimeFolder, runtime_parents

log = logging.getLogger("warmstart.serve")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run the gateway. Flags override WARMSTART_ variables, which override the file."
    add_setting_arguments(parser)
    parser.add_argument(
        "--url-file", type=Path, metavar="FILE", help="write the listeners' URLs to FILE when ready, one per line"
    )


def add_setting_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that set settings; docs/configuration.md lists them."""
    flag = parser.add_argument
    flag(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration, a YAML file; configs/warmstart.yaml explains every key",
    )
    flag(
        "--origin",
        metavar="URL",
        help="where the objects are: s3:// (AWS), gs:// (Google), http://host:port (any S3-compatible store), file:///directory",
    )
    flag("--region", help="region of --origin")
    flag("--anonymous", action="store_true", default=None, help="read --origin without credentials")
    flag(
        "--listen",
        action="append",
        metavar="HOST:PORT",
        help="address to listen on, default 127.0.0.1:9000; may be repeated",
    )
    flag("--workers", metavar="N", help="number of serving processes, default 2")
    flag("--cache-dir", metavar="DIR", help="cache directory, default ~/.cache/warmstart")
    flag("--cache-size", metavar="SIZE", help="cache size, such as 500GiB; default 20GiB")
    flag(
        "--auth", metavar="MODE", help="none: serve anybody who can connect; required unless all listeners are loopback"
    )
    flag("--log-level", metavar="LEVEL", help="debug, info (default), warning or error")


def read_arguments(arguments: argparse.Namespace) -> Configuration:
    """Return the configuration from flags, environment and file. Raises ConfigInvalid."""
    names = ("origin", "region", "anonymous", "cache_dir", "cache_size", "log_level")
    shorthands = Shorthands(**{name: getattr(arguments, name) for name in names})
    flags: dict[str, Any] = {name: getattr(arguments, name) for name in ("listen", "workers", "auth")}
    given = {name: value for name, value in flags.items() if value is not None}
    return load_configuration(arguments.config, os.environ, given, shorthands)


def run(arguments: argparse.Namespace) -> int:
    configuration = read_arguments(arguments)
    settings = configuration.settings
    start_logging("supervisor", level=settings.log.level, form=settings.log.format)
    for note in configuration.notes:
        log.warning("%s", note)
    run_id = os.urandom(8).hex()
    try:
        folder = RuntimeFolder(run_id, runtime_parents(settings.cache.disks[0].path))
    except OSError as error:
        raise ConfigInvalid(str(error)) from None
    try:
        # prometheus-client decides at its import whether counters are shared, so the metrics are imported after this.
        os.environ[METRICS_VARIABLE] = str(folder.metrics)
        from proxy.process.supervisor import Supervisor

        return Supervisor(settings, run_id, url_file=arguments.url_file).run()
    finally:
        folder.close()
        sys.stderr.flush()
