"""One gateway before an S3 store, a GCS and a directory, asked in each dialect."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.gateways import GatewayProcess
from tests.servers import GcsServer, S3Server

DIALECTS = ("s3", "json", "xml")
ORIGINS = ("moto", "goog", "shelf")  # each the name of its bucket, too
BLOCK_BYTES = 64 << 10

_SIGNED = {
    "s3": {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, Signature=0"},
    "json": {"Authorization": "Bearer token"},
    "xml": {"Authorization": "Bearer token"},
}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # lower-case names; repeated ones joined by commas
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Crossing:
    """`moto`, `goog` and `shelf` are buckets; each lies under its real name `real-NAME` at its origin."""

    gateway: GatewayProcess
    moto: S3Server
    goog: GcsServer
    shelf: Path

    def put(self, origin: str, key: str, data: bytes, *, gzip: bool = False, metadata: Any = None) -> None:
        """Past the gateway. A directory keeps neither encoding nor metadata."""
        if origin == "moto":
            more: dict[str, Any] = {"ContentEncoding": "gzip"} if gzip else {}
            more |= {"Metadata": metadata} if metadata else {}
            self.moto.client().put_object(Bucket="real-moto", Key=key, Body=data, ChecksumAlgorithm="CRC32C", **more)
        elif origin == "goog":
            more = {"contentEncoding": "gzip"} if gzip else {}
            self.goog.put("real-goog", key, data, contentType="text/plain", **more, metadata=metadata or {})
        else:
            path = self.shelf / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def ask(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Answer:
        """One request on a connection of its own; `target` goes out as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self.gateway.url.rsplit(":", 1)[1]), timeout=60)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True, skip_host="Host" in (headers or {}))
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body and "Content-Length" not in (headers or {}):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            found: dict[str, str] = {}
            for name, value in response.getheaders():
                found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def send_and_leave(self, message: bytes) -> None:
        """Raw bytes out, and gone without waiting for an answer."""
        with socket.create_connection(("127.0.0.1", int(self.gateway.url.rsplit(":", 1)[1])), timeout=60) as connection:
            connection.sendall(message)

    def read(self, dialect: str, bucket: str, key: str, method: str = "GET", query: str = "", **headers: str) -> Answer:
        """An object's bytes in one dialect. `headers` have underscores for dashes."""
        if dialect == "json":
            target = f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}?alt=media" + (f"&{query}" if query else "")
        else:
            target = f"/{bucket}/{quote(key)}" + (f"?{query}" if query else "")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask(method, target, _SIGNED[dialect] | named)

    def resource(self, bucket: str, key: str, query: str = "") -> Answer:
        target = f"/storage/v1/b/{bucket}/o/{quote(key, safe='')}" + (f"?{query}" if query else "")
        return self.ask("GET", target, _SIGNED["json"])

    def origin_bytes(self) -> float:
        return self.gateway.metric("warmstart_origin_bytes_total")
