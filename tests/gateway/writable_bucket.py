"""A bucket that can be written, at a node in this process: the forwarder over a real store, an origin that obeys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from proxy.gateway.forward import Forwarder
from proxy.objects import ObjectKey, ObjectName
from proxy.origin import ForwardRequest, ForwardResponse
from tests.gateway.engine import Engine, ObjectOrigin
from tests.waiting import until

NAME = ObjectName("b", "k")
PUT = ForwardRequest("PUT", "b", "k", (), ())


class WritableOrigin(ObjectOrigin):
    """Answers each forwarded request with `answer`, which may look around, wait or raise."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = 0
        self.answer: Callable[[ForwardRequest], Awaitable[ForwardResponse]] = self.ok

    async def ok(self, request: ForwardRequest) -> ForwardResponse:
        return self.respond(200, (("content-length", "0"),))

    def respond(self, status: int, headers: tuple[tuple[str, str], ...], *chunks: bytes) -> ForwardResponse:
        async def body() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        async def close() -> None:
            self.closed += 1

        return ForwardResponse(status, headers, body(), close)

    async def forward(self, request: ForwardRequest) -> ForwardResponse:
        return await self.answer(request)


class WritableBucket:
    def __init__(self, path: Path) -> None:
        self.origin = WritableOrigin()
        self.engine = Engine(path, self.origin)
        self.keys = self.engine.store.keys
        self.forwarder = Forwarder(self.keys, linger_s=0.0)
        self.key = self.engine.bucket.object_key(NAME)

    def fenced(self, key: ObjectKey | None = None) -> bool:
        return self.keys.fenced(key or self.key)

    def token(self) -> int:
        return self.engine.tables.tokens.peek(self.key)

    async def put(self, *names: ObjectName) -> ForwardResponse:
        return await self.forwarder.forward(self.engine.bucket, PUT, names or (NAME,), mutates=True)

    async def lifted(self) -> bool:
        await until(lambda: not self.fenced())
        return True
