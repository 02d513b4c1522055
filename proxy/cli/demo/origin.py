"""An S3 server over a directory that behaves like a cloud: a byte rate per connection (and optionally for all of them
together), and latency.

It is the gateway's own S3 surface over a directory origin, with no cache behind it: every body is read from the
files as it is sent. Runs as a process of its own, so that its work is not measured as the gateway's.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from proxy.blocks import Piece
from proxy.conditions import Verdict
from proxy.errors import PreconditionFailed
from proxy.fill.uncached import stream_span
from proxy.gateway.answers import CacheStatus, ReadAnswer, ReadObject
from proxy.gateway.forward import Forwarder, WriteFence
from proxy.gateway.routes import BucketRoute, Routes
from proxy.lanes.express import ExpressProtocol
from proxy.objects import ObjectKey
from proxy.origin.directory import DirectoryOrigin
from proxy.ranges import ByteRange
from proxy.upstream.retry import RetryPolicy
from s3api.app import S3App

AHEAD_S = 0.02  # how far a body may run ahead of its rate: one short sleep at a time


@dataclass(frozen=True, slots=True)
class Throttle:
    """`bytes_per_s` for each response (so, for each connection); `latency_s` before each answer. `total_bytes_per_s`
    of all together, 0: no limit."""

    bytes_per_s: float
    latency_s: float
    total_bytes_per_s: float = 0.0


class UncachedGateway:
    """Answers reads as `proxy.gateway.read` does, straight from the files, at the throttle's pace."""

    def __init__(self, root: Path, throttle: Throttle) -> None:
        self._origin = DirectoryOrigin(root)
        self._throttle = throttle
        self._free_at_s = 0.0  # when the shared link has sent everything that it was given
        self.routes = Routes({}, BucketRoute("*", self._origin, "*", writes_through=False))

    def route(self, bucket: str) -> BucketRoute:
        return self.routes.route(bucket)

    def prepare(self, request: ReadObject) -> None:
        """Nothing here is answered at once."""

    async def read(self, request: ReadObject) -> ReadAnswer:
        await asyncio.sleep(self._throttle.latency_s)
        record = await self._origin.head(request.name.bucket, request.name.key, request.name.version_id)
        answer = ReadAnswer(record, CacheStatus.BYPASS)
        verdict = request.conditions.evaluate(record.etag, record.last_modified_s)
        if verdict is Verdict.FAILED:
            raise PreconditionFailed(request.conditions.failed_name())
        if verdict is Verdict.NOT_MODIFIED:
            return replace(answer, not_modified=True)
        if request.range is not None:
            answer.span = request.range.resolve(record.size_bytes)
        if not request.head_only:
            span = answer.span or ByteRange(0, record.size_bytes)
            answer.body = self._paced(stream_span(self._origin, record.version, span, RetryPolicy()))
        return answer

    async def _paced(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[Piece | bytes, None]:
        began, sent_bytes = time.monotonic(), 0
        try:
            async for chunk in body:
                ahead_s = sent_bytes / self._throttle.bytes_per_s - (time.monotonic() - began)
                if ahead_s > AHEAD_S:
                    await asyncio.sleep(ahead_s)
                sent_bytes += len(chunk)
                await self._pass_link(len(chunk))
                yield chunk
        finally:
            await body.aclose()

    async def _pass_link(self, count: int) -> None:
        """Wait until the shared link has capacity for this many bytes."""
        if self._throttle.total_bytes_per_s:
            now_s = time.monotonic()
            self._free_at_s = max(self._free_at_s, now_s - AHEAD_S) + count / self._throttle.total_bytes_per_s
            ahead_s = self._free_at_s - now_s
            if ahead_s > AHEAD_S:
                await asyncio.sleep(ahead_s)


class NoKeys:
    """Caches nothing; every write is refused before it could be fenced."""

    def fence(self, key: ObjectKey) -> WriteFence:
        raise AssertionError(f"a read-only origin was asked to write {key.key!r}")


def main(root: str, bytes_per_s: str, latency_s: str, sock_fd: str, total_bytes_per_s: str = "0") -> None:
    """Serves until it is killed; the supervisor of the demo holds the listening socket and hands it over."""
    gateway = UncachedGateway(Path(root), Throttle(float(bytes_per_s), float(latency_s), float(total_bytes_per_s)))
    app = S3App(gateway, Forwarder(NoKeys()))
    config = uvicorn.Config(app, http=ExpressProtocol, lifespan="off", log_level="error", access_log=False)
    with socket.socket(fileno=int(sock_fd)) as listener:
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
