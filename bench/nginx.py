"""nginx, the peer: one worker that serves a folder's files, or its slice cache before another server.

As an expert would set it up: sendfile with `tcp_nopush` (or, on demand, without), no access log, keep-alive without a
limit, open files kept, no thread pool (what it serves is in memory). The slice cache fetches and keeps 8 MiB slices,
as long as the blocks it is compared with.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.processes import SERVER_CORES, children, free_port, program, running, wait_for_port

INSTALL = "apt-get install nginx"

_CONFIG = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush {nopush};
    tcp_nodelay on;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    default_type application/octet-stream;
    open_file_cache max=20000 inactive=600s;
    open_file_cache_valid 600s;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {cache}
    server {{
        listen 127.0.0.1:{port} {tls};
        {certificate}
        location / {{ {location} }}
    }}
}}
"""
_CACHE = "proxy_cache_path {folder}/cache levels=1:2 keys_zone=slices:64m max_size=64g inactive=600m use_temp_path=off;"
_SLICES = """
            slice 8m;
            proxy_pass {origin};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Range $slice_range;
            proxy_set_header Authorization "";
            proxy_cache slices;
            proxy_cache_key $uri$slice_range;
            proxy_cache_valid 200 206 600m;
            proxy_cache_lock on;
            proxy_buffers 8 128k;
            proxy_buffer_size 128k;
            proxy_max_temp_file_size 0;
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """`url` has no trailing slash; `pids` are the worker's and its helpers'."""

    url: str
    pids: tuple[int, ...]


@contextlib.contextmanager
def start_nginx(
    folder: Path,
    root: Path | None = None,
    *,
    origin: str | None = None,
    certificate: tuple[Path, Path] | None = None,
    cores: set[int] | None = None,
    nopush: bool = True,
) -> Iterator[Nginx]:
    """Files of `root`, or a slice cache before `origin` (a URL); `certificate`: chain and key, for TLS.

    Raises Missing where nginx is not installed.
    """
    assert (root is None) != (origin is None)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            folder=folder,
            port=port,
            nopush="on" if nopush else "off",
            cache=_CACHE.format(folder=folder) if origin is not None else "",
            location=_SLICES.format(origin=origin) if origin is not None else f"root {root};",
            tls="ssl" if certificate is not None else "",
            certificate="" if certificate is None else _tls_lines(certificate),
        )
    )
    os.chmod(folder, 0o755)  # where nginx is started by root, its worker is another user
    command = [program("nginx", INSTALL), "-p", str(folder), "-c", str(config), "-g", f"user {_user()};"]
    with running(command, folder / "log", cores or SERVER_CORES) as process:
        wait_for_port(port, process, folder / "log")
        scheme = "http" if certificate is None else "https"
        yield Nginx(f"{scheme}://127.0.0.1:{port}", tuple(children(process.pid)))


def _tls_lines(certificate: tuple[Path, Path]) -> str:
    assert ssl.HAS_TLSv1_3
    return f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]}; ssl_protocols TLSv1.3;"


def _user() -> str:
    return "root" if os.getuid() == 0 else "nobody"
