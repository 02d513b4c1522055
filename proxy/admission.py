"""What a worker lets in, and what it refuses beyond that: one `Room` for each thing that can run out.

How it works. Whoever wants some of a thing takes it from its room and gives it back; a room that is full refuses
(`Overloaded`, which each surface answers as 503 SlowDown with Retry-After), counts and tells. What was begun is never
refused for lack of room: refusals come before an answer's head. Rooms are a worker's own, and belong to its event
loop.

Connections are counted in all and by client address. One too many is not turned away unheard, for it may be a probe:
it gets one of a few places in reserve, where `/-/` is answered and everything else refused. A reserve that is full
drops its oldest connection. So health and metrics answer whatever is full.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from proxy.errors import Overloaded
from proxy.metrics import LIMIT, LIMIT_USED, SHED_REQUESTS
from proxy.rate_limited_log import RateLimitedLog

RESERVED_CONNECTIONS = 64  # probes and scrapers send their request at once: one second's worth of them
RETRY_AFTER_S = 1.0

log = logging.getLogger("warmstart.admission")


class Room:
    """At most `most` of one thing at once. `setting` is the key that says so, `full` what a client is told."""

    def __init__(self, reason: str, setting: str, most: int, full: str) -> None:
        self.reason = reason
        self.most = most
        self.used = 0
        self._full = full
        self._limited_log = RateLimitedLog(log)
        self._setting = setting

    @property
    def is_full(self) -> bool:
        return self.used >= self.most

    def take(self, amount: int = 1) -> None:
        """Raises Overloaded."""
        if self.used + amount > self.most:
            raise self.refuse()
        self.used += amount

    def take_anyway(self, amount: int = 1) -> None:
        """For what was begun and must go on."""
        self.used += amount

    def give_back(self, amount: int = 1) -> None:
        self.used -= amount
        assert self.used >= 0, f"{self.reason}: more was given back than taken"

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """One of it, for a block. Raises Overloaded."""
        self.take()
        try:
            yield
        finally:
            self.give_back()

    def refuse(self) -> Overloaded:
        """The error to raise; counted, and logged now and then."""
        SHED_REQUESTS.labels(self.reason).inc()
        self._limited_log.say(f"refusing requests: {self._full} ({self._setting} is {self.most})")
        return Overloaded(f"{self._full}; try again later.", retry_after_s=RETRY_AFTER_S)

    def publish(self) -> None:
        LIMIT.labels(self.reason).set(self.most)
        LIMIT_USED.labels(self.reason).set(self.used)


class HeldBytes:
    """What one request holds of the room for whole bodies, until `release`."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held_bytes = 0

    async def counted(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The body, for a reader that keeps all of it. Raises Overloaded."""
        async for data in body:
            self._room.take(len(data))
            self._held_bytes += len(data)
            yield data

    def release(self) -> None:
        held_bytes, self._held_bytes = self._held_bytes, 0
        self._room.give_back(held_bytes)


class Reserved(Protocol):
    """A connection in reserve."""

    def give_way(self) -> None:
        """Closes at once: a newer connection needs the place."""
        ...


class Connections:
    """The clients' connections. `most` in all, `most_per_address` from one address."""

    def __init__(self, most: int, most_per_address: int) -> None:
        self._all = Room("connections", "limits.connections", most, "too many connections are open")
        self._each = Room(
            "address", "limits.connections_per_address", most_per_address, "too many connections are open from here"
        )
        self._by_address: Counter[str] = Counter()
        self._reserved: OrderedDict[Reserved, None] = OrderedDict()

    def enter(self, connection: Reserved, address: str) -> Room | None:
        """None: it is in. Else what is full: the connection has a place in reserve. `leave` either way."""
        full = None
        if self._all.is_full:
            full = self._all
        elif self._by_address[address] >= self._each.most:
            full = self._each
        if full is None:
            self._all.take()
            self._by_address[address] += 1
            return None
        if len(self._reserved) >= RESERVED_CONNECTIONS:
            oldest, _ = self._reserved.popitem(last=False)
            full.refuse()
            oldest.give_way()
        self._reserved[connection] = None
        return full

    def leave(self, connection: Reserved, address: str, full: Room | None) -> None:
        if full is not None:
            self._reserved.pop(connection, None)
            return
        self._all.give_back()
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def publish(self) -> None:
        self._all.publish()
        LIMIT.labels(self._each.reason).set(self._each.most)
        LIMIT_USED.labels(self._each.reason).set(max(self._by_address.values(), default=0))


class Admission:
    """A worker's rooms; see `proxy.config.limits` for the reasons of the numbers."""

    def __init__(
        self,
        *,
        connections: int = 16_384,
        connections_per_address: int = 16_384,
        requests: int = 4096,
        body_bytes: int = 64 << 20,
        pass_through: int = 128,
        uncached_reads: int = 128,
    ) -> None:
        self.connections = Connections(connections, connections_per_address)
        self.requests = Room("requests", "limits.requests", requests, "too many requests are under way")
        self.bodies = Room("bodies", "limits.body_bytes", body_bytes, "too many bytes of requests are held in memory")
        self.pass_through = Room(
            "pass_through", "limits.pass_through", pass_through, "too many requests pass through to origins"
        )
        self.uncached_reads = Room(
            "uncached_reads", "limits.uncached_reads", uncached_reads, "too many reads go past the cache"
        )

    def hold_body(self) -> HeldBytes:
        return HeldBytes(self.bodies)

    def publish(self) -> None:
        """The gauges of `/-/metrics`: call it each second."""
        self.connections.publish()
        for room in (self.requests, self.bodies, self.pass_through, self.uncached_reads):
            room.publish()
