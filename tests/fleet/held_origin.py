"""An S3 origin that stands still where a test wants it to, and tells who asked for what.

    with HeldCloud() as cloud:
        cloud.put("model", content)
        cloud.hold_at(300_000)          # answers stop there, and as far into every later block, until ...
        cloud.wait_until_held()
        cloud.release()

It runs in a thread with an event loop of its own. Nodes are told apart by the access key that they sign with
(`settings`); no signature is checked. Every method may be called from the test's thread.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

from proxy.blocks import update_sum
from proxy.objects import SumKind
from tests.fakes.scripted import Exchange, ScriptedServer

BUCKET = "models"
PIECE_BYTES = 16 << 10
WAIT_S = 60.0
_CREDENTIAL = re.compile(r"Credential=node-(\d+)/")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(slots=True)
class Asked:
    """One request; `node` is the asker's number. `sent_bytes` are the body's so far; `status` 0: not answered yet."""

    node: int
    method: str
    key: str
    start: int
    end: int
    status: int = 0
    sent_bytes: int = 0


class HeldOrigin:
    """`block_bytes` are the gateways' own. `url` has no trailing slash."""

    def __init__(self, block_bytes: int, host: str = "127.0.0.1") -> None:
        self.url = ""
        self._host = host
        self.asked: list[Asked] = []
        self.block_bytes = block_bytes
        self._objects: dict[str, tuple[bytes, str, int | None]] = {}
        self._hold_at: int | None = None
        self._held: list[Asked] = []  # answers that stand still
        self._refuse_after_s: int | None = None
        self._met: set[tuple[str, int]] = set()
        self._changed = threading.Condition()
        self._moving: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._ending: asyncio.Event
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    # What a test says.

    def put(self, key: str, content: bytes, *, summed: bool = False) -> None:
        """`summed`: a HEAD tells the crc32c of the whole."""
        crc32c = update_sum(SumKind.CRC32C, memoryview(content)) if summed else None
        self._objects[key] = (content, f'"{hashlib.md5(content).hexdigest()}"', crc32c)

    def content(self, key: str) -> bytes:
        return self._objects[key][0]

    def settings(self, node: int) -> dict[str, Any]:
        """An origin's, for the node of that number."""
        keys = {"access_key_id": f"node-{node}", "secret_access_key": "not checked"}
        return {"type": "s3", "endpoint": self.url, "region": "us-east-1", "addressing": "path", **keys}

    def hold_at(self, position: int) -> None:
        """Answers stop before this byte of the object, and, in each later block, as far into it."""
        self._loop.call_soon_threadsafe(self._moving.clear)
        self._hold_at = position

    def release(self) -> None:
        """All go on."""
        self._hold_at = None
        self._loop.call_soon_threadsafe(self._moving.set)

    def refuse_first_gets(self, retry_after_s: int | None) -> None:
        """From now on the first GET of each block is answered 429, with `Retry-After`; None: no more."""
        self._refuse_after_s = retry_after_s

    def wait_until_held(self, count: int = 1) -> list[Asked]:
        """Those that stand still, once they are so many. AssertionError when they aren't in time."""
        with self._changed:
            done = self._changed.wait_for(lambda: len(self._held) >= count, WAIT_S)
            held = list(self._held)
        assert done, f"{len(held)} answers are held, not {count}; asked were {self.asked}"
        return held

    # What a test asks.

    def gets(self, key: str) -> list[Asked]:
        """The GETs of an object that were answered with bytes."""
        return [
            asked for asked in list(self.asked) if asked.key == key and asked.method == "GET" and asked.status < 400
        ]

    def heads(self, key: str) -> int:
        return sum(asked.key == key and asked.method == "HEAD" for asked in list(self.asked))

    def refused(self) -> int:
        return sum(asked.status == 429 for asked in list(self.asked))

    def sent_bytes(self, key: str) -> int:
        return sum(asked.sent_bytes for asked in self.gets(key))

    def block_gets(self, key: str) -> Counter[int]:
        """How often each block was asked for, by its number."""
        return Counter(asked.start // self.block_bytes for asked in self.gets(key))

    def copies(self, key: str) -> float:
        return self.sent_bytes(key) / len(self._objects[key][0])

    # The server.

    def __enter__(self) -> Self:
        self._thread.start()
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.url), WAIT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(WAIT_S)

    async def _run(self) -> None:
        self._loop, self._ending, self._moving = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._moving.set()
        async with ScriptedServer(self._handle, host=self._host) as server:
            with self._changed:
                self.url = server.url
                self._changed.notify_all()
            await self._ending.wait()

    async def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        _, _, key = request.target.decode().partition("?")[0][1:].partition("/")
        found = self._objects.get(key)
        content, etag, crc32c = found if found is not None else (b"", "", None)
        node = _CREDENTIAL.search(request.get("authorization") or "")
        span = _RANGE.fullmatch(request.get("range") or "")
        start = int(span[1]) if span else 0
        end = min(int(span[2]) + 1 if span and span[2] else len(content), len(content))
        asked = Asked(int(node[1]) if node else -1, request.method, key, start, end)
        self.asked.append(asked)
        headers = [("etag", etag), ("accept-ranges", "bytes"), ("last-modified", "Tue, 24 Nov 2026 09:00:00 GMT")]
        if request.method == "PUT":
            asked.status = 200
            self.put(key, request.body)
            await exchange.respond(200, b"", [("etag", self._objects[key][1])])
        elif found is None:
            asked.status = 404
            await exchange.respond(404, b"")
        elif self._refuses(asked):
            asked.status = 429
            await exchange.respond(429, b"", [("retry-after", str(self._refuse_after_s))])
        elif request.get("if-match") not in (None, etag):
            asked.status = 412
            await exchange.respond(412, b"")
        elif request.method == "HEAD":
            asked.status = 200
            if crc32c is not None:
                headers.append(("x-amz-checksum-crc32c", base64.b64encode(crc32c.to_bytes(4, "big")).decode()))
                headers.append(("x-amz-checksum-type", "FULL_OBJECT"))
            await exchange.send_head(200, headers, content_length=len(content))
        else:
            asked.status = 206 if span else 200
            if span:
                headers.append(("content-range", f"bytes {start}-{end - 1}/{len(content)}"))
            await exchange.send_head(asked.status, headers, content_length=end - start)
            await self._send(exchange, asked, content)

    def _refuses(self, asked: Asked) -> bool:
        block = asked.key, asked.start // self.block_bytes
        if self._refuse_after_s is None or asked.method != "GET" or block in self._met:
            return False
        self._met.add(block)
        return True

    async def _send(self, exchange: Exchange, asked: Asked, content: bytes) -> None:
        position = asked.start
        while position < asked.end:
            count = min(PIECE_BYTES, asked.end - position, self.block_bytes - position % self.block_bytes)
            before_hold = self._before_hold(position)
            if before_hold is not None:
                if before_hold <= 0:
                    await self._stand_still(exchange, asked)
                    continue
                count = min(count, before_hold)
            await exchange.send(content[position : position + count])
            position += count
            asked.sent_bytes += count

    def _before_hold(self, position: int) -> int | None:
        """How many bytes may pass from here; None: nothing holds this block."""
        hold_at = self._hold_at
        if hold_at is None or position // self.block_bytes < hold_at // self.block_bytes:
            return None
        return hold_at % self.block_bytes - position % self.block_bytes

    async def _stand_still(self, exchange: Exchange, asked: Asked) -> None:
        """Until released, or the client is gone."""
        self._tell(asked, held=True)
        gone, moving = asyncio.ensure_future(exchange.gone()), asyncio.ensure_future(self._moving.wait())
        try:
            await asyncio.wait({gone, moving}, return_when=asyncio.FIRST_COMPLETED)
            if not moving.done():
                raise ConnectionError("the client is gone")
        finally:
            for task in (gone, moving):
                task.cancel()
            await asyncio.gather(gone, moving, return_exceptions=True)
            self._tell(asked, held=False)

    def _tell(self, asked: Asked, *, held: bool) -> None:
        with self._changed:
            self._held = [each for each in self._held if each is not asked] + [asked] * held
            self._changed.notify_all()
