"""The demo itself: makes the model, starts origin and gateway, or gateways, loads three ways, prints the table.

Everything lies in one temporary folder and is gone at the end; all traffic stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from proxy.cli.demo.fleet import check_nodes, gang_table, load_gang, nodes_table, start_gang
from proxy.cli.demo.load import Load, WrongBytes, load_model
from proxy.cli.demo.model import ModelFile, make_model
from proxy.cli.demo.processes import (
    BUCKET,
    PREFIX,
    await_answer,
    await_file,
    cache_bytes,
    child_process,
    free_ports,
    origin_bytes,
    slow_origin,
)
from proxy.config.quantities import parse_duration, parse_size
from proxy.errors import ConfigInvalid

AIR = 1.1  # beside the model and each cache
SIZE_BYTES_MIN = 1 << 20


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One load, and what the origin had to send for it through the gateway (None: the client went there itself)."""

    load: Load
    origin_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Makes a sharded model behind an S3 server that is throttled like a cloud. Loads it directly, cold "
        "through a gateway, and hot. Then keeps running for your own clients. With --nodes, a fleet does it, all nodes "
        "at once."
    )
    flag = parser.add_argument
    flag("--nodes", type=int, default=1, metavar="N", help="number of gateways that share their work (default 1)")
    flag("--size", help="size of the model (default 1GiB; 512MiB for a fleet)")
    flag("--rate", default="50MB", help="bytes per second on each connection to the origin (default %(default)s)")
    flag(
        "--link",
        default="200MB",
        help="with --nodes: bytes per second on all connections together (default %(default)s)",
    )
    flag("--latency", default="20ms", help="time to the origin's first byte (default %(default)s)")
    flag("--listen", default="127.0.0.1:9000", help="the (first) gateway's address (default %(default)s; port 0: any)")
    flag("--dir", type=Path, help="folder for model and cache (default: a temporary one)")
    flag("--exit", action="store_true", help="exit after printing the table")


def run(arguments: argparse.Namespace) -> int:
    fleet = arguments.nodes != 1
    check_nodes(arguments.nodes)
    size_bytes = _quantity("--size", arguments.size or ("512MiB" if fleet else "1GiB"), parse_size)
    rate = _quantity("--rate", arguments.rate, parse_size)
    link = _quantity("--link", arguments.link, parse_size) if fleet else 0.0
    latency_s = _quantity("--latency", arguments.latency, parse_duration)
    if importlib_missing("obstore"):
        raise ConfigInvalid("the demo needs an S3 client; install it with pip install 'warmstart[demo]'")
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="warmstart-demo-", dir=arguments.dir) as name:
        folder = Path(name)
        _check_room(folder, size_bytes, arguments.nodes)
        files = _make(console, folder / "origin" / BUCKET / PREFIX, size_bytes)
        with slow_origin(folder / "origin", rate, latency_s, link) as origin_url:
            pace = f"each connection {rate / 1e6:.0f} MB/s, first byte after {latency_s * 1e3:.0f} ms"
            pace += f", all connections together {link / 1e6:.0f} MB/s" if fleet else ""
            console.print(f"Origin: {origin_url}, {pace}.")
            try:
                (_show_fleet if fleet else _show_node)(console, folder, arguments, origin_url, files)
            except WrongBytes as error:
                console.print(f"[red]Wrong bytes: {error}[/red]")
                return 1
    return 0


def _show_node(
    console: Console, folder: Path, arguments: argparse.Namespace, origin_url: str, files: list[ModelFile]
) -> None:
    with _gateway(folder, arguments.listen, origin_url, _cache_bytes(files)) as gateway_url:
        console.print(f"Gateway: {gateway_url}, cache in {folder / 'cache'}.\n")
        console.print(_table(asyncio.run(_loads(console, origin_url, gateway_url, files))))
        if not arguments.exit:
            _keep_running(console, gateway_url, files)


def _show_fleet(
    console: Console, folder: Path, arguments: argparse.Namespace, origin_url: str, files: list[ModelFile]
) -> None:
    cache_size_bytes = _cache_bytes(files)
    with start_gang(folder, arguments.listen, arguments.nodes, origin_url, cache_size_bytes) as (urls, found_by):
        console.print(f"Gateways: {', '.join(urls)}; they find each other through {found_by}.\n")
        rows = asyncio.run(load_gang(console, origin_url, urls, files))
        console.print(gang_table(rows, len(urls)))
        console.print(nodes_table(rows[1], urls))
        if not arguments.exit:
            settings = folder / "node-0" / "warmstart.yaml"
            console.print(f"\n  warmstart cluster --config {settings}", highlight=False, soft_wrap=True)
            _keep_running(console, urls[0], files)


