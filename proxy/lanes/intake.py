"""Intake: the bytes that a connection has received but not parsed yet, and when it reads on.

How it works. Thousands of small requests fit into one segment. Parsing them all at once would block the loop and fill
the memory with their scopes. So
1. a segment of more than HEADS_BYTES is parsed in parts of that size, one in each turn of the loop, and nothing is read
   meanwhile; a body needs no such turns and is parsed at once, in parts of BODY_BYTES;
2. while `waiting_max` requests are waiting, nothing is parsed and nothing is read, even if uvicorn resumes reading (as
   it does for a body); it continues when half of them are left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized

from uvicorn.protocols.http.flow_control import FlowControl

HEADS_BYTES = 8 << 10  # about 300 of the smallest requests, a few milliseconds; ordinary heads are smaller
BODY_BYTES = 64 << 10
_NOTHING = memoryview(b"")

Parse = Callable[[bytes | memoryview], bool]


class Intake(FlowControl):
    """The intake. `parse` returns whether a body is under way after the given bytes; `waiting` are the requests."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        parse: Parse,
        waiting: Sized,
        waiting_max: int,
    ) -> None:
        super().__init__(transport)
        self.held = _NOTHING
        self._loop = loop
        self._parse = parse
        self._waiting = waiting
        self._waiting_max = waiting_max
        self._stopped = False
        self._turn: asyncio.Handle | None = None

    def resume_reading(self) -> None:
        if not self._stopped:
            super().resume_reading()

    def take(self, data: bytes, *, in_body: bool) -> None:
        self.held = memoryview(bytes(self.held) + data if self.held else data)
        if self._turn is None:
            self._parse_held(in_body=in_body)

    def bound(self) -> None:
        """Stop if too many requests wait; to be called after something was parsed."""
        if len(self._waiting) >= self._waiting_max:
            self._stop()

    def read_on(self) -> None:
        """Continue after a request has been answered."""
        if self._turn is not None:
            return
        if not self.held:
            if len(self._waiting) <= self._waiting_max // 2:
                self._stopped = False
                self.resume_reading()
        elif len(self._waiting) < self._waiting_max:
            self._turn = self._loop.call_soon(self._parse_held)

    def discard(self) -> None:
        """Stop parsing for good. Bytes are still read, so that the answer is not lost to a reset."""
        self._drop()
        self._stopped = False
        self.resume_reading()

    def close(self) -> None:
        self._drop()
        self._parse = _parse_nothing

    def _stop(self) -> None:
        self._stopped = True
        self.pause_reading()

    def _drop(self) -> None:
        self.held = _NOTHING
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _parse_held(self, *, in_body: bool = False) -> None:
        """Parse as many held bytes as allowed in this turn of the loop."""
        self._turn = None
        while self.held and len(self._waiting) < self._waiting_max:
            part_bytes = BODY_BYTES if in_body else HEADS_BYTES
            part, self.held = self.held[:part_bytes], self.held[part_bytes:]
            in_body = self._parse(part)
            if self.held and not in_body:
                self._turn = self._loop.call_soon(self._parse_held)
                break
        if self.held or len(self._waiting) >= self._waiting_max:
            self._stop()
        else:
            self.read_on()


def _parse_nothing(data: bytes | memoryview) -> bool:
    return False
