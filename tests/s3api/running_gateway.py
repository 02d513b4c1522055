"""A running gateway, asked byte for byte."""

from __future__ import annotations

import http.client
import random
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from tests.gateways import GatewayProcess
from tests.servers import S3Server

SUFFIX = "s3.test"
BLOCK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Seed:
    content: bytes
    arguments: Mapping[str, Any] = field(default_factory=dict)


BIG = random.Random(1).randbytes(3 * BLOCK_BYTES + 1000)
SEEDS = {
    "big.bin": Seed(
        BIG,
        {
            "ContentType": "application/x-weights",
            "ContentEncoding": "gzip",
            "ContentDisposition": 'attachment; filename="x"',
            "ContentLanguage": "de",
            "CacheControl": "max-age=60",
            "Metadata": {"colour": "blue"},
            "ChecksumAlgorithm": "CRC32",
        },
    ),
    "empty": Seed(b""),
    **{
        key: Seed(key.encode())
        for key in (
            "a b+c%20.bin",
            "é/✓🚀",
            "//double",
            "/lead",
            "../up",
            "./here",
            "dir/../x",
            "k" * 1024,
            "tail/",
            "~!*'()",
        )
    },
}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes

    @property
    def cache(self) -> str:
        return self.headers["x-cache"]

    def error(self) -> dict[str, str]:
        """The elements of an error document."""
        root = ElementTree.fromstring(self.body)
        assert root.tag == "Error"
        return {child.tag: child.text or "" for child in root}


@dataclass(slots=True)
class RunningGateway:
    """`models` is `real-models` at moto, `locked` takes no writes, `shelf` is a directory; any other name is moto's."""

    gateway: GatewayProcess
    moto: S3Server
    shelf: Path

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.gateway.url.rsplit(":", 1)[1])

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> Answer:
        """One request on a connection of its own; `target` goes out as it is."""
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        try:
            connection.putrequest(method, target, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if isinstance(body, bytes):
                connection.putheader("Content-Length", str(len(body)))
                body = [body]
            connection.endheaders()
            for piece in body or ():
                connection.send(piece)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, key: str, bucket: str = "models", **headers: str) -> Answer:
        return self.ask("GET", f"/{bucket}/{quote(key)}", {name.replace("_", "-"): headers[name] for name in headers})

    def talk(self, *messages: bytes) -> bytes:
        """Raw bytes out; what comes back until the server closes."""
        with socket.create_connection(self.address, timeout=60) as connection:
            for message in messages:
                connection.sendall(message)
            received = b""
            while data := connection.recv(65536):
                received += data
            return received

    def stored(self, key: str, bucket: str = "plain") -> dict[str, Any] | None:
        """The object as moto has it, its body read; None where there is none."""
        client = self.moto.client()
        try:
            found: dict[str, Any] = client.get_object(Bucket=bucket, Key=key)
        except client.exceptions.NoSuchKey:
            return None
        return {**found, "Body": found["Body"].read()}
