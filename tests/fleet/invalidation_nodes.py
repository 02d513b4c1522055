"""One node's ends of the fleet's news, in this process, over a real Redis: what a control process and a worker have."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from proxy.cache.disks import DiskSpec
from proxy.cache.keys import KeyStore
from proxy.cache.shared import SharedTables
from proxy.cache.store import Store
from proxy.fleet.channel import InvalidationChannel, sender_name
from proxy.fleet.freshness import Freshness
from proxy.fleet.messages import Seals
from proxy.fleet.publisher import InvalidationPublisher
from proxy.fleet.redis import open_redis
from proxy.fleet.state import FleetState
from proxy.fleet.subscriber import InvalidationSubscriber
from proxy.objects import ObjectKey, ObjectRecord, ObjectVersion
from tests.waiting import until

KEY = ObjectKey("s3://origin", "bucket", "key")


def other_key(number: int) -> ObjectKey:
    return ObjectKey("s3://origin", "bucket", f"key {number}")


SEALS = Seals([b"the fleet's secret of a test"])


class Node:
    """Made by `start_node`. `hold` lets it forget nothing until `go_on` is set: a disk that hangs."""

    def __init__(self, path: Path, url: str, node_id: str, patience_s: float) -> None:
        self.node_id = node_id
        self.fleet_state = FleetState.create()
        self.tables = SharedTables.create()
        self.store = Store(
            [DiskSpec(path / node_id, 1 << 30)],
            block_bytes=1 << 16,
            run_id="run",
            writer_id=node_id,
            tables=self.tables,
            max_open_segments=4,
        )
        self.redis = open_redis(url)
        self.channel = InvalidationChannel(self.redis, "test", SEALS)
        name = sender_name(node_id, self.fleet_state)
        self.subscriber = InvalidationSubscriber(self.channel, name, self.fleet_state, self._forget)
        self.publisher = InvalidationPublisher(self.channel, name, patience_s=patience_s)
        self.freshness = Freshness(self.fleet_state)
        self.listening: asyncio.Task[None] | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.forgets = True

    @property
    def keys(self) -> KeyStore:
        return self.store.keys

    def _forget(self, key: ObjectKey) -> bool:
        assert self.go_on.wait(60)
        return self.forgets and self.keys.remove(key) is not None

    def remember(self, key: ObjectKey = KEY, checked_at_s: float | None = None) -> float:
        """A record of the key, as the origin would have told it just now; returns when that was."""
        checked_at_s = time.time() if checked_at_s is None else checked_at_s
        version = ObjectVersion(key.origin, key.bucket, key.key, 'etag "1"', 10)
        record = ObjectRecord(version, '"1"', None, (), checked_at_s)
        assert self.keys.install(key, record, self.tables.tokens.peek(key))
        return checked_at_s

    @property
    def leased(self) -> bool:
        return time.monotonic() < self.fleet_state.fresh_until_s

    async def listen(self) -> Self:
        self.listening = asyncio.create_task(self.subscriber.run())
        await until(lambda: self.leased)
        return self

    async def stop_listening(self) -> None:
        """As at the end of the control process."""
        assert self.listening is not None
        self.listening.cancel()
        await asyncio.wait({self.listening})
        self.listening = None


@asynccontextmanager
async def start_node(
    path: Path, url: str, node_id: str, *, patience_s: float = 20.0, listen: bool = True
) -> AsyncIterator[Node]:
    """`patience_s` is how long its writes wait for silent nodes: long, where a test must not be saved by waiting."""
    node = Node(path, url, node_id, patience_s)
    try:
        if listen:
            await node.listen()
        yield node
    finally:
        node.go_on.set()
        if node.listening is not None:
            await node.stop_listening()
        await node.publisher.aclose()
        await node.redis.aclose()
        node.store.close()
        node.tables.close()
        node.fleet_state.close()
