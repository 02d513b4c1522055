"""The limit on concurrent fills, by bytes and by count, shared in turns.

How it works. A fill asks for room before its first request and returns it when its last byte is on disk. Fills wait in
one queue per object version. Freed room goes to the queues in turn, so that a small read waits for at most one fill of
each other reader, never for a whole big cold load.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

IDLE_PATIENCE_S = 60.0
URGENT_FILLS = 16  # small reads that run beyond the limit: they fetch kilobytes


class FillLimiter:
    def __init__(self, *, bytes_in_flight_max: int, fills_max: int) -> None:
        self._bytes_free = bytes_in_flight_max
        self._bytes_max = bytes_in_flight_max
        self._fills_free = fills_max
        self._fills_max = fills_max
        self._urgent_free = URGENT_FILLS
        self._idle: list[asyncio.Future[None]] = []
        self._queues: OrderedDict[bytes, deque[tuple[int, asyncio.Future[None]]]] = OrderedDict()

    @asynccontextmanager
    async def room(self, stream: bytes, length_bytes: int, *, urgent: bool = False) -> AsyncIterator[None]:
        """Hold room for `length_bytes` while the body runs. `stream` names the queue.

        `urgent`: a small read, which takes one of URGENT_FILLS extra slots if one is free.
        """
        length_bytes = min(length_bytes, self._bytes_max)
        if urgent and self._urgent_free:
            self._urgent_free -= 1
            try:
                yield
            finally:
                self._urgent_free += 1
            return
        await self._take(stream, length_bytes)
        try:
            yield
        finally:
            self._give(length_bytes)

    def has_room(self, length_bytes: int) -> bool:
        """Return whether a fill of that length would not wait."""
        return not self._queues and self._fits(min(length_bytes, self._bytes_max))

    async def wait_idle(self, patience_s: float = IDLE_PATIENCE_S) -> None:
        """Return when nobody waits and most of the room is free: for work that is done only when there is nothing else.

        Return after `patience_s` in any case, so that such work advances slowly even under load.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not self._is_idle():
                    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._idle.append(turn)
                    await turn

    @property
    def waiting_for_idle(self) -> int:
        """How many callers wait in `wait_idle`."""
        return len(self._idle)

    def _is_idle(self) -> bool:
        spare = 4 * (self._fills_max - self._fills_free) <= self._fills_max
        return spare and not self._queues and 2 * self._bytes_free >= self._bytes_max

    async def _take(self, stream: bytes, length_bytes: int) -> None:
        if not self._queues and self._fits(length_bytes):
            self._claim(length_bytes)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(stream, deque()).append((length_bytes, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give(length_bytes)  # granted and cancelled in the same moment
            raise

    def _fits(self, length_bytes: int) -> bool:
        return self._fills_free > 0 and self._bytes_free >= length_bytes

    def _claim(self, length_bytes: int) -> None:
        self._fills_free -= 1
        self._bytes_free -= length_bytes

    def _give(self, length_bytes: int) -> None:
        self._fills_free += 1
        self._bytes_free += length_bytes
        self._grant()
        if self._idle and self._is_idle():
            for turn in self._idle:
                if not turn.done():
                    turn.set_result(None)
            self._idle.clear()

    def _grant(self) -> None:
        """Give freed room to the queues in turn. A queue whose first fill does not fit stays at the front."""
        while self._queues:
            stream, queue = next(iter(self._queues.items()))
            while queue and queue[0][1].done():
                queue.popleft()
            if not queue:
                del self._queues[stream]
                continue
            length_bytes, turn = queue[0]
            if not self._fits(length_bytes):
                return
            queue.popleft()
            self._claim(length_bytes)
            turn.set_result(None)
            self._queues.move_to_end(stream)
