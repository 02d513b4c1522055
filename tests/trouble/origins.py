"""One gateway before many origins, for tests that each need one of their own and leave it dead, silent or lying.

Each origin has an address, a name in the settings and a bucket that nobody uses twice: what the gateway has learnt of
one says nothing of the others, and no test finds what another has left.

    origin = origins.take()
    async with origin.serve(handler) as server:
        await client.get(origin.url)
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.scripted import Handler, ScriptedServer
from tests.gateways import GatewayProcess, origin_settings, start_gateway
from tests.servers import free_port


@dataclass(frozen=True, slots=True)
class Origin:
    """`url`: of an object in its bucket, at the gateway. `name`: what the settings, and so the metrics, call it."""

    gateway: GatewayProcess
    name: str
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"{self.gateway.url}/{self.name}/k"

    def serve(self, handler: Handler) -> ScriptedServer:
        return ScriptedServer(handler, host=self.host, port=self.port)


@dataclass(slots=True)
class Origins:
    """Those that are left."""

    left: list[Origin] = field(default_factory=list)

    def take(self) -> Origin:
        return self.left.pop()


@contextlib.contextmanager
def gateway_before_many(
    folder: Path, count: int, *, workers: int = 1, config: Mapping[str, Any] | None = None
) -> Iterator[Origins]:
    """Nobody listens at an origin's address until a test serves there."""
    net, port = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}", free_port()
    places = {f"origin-{number}": f"{net}.{number + 1}" for number in range(count)}
    rules = {
        "origins": {name: origin_settings(f"http://{host}:{port}") for name, host in places.items()},
        "buckets": {name: {"origin": name} for name in places},
        **(config or {}),
    }
    with start_gateway(folder, workers=workers, config=rules) as gateway:
        yield Origins([Origin(gateway, name, host, port) for name, host in places.items()])
