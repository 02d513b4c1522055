"""The demo itself: makes the model, starts origin and gateway, loads three ways, prints the table.

Everything lies in one temporary folder and is gone at the end; all traffic stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from proxy.cli.demo.load import Load, WrongBytes, load_model
from proxy.cli.demo.model import ModelFile, make_model
from proxy.config.quantities import parse_duration, parse_size
from proxy.errors import ConfigInvalid

BUCKET, PREFIX = "models", "demo-1b/"
START_TIMEOUT_S = 30.0
ROOM_FACTOR = 2.2  # the model, its copy in the cache, and some air


@dataclass(frozen=True, slots=True)
class Row:
    """One load, and what the origin had to send for it through the gateway (None: the client went there itself)."""

    load: Load
    origin_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Makes a sharded model behind an S3 server that is throttled like a cloud, and loads it directly, cold "
        "through a gateway, and hot. Then keeps running for your own clients."
    )
    flag = parser.add_argument
    flag("--size", default="1GiB", help="bytes of the model (default %(default)s)")
    flag("--rate", default="50MB", help="bytes a second of each connection to the origin (default %(default)s)")
    flag("--latency", default="20ms", help="time to the origin's first byte (default %(default)s)")
    flag("--listen", default="127.0.0.1:9000", help="the gateway's address (default %(default)s; port 0: any)")
    flag("--dir", type=Path, help="folder for model and cache (default: a temporary one)")
    flag("--exit", action="store_true", help="end after the table")


def run(arguments: argparse.Namespace) -> int:
    size_bytes = _quantity("--size", arguments.size, parse_size)
    rate = _quantity("--rate", arguments.rate, parse_size)
    latency_s = _quantity("--latency", arguments.latency, parse_duration)
    if importlib_missing("obstore"):
        raise ConfigInvalid("warmstart demo needs its own S3 client: install it with pip install 'warmstart[demo]'")
    console = Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="warmstart-demo-", dir=arguments.dir) as name:
        folder = Path(name)
        _check_room(folder, size_bytes)
        files = _make(console, folder / "origin" / BUCKET / PREFIX, size_bytes)
        with _origin(folder / "origin", rate, latency_s) as origin_url:
            pace = f"each connection {rate / 1e6:.0f} MB/s, first byte after {latency_s * 1e3:.0f} ms"
            console.print(f"Origin: {origin_url}, {pace}.")
            with _gateway(folder, arguments.listen, origin_url) as gateway_url:
                console.print(f"Gateway: {gateway_url}, cache in {folder / 'cache'}.\n")
                try:
                    rows = asyncio.run(_loads(console, origin_url, gateway_url, files))
                except WrongBytes as error:
                    console.print(f"[red]Wrong bytes: {error}[/red]")
                    return 1
                console.print(_table(rows))
                if not arguments.exit:
                    _keep_running(console, gateway_url, files)
    return 0


def importlib_missing(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is None


def _quantity(flag: str, text: str, parse: object) -> float:
    try:
        value = float(parse(text))  # type: ignore[operator]
    except ValueError as error:
        raise ConfigInvalid(f"{flag} {text!r}: {error}") from None
    if flag == "--rate" and value <= 0:
        raise ConfigInvalid(f"{flag} {text!r}: must be more than 0, such as 50MB")
    return value


def _check_room(folder: Path, size_bytes: float) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < size_bytes * ROOM_FACTOR:
        raise ConfigInvalid(
            f"--dir {str(folder.parent)!r} has {free_bytes / 1e9:.1f} GB free, the demo needs "
            f"{size_bytes * ROOM_FACTOR / 1e9:.1f} GB: name another folder, or a smaller --size"
        )


def _make(console: Console, folder: Path, size_bytes: float) -> list[ModelFile]:
    folder.mkdir(parents=True)
    with console.status("Making the model"):
        files = make_model(folder, int(size_bytes))
    total_bytes = sum(file.size_bytes for file in files)
    console.print(f"Model: {len(files)} files, {total_bytes / 1e9:.2f} GB in s3://{BUCKET}/{PREFIX}")
    return files


@contextlib.contextmanager
def _child(command: list[str], log: Path, **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A child process, stopped at the end; its output goes to a file."""
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, **options)  # type: ignore[call-overload]
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def _origin(root: Path, bytes_per_s: float, latency_s: float) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "proxy.cli.demo.origin"]
        command += [str(root), str(bytes_per_s), str(latency_s), str(listener.fileno())]
        with _child(command, root.parent / "origin.log", pass_fds=(listener.fileno(),)) as child:
            url = f"http://127.0.0.1:{port}"
            _await(child, f"{url}/{BUCKET}", root.parent / "origin.log")
            yield url


@contextlib.contextmanager
def _gateway(folder: Path, listen: str, origin_url: str) -> Iterator[str]:
    urls = folder / "urls"
    command = [sys.executable, "-m", "proxy", "serve", "--listen", listen, "--origin", origin_url, "--anonymous"]
    command += ["--cache-dir", str(folder / "cache"), "--cache-size", "1TB", "--url-file", str(urls)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WARMSTART_")}
    with _child(command, folder / "gateway.log", env=environment) as child:
        _await_file(child, urls, folder / "gateway.log")
        url = urls.read_text().split()[0]
        _await(child, f"{url}/-/ready", folder / "gateway.log")
        yield url


def _await_file(child: subprocess.Popen[bytes], path: Path, log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while not path.exists() or not path.read_text().strip():
        _check_alive(child, log, give_up_at)
        time.sleep(0.05)


def _await(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.head(url, trust_env=False).status_code < 500:
                return
        _check_alive(child, log, give_up_at)
        time.sleep(0.05)


def _check_alive(child: subprocess.Popen[bytes], log: Path, give_up_at: float) -> None:
    if child.poll() is not None or time.monotonic() > give_up_at:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise ConfigInvalid(f"the demo's {log.stem} did not start: {' '.join(last) or 'no word from it'}")


async def _loads(console: Console, origin_url: str, gateway_url: str, files: list[ModelFile]) -> list[Row]:
    rows = []
    total_bytes = sum(file.size_bytes for file in files)
    columns = (TextColumn("{task.description:20}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as progress:
        ways = {"direct": origin_url, "cold via warmstart": gateway_url, "hot via warmstart": gateway_url}
        for name, url in ways.items():
            task = progress.add_task(name, total=total_bytes)
            before = _origin_bytes(gateway_url)
            load = await load_model(name, url, BUCKET, PREFIX, files, lambda count: progress.advance(task, count))  # noqa: B023
            sent = load.received_bytes if name == "direct" else _origin_bytes(gateway_url) - before
            rows.append(Row(load, sent))
    return rows


def _origin_bytes(gateway_url: str) -> int:
    """What the gateway has received from its origin so far, from its own metrics."""
    text = httpx.get(f"{gateway_url}/-/metrics", trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("warmstart_origin_bytes_total{")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines))


def _table(rows: list[Row]) -> Table:
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
The gateway goes on serving. Try, in another terminal:

  curl -s -o /dev/null -D - -r 0-7 {url}/{path}

  AWS_ACCESS_KEY_ID=any AWS_SECRET_ACCESS_KEY=any aws --endpoint-url {url} --region us-east-1 \\
    s3 cp s3://{path} /dev/null

  python -c 'import boto3; s3 = boto3.client("s3", endpoint_url="{url}", region_name="us-east-1",
    aws_access_key_id="any", aws_secret_access_key="any")
  print(s3.get_object(Bucket="{BUCKET}", Key="{PREFIX}config.json")["Body"].read().decode())'

Press Ctrl-C to end.""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