def _cache_bytes(files: list[ModelFile]) -> int:
    return cache_bytes(sum(file.size_bytes for file in files))


def importlib_missing(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is None


def _quantity(flag: str, text: str, parse: object) -> float:
    try:
        value = float(parse(text))  # type: ignore[operator]
    except ValueError as error:
        raise ConfigInvalid(f"{flag} {text!r} {error}") from None
    if flag == "--size" and value < SIZE_BYTES_MIN:
        raise ConfigInvalid(f"{flag} {text!r}: is too small for a model's files; write at least 1MiB, such as 1GiB")
    if flag in ("--rate", "--link") and value <= 0:
        raise ConfigInvalid(f"{flag} {text!r}: must be more than 0; write a rate such as 50MB")
    return value


def _check_room(folder: Path, size_bytes: float, nodes: int) -> None:
    free_bytes, needed = shutil.disk_usage(folder).free, (size_bytes + nodes * cache_bytes(size_bytes)) * AIR
    if free_bytes < needed:
        raise ConfigInvalid(
            f"--dir {str(folder.parent)!r} has {free_bytes / 1e9:.1f} GB free, but the demo needs "
            f"{needed / 1e9:.1f} GB; use another folder or a smaller --size"
        )


def _make(console: Console, folder: Path, size_bytes: float) -> list[ModelFile]:
    folder.mkdir(parents=True)
    with console.status("Making the model"):
        files = make_model(folder, int(size_bytes))
    total_bytes = sum(file.size_bytes for file in files)
    console.print(f"Model: {len(files)} files, {total_bytes / 1e9:.2f} GB in s3://{BUCKET}/{PREFIX}")
    return files


@contextlib.contextmanager
def _gateway(folder: Path, listen: str, origin_url: str, cache_size_bytes: int) -> Iterator[str]:
    with free_ports(listen, 1):
        pass  # free a moment ago; the gateway binds it now
    urls = folder / "urls"
    command = [sys.executable, "-m", "proxy", "serve", "--listen", listen, "--origin", origin_url, "--anonymous"]
    command += ["--cache-dir", str(folder / "cache"), "--cache-size", f"{cache_size_bytes}B", "--url-file", str(urls)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WARMSTART_")}
    with child_process(command, folder / "gateway.log", env=environment) as child:
        await_file(child, urls, folder / "gateway.log")
        url = urls.read_text().split()[0]
        await_answer(child, f"{url}/-/ready", folder / "gateway.log")
        yield url


async def _loads(console: Console, origin_url: str, gateway_url: str, files: list[ModelFile]) -> list[LoadRow]:
    rows = []
    total_bytes = sum(file.size_bytes for file in files)
    columns = (TextColumn("{task.description:20}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        ways = {"direct": origin_url, "cold via warmstart": gateway_url, "hot via warmstart": gateway_url}
        for name, url in ways.items():
            task = progress.add_task(name, total=total_bytes)
            before = origin_bytes(gateway_url)
            load = await load_model(name, url, BUCKET, PREFIX, files, lambda count: progress.advance(task, count))  # noqa: B023
            sent = load.received_bytes if name == "direct" else origin_bytes(gateway_url) - before
            rows.append(LoadRow(load, sent))
    return rows


def _table(rows: list[LoadRow]) -> Table:
    table = Table(title="Loading the model")
    for name in ("way", "time", "GB/s", "times as fast", "from the origin"):
        table.add_column(name, justify="left" if name == "way" else "right", no_wrap=True)
    direct = rows[0].load.seconds
    for row in rows:
        load = row.load
        table.add_row(
            load.name,
            f"{load.seconds:.2f} s",
            f"{load.gb_per_s:.2f}",
            f"{direct / load.seconds:.1f}x",
            f"{row.origin_bytes / 1e9:.2f} GB",
        )
    return table


def _keep_running(console: Console, url: str, files: list[ModelFile]) -> None:
    path = f"{BUCKET}/{PREFIX}{files[0].name}"
    console.print(
        f"""
The gateway keeps running. In another terminal, try:

  curl -s -o /dev/null -D - -r 0-7 {url}/{path}

  AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any aws --endpoint-url {url} --region us-east-1 \\
    s3 cp s3://{path} /dev/null

  python -c 'import boto3; s3 = boto3.client("s3", endpoint_url="{url}", region_name="us-east-1",
    aws_access_key_id="any", aws_secret_access_key="any")
  print(s3.get_object(Bucket="{BUCKET}", Key="{PREFIX}config.json")["Body"].read().decode())'

Press Ctrl-C to stop.""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
