"""The pool of idle connections, separate for each endpoint.

The most recently used connection is reused first: the peer is the least likely to have closed it, and surplus ones
stay idle and expire. A kept connection may still be gone when its request arrives; `client` handles that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from proxy.wire.connection import Connection
from proxy.wire.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class _Idle:
    connection: Connection
    since_s: float


class ConnectionPool:
    """The pool: at most `max_idle_per_endpoint` idle connections each, none for longer than `idle_timeout_s`."""

    def __init__(self, *, max_idle_per_endpoint: int, idle_timeout_s: float) -> None:
        self._max_idle = max_idle_per_endpoint
        self._idle_timeout_s = idle_timeout_s
        self._idle: dict[Endpoint, deque[_Idle]] = {}  # the longest idle first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many usable connections are idle."""
        return sum(entry.connection.usable for entries in self._idle.values() for entry in entries)

    def take(self, endpoint: Endpoint) -> Connection | None:
        """Take the most recently used connection that is still open, or None."""
        entries = self._idle.get(endpoint)
        while entries:
            connection = entries.pop().connection
            if connection.usable:
                return connection
        return None

    def put(self, connection: Connection) -> None:
        """Keep a usable connection, closing the longest idle one if there is no room."""
        assert connection.usable
        loop = asyncio.get_running_loop()
        entries = self._idle.setdefault(connection.endpoint, deque())
        entries.append(_Idle(connection, loop.time()))
        while len(entries) > self._max_idle:
            entries.popleft().connection.close()
        if self._timer is None:
            self._timer = loop.call_later(self._idle_timeout_s, self._expire)

    def drop_older(self, endpoint: Endpoint, since_s: float) -> None:
        """Close connections idle since before that time: a peer went silent, and they may be dead too."""
        entries = self._idle.get(endpoint)
        while entries and entries[0].since_s <= since_s:
            entries.popleft().connection.close()

    def _expire(self) -> None:
        """Close what was idle too long, drop what has closed, and schedule the next run if any are left."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() - self._idle_timeout_s
        for endpoint, entries in list(self._idle.items()):
            while entries and (entries[0].since_s <= due_s or not entries[0].connection.usable):
                entries.popleft().connection.close()
            if not entries:
                del self._idle[endpoint]
        oldest_s = min((entries[0].since_s for entries in self._idle.values()), default=None)
        self._timer = None if oldest_s is None else loop.call_at(oldest_s + self._idle_timeout_s, self._expire)

    def close(self) -> None:
        """Forget all connections; their owner closes them."""
        self._idle.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
