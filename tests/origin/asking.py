"""What tests of origins share: a sink, an S3 or GCS origin at some server, and a counter's value."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import REGISTRY

from proxy.objects import ObjectVersion
from proxy.origin import ForwardResponse, Origin
from proxy.origin.exchange import HttpLimits
from proxy.origin.gcs import AnonymousTokens, GcsOrigin, GcsSettings, TokenSource
from proxy.origin.incidents import Incidents
from proxy.origin.s3 import Credentials, FixedCredentials, S3Origin, S3Settings
from proxy.origin.watched import WatchedOpener, watched
from proxy.wire.client import WireClient

NOW_S = 1_795_500_000.0
KEYS = Credentials("AKIDEXAMPLE", "very-secret")
QUICK = HttpLimits(connect_timeout_s=5.0, read_timeout_s=5.0, forward_timeout_s=5.0)


class Received:
    """A sink that keeps what it gets; `slow`: it asks to be awaited each time."""

    def __init__(self, *, slow: bool = False) -> None:
        self.data = bytearray()
        self.writes = 0
        self._slow = slow

    def write(self, data: memoryview) -> Awaitable[None] | None:
        self.writes += 1
        if self._slow:
            return self._later(data)
        self.data += data
        return None

    async def _later(self, data: memoryview) -> None:
        await asyncio.sleep(0)
        self.data += data


@asynccontextmanager
async def s3_origin(
    url: str, *, credentials: Credentials | None = KEYS, wire: WireClient | None = None, **settings: Any
) -> AsyncIterator[WatchedOpener]:
    settings.setdefault("limits", QUICK)
    made = S3Origin(S3Settings(url, **settings), FixedCredentials(credentials), wire, clock=lambda: NOW_S)
    origin = watched(made, Incidents(made.name))
    assert isinstance(origin, WatchedOpener)
    _BEFORE.update(_samples(origin.id))
    try:
        yield origin
    finally:
        await origin.aclose()


class Tokens:
    """A source of tokens `t1`, `t2`, ...; a new one at each renewal."""

    def __init__(self) -> None:
        self.number = 1

    async def get(self) -> str:
        return f"t{self.number}"

    async def renew(self, refused: str) -> str:
        if refused == f"t{self.number}":
            self.number += 1
        return f"t{self.number}"


@asynccontextmanager
async def gcs_origin(url: str, tokens: TokenSource | None = None, **settings: Any) -> AsyncIterator[WatchedOpener]:
    settings.setdefault("limits", QUICK)
    made = GcsOrigin(GcsSettings(url, **settings), tokens or AnonymousTokens(), clock=lambda: NOW_S)
    origin = watched(made, Incidents(made.name))
    assert isinstance(origin, WatchedOpener)
    _BEFORE.update(_samples(origin.id))
    try:
        yield origin
    finally:
        await origin.aclose()


def version_of(origin: Origin, data: bytes, *, etag: str = '"v1"', validator: str | None = None) -> ObjectVersion:
    """The version that the scripted servers serve."""
    return ObjectVersion(origin.id, "models", "weights", validator or f"etag {etag}", len(data))


async def read_all(response: ForwardResponse) -> bytes:
    """The body, and the response closed."""
    try:
        return b"".join([chunk async for chunk in response.body])
    finally:
        await response.close()


def counted(name: str, origin: str, **labels: str) -> float:
    """A counter's value since the test's `s3_origin` was made: a port, and so a name, may have been used before."""
    key = (f"warmstart_{name}_total", frozenset({"origin": origin, **labels}.items()))
    return _samples(origin).get(key, 0.0) - _BEFORE.get(key, 0.0)


_Sample = tuple[str, frozenset[tuple[str, str]]]
_BEFORE: dict[_Sample, float] = {}


def _samples(origin: str) -> dict[_Sample, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.labels.get("origin") == origin
    }
