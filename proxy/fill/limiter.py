"""How many fills run at once: bounded by bytes and by count, shared out in turns.

How it works. A fill asks for room before its first request and gives it back when its last byte is on disk. Fills
wait in one queue for each object version; freed room goes to the queues in turn, so that one small read waits for
at most one fill of each other reader, never for the whole of a big cold load.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

IDLE_PATIENCE_S = 60.0
URGENT_FILLS = 16  # small reads beside a full house: they bring kilobytes


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
        """Holds room for `length_bytes` while the body runs. `stream` names the queue.

        `urgent`: a small read, which takes one of URGENT_FILLS places of its own while they last.
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
        """Whether a fill of that length would not wait."""
        return not self._queues and self._fits(min(length_bytes, self._bytes_max))

    async def wait_idle(self, patience_s: float = IDLE_PATIENCE_S) -> None:
        """Returns when nobody waits and most of the room is free: for what is done only when nothing else is.

        Or when it has waited for so long: what comes last comes all the same, a little at a time.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not self._is_idle():
                    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._idle.append(turn)
                    await turn

    @property
    def waiting_for_idle(self) -> int:
        """How many wait for `wait_idle`."""
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
        """Hands freed room to the queues in turn; the one that cannot get enough keeps its place at the front."""
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
