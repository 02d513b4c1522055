"""Where a client is pointed: a gateway before an origin, or (WARMSTART_TEST_DIRECT=1) the origin itself.

A `Site` seeds objects behind the gateway's back, at the origin, and tells how many bytes the gateway has read there,
so that a test can show both that the bytes are right and that a second read cost the origin nothing.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from tests.gateways import GatewayProcess, start_gateway
from tests.servers import GcsServer, S3Server, start_fake_gcs, start_gcs_emulator, start_moto, start_rclone

DIRECT = os.environ.get("WARMSTART_TEST_DIRECT", "") not in ("", "0")
HOST_SUFFIX = "s3.test"  # virtual-host style: <bucket>.s3.test
REGION = "us-east-1"
MIB = 1 << 20
BLOCK_BYTES = MIB  # small, so that objects of a few MiB have several


def payload(size_bytes: int, seed: int = 1) -> bytes:
    """The same noise for the same arguments."""
    return random.Random(seed).randbytes(size_bytes)


@dataclass(slots=True)
class Site:
    """One endpoint for clients. `kind` is moto, rclone, gcs, gcs-emulator or directory; `url` has no trailing slash.

    `by_host`: for clients that can't be told how a name resolves. They send requests for `*.s3.test` to the gateway as
    if it were their proxy, that is in absolute form (`GET http://bucket.s3.test/key`).
    """

    kind: str
    url: str
    access_key_id: str
    secret_access_key: str
    gateway: GatewayProcess | None
    _server: S3Server | GcsServer | None
    _root: Path | None
    by_host: bool = False

    @property
    def endpoint(self) -> str:
        """Where a client in a process of its own is pointed."""
        return self.virtual_url if self.by_host else self.url

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def virtual_url(self) -> str:
        """The endpoint whose buckets are host names; only who uses `resolving` or a proxy finds it."""
        return f"http://{HOST_SUFFIX}:{self.port}"

    def bucket(self) -> str:
        """A new, empty bucket at the origin."""
        name = f"b-{uuid.uuid4().hex[:12]}"
        if isinstance(self._server, GcsServer):
            self._server.create_bucket(name)
        elif self._server is not None:
            self._server.client().create_bucket(Bucket=name)
        else:
            assert self._root is not None
            (self._root / name).mkdir()
        return name

    def put(self, bucket: str, key: str, data: bytes, **headers: Any) -> None:
        """Store an object at the origin, past the gateway."""
        if isinstance(self._server, GcsServer):
            described = {name[0].lower() + name[1:]: value for name, value in headers.items()}
            self._server.put(bucket, key, data, **described)
        elif self._server is not None:
            self._server.client().put_object(Bucket=bucket, Key=key, Body=data, **headers)
        else:
            assert self._root is not None
            path = self._root / bucket / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def get(self, bucket: str, key: str) -> bytes:
        """Read an object at the origin, past the gateway."""
        assert isinstance(self._server, S3Server)
        body: bytes = self._server.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def boto3(self, style: str = "path", **config: Any) -> Any:
        """A boto3 client; `style` is path or virtual (then within `resolving`)."""
        if DIRECT and self.kind == "rclone":  # it sends the whole object's checksum with a range
            config["response_checksum_validation"] = "when_required"
        return boto3.client(
            "s3",
            endpoint_url=self.virtual_url if style == "virtual" else self.url,
            region_name=REGION,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(s3={"addressing_style": style}, retries={"total_max_attempts": 1}, proxies={}, **config),
        )

    def origin_bytes(self) -> float:
        """What the gateway has read of objects' bytes at the origin so far."""
        return self.gateway.metric("warmstart_origin_bytes_total") if self.gateway else 0.0

    @contextlib.contextmanager
    def no_origin_bytes(self) -> Iterator[None]:
        """What happens inside is answered from this node's disk."""
        before = self.origin_bytes()
        yield
        assert self.origin_bytes() == before, "a second read went to the origin"

    def assert_cache(self, answer: Mapping[str, Any], expected: str) -> None:
        """A boto3 answer's X-Cache, where a gateway answered."""
        if self.gateway is not None:
            assert answer["ResponseMetadata"]["HTTPHeaders"]["x-cache"] == expected

    def environment(self) -> dict[str, str]:
        """For a client's own process."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        proxy = {"HTTP_PROXY": self.url, "http_proxy": self.url} if self.by_host else {}
        return {
            **kept,
            "HOME": "/nonexistent",
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            **proxy,
        }

    def run(self, program: str, *arguments: str | Path, **environment: str) -> str:
        """Run an installed client program; its standard output. `environment` is added to its own."""
        beside = Path(sys.executable).parent / program
        done = subprocess.run(
            [str(beside) if beside.exists() else program, *arguments],
            env=self.environment() | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stderr.decode(errors='replace')}"
        return done.stdout.decode("utf-8", "replace")


class Sites:
    """The sites of a test run, each started when it is first asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._started: dict[str, Site] = {}

    def __getitem__(self, kind: str) -> Site:
        if kind not in self._started:
            self._started[kind] = self._start(kind)
        return self._started[kind]

    def _start(self, kind: str) -> Site:
        folder = self._folder / kind
        root = folder / "root"
        root.mkdir(parents=True, exist_ok=True)
        server: S3Server | GcsServer | None = None
        if kind != "directory":
            server = _start_server(kind, root)
            self._stack.callback(server.stop)
        access_key_id = server.access_key_id if isinstance(server, S3Server) else "any"
        secret_access_key = server.secret_access_key if isinstance(server, S3Server) else "secret"
        if DIRECT:
            assert server is not None
            return Site(kind, server.url, access_key_id, secret_access_key, None, server, None)
        config = {"host_suffixes": [HOST_SUFFIX], "cache": {"block_size": f"{BLOCK_BYTES // MIB}MiB"}}
        # Two workers where moto answers: what one of them brings in, the other serves.
        workers = 2 if kind == "moto" else 1
        origin: Any = server or f"file://{root}"
        if isinstance(server, GcsServer):
            origin = {"type": "gcs", "endpoint": server.url, "anonymous": True, "project": "tests"}
        gateway = start_gateway(folder, origin=origin, workers=workers, config=config)
        self._stack.enter_context(gateway)
        return Site(kind, gateway.url, access_key_id, secret_access_key, gateway, server, None if server else root)


def _start_server(kind: str, root: Path) -> S3Server | GcsServer:
    match kind:
        case "moto":
            return start_moto()
        case "gcs":
            return start_fake_gcs()
        case "gcs-emulator":
            return start_gcs_emulator()
    return start_rclone(root)


@contextlib.contextmanager
def resolving() -> Iterator[None]:
    """Inside, every `*.s3.test` is this machine, for clients that run in this process."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        ours = isinstance(name, str) and (name == HOST_SUFFIX or name.endswith("." + HOST_SUFFIX))
        return real("127.0.0.1" if ours else host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo
    try:
        yield
    finally:
        socket.getaddrinfo = real
