"""Buckets of GCS in memory, written by the XML API and read by the JSON API: what the emulators can't do.

    buckets = Buckets({"models"})
    with serve_buckets(buckets) as url: ...

The server runs in a thread with an event loop of its own. It takes no word of S3's and no request without the token,
which a service account's key gets from it.
Source: Cloud Storage documentation, "XML API" (object methods, multipart uploads).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from proxy.blocks import update_sum
from proxy.objects import SumKind
from tests.fakes.scripted import Exchange, Handler, Request, ScriptedServer

TOKEN = "token-1"


@dataclass(slots=True)
class Stored:
    content: bytes
    generation: int
    headers: dict[str, str]

    def resource(self, name: str) -> dict[str, Any]:
        crc = update_sum(SumKind.CRC32C, memoryview(self.content)).to_bytes(4, "big")
        metadata = {key[12:]: value for key, value in self.headers.items() if key.startswith("x-goog-meta-")}
        return {
            "name": name,
            "generation": str(self.generation),
            "metageneration": "1",
            "size": str(len(self.content)),
            "md5Hash": base64.b64encode(hashlib.md5(self.content).digest()).decode(),
            "crc32c": base64.b64encode(crc).decode(),
            "contentType": self.headers.get("content-type", "application/octet-stream"),
            "cacheControl": self.headers.get("cache-control"),
            "metadata": metadata,
            "updated": "2022-01-07T04:16:39Z",
        }


@dataclass(slots=True)
class Buckets:
    """`requests` are those of the XML API."""

    names: set[str]
    objects: dict[tuple[str, str], Stored] = field(default_factory=dict)
    uploads: dict[str, tuple[dict[str, str], dict[int, bytes]]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    generation: int = 1_700_000_000_000_000
    bad_reads: int = 0  # how many downloads to come give a wrong byte

    def store(self, bucket: str, key: str, content: bytes, headers: dict[str, str]) -> Stored:
        self.generation += 1
        self.objects[bucket, key] = stored = Stored(content, self.generation, headers)
        return stored

    async def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        target, _, raw_query = request.target.decode().partition("?")
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        json_path = re.fullmatch(r"/(?:download/)?storage/v1/b/([^/]+)/o/([^/]+)", target)
        if target == "/token":
            await exchange.respond(200, json.dumps({"access_token": TOKEN, "expires_in": 3600}).encode())
        elif request.get("authorization") != f"Bearer {TOKEN}":
            await refuse(exchange, 401, "AuthenticationRequired")
        elif json_path is not None:
            await self._read(exchange, unquote(json_path[1]), unquote(json_path[2]), query)
        else:
            self.requests.append(request)
            bucket, _, key = target[1:].partition("/")
            await self._write(exchange, unquote(bucket), unquote(key), query, dict(request.headers))

    async def _read(self, exchange: Exchange, bucket: str, key: str, query: dict[str, str]) -> None:
        stored = self.objects.get((bucket, key))
        if stored is None or query.get("generation", str(stored.generation)) != str(stored.generation):
            await exchange.respond(
                404, json.dumps({"error": {"code": 404, "message": f"No such object: {key}"}}).encode()
            )
        elif query.get("alt") != "media":
            await exchange.respond(200, json.dumps(stored.resource(key)).encode())
        else:
            first, last = (int(place) for place in (exchange.request.get("range") or "bytes=0-0")[6:].split("-"))
            last = min(last, len(stored.content) - 1)
            label = ("content-range", f"bytes {first}-{last}/{len(stored.content)}")
            headers = [label, ("x-goog-generation", str(stored.generation))]
            content = bytearray(stored.content[first : last + 1])
            if self.bad_reads:
                self.bad_reads -= 1
                content[0] ^= 1
            await exchange.respond(206, bytes(content), headers)

    async def _write(
        self, exchange: Exchange, bucket: str, key: str, query: dict[str, str], headers: dict[str, str]
    ) -> None:
        method, body = exchange.request.method, exchange.request.body
        if any(name.startswith("x-amz-") for name in headers) or "versionId" in query or "x-id" in query:
            await refuse(exchange, 400, "InvalidArgument")
        elif bucket not in self.names:
            await refuse(exchange, 404, "NoSuchBucket")
        elif "uploads" in query and method == "POST":
            upload = f"upload-{len(self.uploads)}"
            self.uploads[upload] = (headers, {})
            await say(
                exchange, "InitiateMultipartUploadResult", f"<Bucket>{bucket}</Bucket><UploadId>{upload}</UploadId>"
            )
        elif "uploadId" in query:
            await self._continue(exchange, bucket, key, query)
        elif method == "DELETE":
            missing = self.objects.pop((bucket, key), None) is None
            await (refuse(exchange, 404, "NoSuchKey") if missing else exchange.send_head(204))
        elif headers.get("x-goog-if-generation-match") == "0" and (bucket, key) in self.objects:
            await refuse(exchange, 412, "PreconditionFailed")
        elif "x-goog-copy-source" in headers:
            source_bucket, _, source_key = unquote(headers["x-goog-copy-source"]).partition("/")
            source = self.objects[source_bucket, source_key]
            stored = self.store(bucket, key, source.content, source.headers)
            await say(exchange, "CopyObjectResult", f"<ETag>{etag(stored.content)}</ETag>")
        else:
            stored = self.store(bucket, key, body, headers)
            answered = [("etag", etag(body)), ("x-goog-generation", str(stored.generation)), ("x-goog-hash", "md5=x")]
            await exchange.respond(200, b"", answered)

    async def _continue(self, exchange: Exchange, bucket: str, key: str, query: dict[str, str]) -> None:
        headers, parts = self.uploads[query["uploadId"]]
        method, body = exchange.request.method, exchange.request.body
        if method == "PUT":
            parts[int(query["partNumber"])] = body
            await exchange.respond(200, b"", [("etag", etag(body))])
        elif method == "DELETE":
            del self.uploads[query["uploadId"]]
            await exchange.send_head(204)
        elif method == "GET":
            items = (f"<Part><PartNumber>{number}</PartNumber></Part>" for number in sorted(parts))
            await say(exchange, "ListPartsResult", "".join(items))
        elif b"Checksum" in body:
            await refuse(exchange, 400, "MalformedCompleteMultipartUploadRequest")
        else:
            numbers = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]
            stored = self.store(bucket, key, b"".join(parts[number] for number in numbers), headers)
            await say(exchange, "CompleteMultipartUploadResult", f"<ETag>{etag(stored.content)}</ETag>")


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


async def say(exchange: Exchange, root: str, content: str) -> None:
    body = f"<?xml version='1.0' encoding='UTF-8'?><{root}>{content}</{root}>".encode()
    await exchange.respond(200, body, [("content-type", "application/xml; charset=UTF-8")])


async def refuse(exchange: Exchange, status: int, code: str) -> None:
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>Said.</Message></Error>".encode()
    await exchange.respond(status, body, [("content-type", "application/xml; charset=UTF-8")])


def serve_buckets(buckets: Buckets) -> AbstractContextManager[str]:
    """The URL of a server of these buckets."""
    return serve(buckets.handle)


@contextlib.contextmanager
def serve(handler: Handler) -> Iterator[str]:
    """The URL of a scripted server in a thread of its own."""
    ready: threading.Event = threading.Event()
    place: dict[str, Any] = {}

    async def run() -> None:
        place["loop"], place["end"] = asyncio.get_running_loop(), asyncio.Event()
        async with ScriptedServer(handler) as server:
            place["url"] = server.url
            ready.set()
            await place["end"].wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert ready.wait(10)
    try:
        yield place["url"]
    finally:
        place["loop"].call_soon_threadsafe(place["end"].set)
        thread.join(10)
