"""The surface before an origin that notes what it is sent, and answers what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import httpx

from gcsapi.app import GcsApp
from proxy.gateway.forward import Forwarder
from proxy.gateway.routes import BucketRoute, Routes
from proxy.objects import ObjectKey
from proxy.origin import ForwardRequest, ForwardResponse, Origin

HOST = "http://gateway:9000"


@dataclass(slots=True)
class Sent:
    """What the origin was sent. `fenced` are the names that could not be installed meanwhile."""

    request: ForwardRequest
    body: bytes
    fenced: frozenset[str]

    def header(self, name: str) -> str | None:
        return next((value for found, value in self.request.headers if found == name), None)


@dataclass(slots=True)
class Fence:
    name: str
    fenced: set[str]

    def lift(self) -> None:
        self.fenced.discard(self.name)


@dataclass(slots=True)
class Keys:
    fenced: set[str] = field(default_factory=set)

    def fence(self, key: ObjectKey) -> Fence:
        name = f"{key.bucket}/{key.key}" + (f"#{key.version_id}" if key.version_id else "")
        self.fenced.add(name)
        return Fence(name, self.fenced)


class NotingOrigin:
    """`answer` makes status, headers and body of what is told."""

    dialect = "gcs"

    def __init__(self, name: str, keys: Keys) -> None:
        self.id = f"gcs://{name}"
        self.sent: list[Sent] = []
        self.closed = 0
        self.answer: Callable[[Sent], tuple[int, dict[str, str], bytes]] = lambda sent: (200, {}, b"")
        self._keys = keys

    async def forward(self, request: ForwardRequest) -> ForwardResponse:
        body = b"".join([data async for data in request.body]) if request.body is not None else b""
        sent = Sent(request, body, frozenset(self._keys.fenced))
        self.sent.append(sent)
        status, headers, content = self.answer(sent)

        async def chunks() -> AsyncIterator[bytes]:
            for offset in range(0, len(content), 1000):
                yield content[offset : offset + 1000]

        async def close() -> None:
            self.closed += 1

        told = {"content-length": str(len(content)), **headers}
        return ForwardResponse(status, tuple(told.items()), chunks(), close)


class NoGateway:
    """Routes, and nothing to read."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes

    def route(self, bucket: str) -> BucketRoute:
        return self.routes.route(bucket)

    def known(self, *_: object) -> None:
        return None

    prepare = known

    async def read(self, *_: object) -> Any:
        raise AssertionError("nothing is read here")


class Surface:
    """`w` is `real-w` and `v` is `real-v` at one origin, `far` is at another; `locked` takes no writes."""

    def __init__(self) -> None:
        self.keys = Keys()
        self.origin = NotingOrigin("near", self.keys)
        far = NotingOrigin("far", self.keys)

        def route(name: str, origin: NotingOrigin, writes: bool = True) -> BucketRoute:
            return BucketRoute(name, cast(Origin, origin), f"real-{name}", writes)

        near = {name: route(name, self.origin) for name in ("w", "v")}
        routes = Routes(
            {**near, "far": route("far", far), "locked": route("locked", self.origin, False)},
            route("*", self.origin),
        )
        self.forwarder = Forwarder(self.keys, linger_s=0.0)
        self.app = GcsApp(NoGateway(routes), self.forwarder, session_keys=[b"key"])

    async def ask(self, method: str, target: str, **options: Any) -> httpx.Response:
        transport = httpx.ASGITransport(cast(Any, self.app))
        async with httpx.AsyncClient(transport=transport, base_url=HOST) as client:
            return await client.request(method, target, **options)

    @property
    def last(self) -> Sent:
        return self.origin.sent[-1]
