"""Answers that pass through, and the clients that take them: a slow one makes room when others need it.

How it works. Every answer under way has a place (`limits.pass_through`). While its client takes fewer bytes a second
than `reader_pace`, it may lose that place to a newcomer that finds none free: the origin's connection is dropped. When
the client has taken what it was given, the rest is asked for again, once there is room: the same request, for the bytes
that are left, with If-Match. Only the answer to a GET with a strong ETag and a known length can go on so; the body of
another one ends short, and the client sees that by its length.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from proxy.admission import Room
from proxy.errors import OriginUnavailable, VersionChanged
from proxy.fill.uncached import PATIENCE_MIN_S
from proxy.origin import ForwardRequest, ForwardResponse
from proxy.origin.headers import first_value, parse_content_range, read_length
from proxy.ranges import ByteRange

LOOK_AGAIN_S = 0.25  # for room
_OF_THE_PART = frozenset({"if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"})

Ask = Callable[[ForwardRequest], Awaitable[ForwardResponse]]


@dataclass(frozen=True, slots=True)
class Remainder:
    """What must be known of an answer to go on with it from any of its bytes."""

    request: ForwardRequest
    etag: str
    span: ByteRange  # of the object
    size_bytes: int

    @classmethod
    def of(cls, request: ForwardRequest, answer: ForwardResponse) -> Remainder | None:
        """None: this answer can't be gone on with."""
        etag = first_value(answer.headers, "etag") or ""
        strong = len(etag) > 2 and etag.startswith('"') and etag.endswith('"')
        if request.method != "GET" or request.body is not None or not strong:
            return None
        length, label = read_length(answer.headers), first_value(answer.headers, "content-range")
        if answer.status == 200 and label is None and length:
            return cls(request, etag, ByteRange(0, length), length)
        named = parse_content_range(label) if answer.status == 206 and label is not None else None
        if named is None or named.span.length != length:
            return None
        return cls(request, etag, named.span, named.size_bytes)

    def ask(self, taken_bytes: int) -> ForwardRequest:
        """The request for what is left."""
        kept = tuple(pair for pair in self.request.headers if pair[0] not in _OF_THE_PART)
        asked = ("range", f"bytes={self.span.start + taken_bytes}-{self.span.end - 1}")
        return replace(self.request, headers=(*kept, asked, ("if-match", self.etag)))

    def is_answered_by(self, answer: ForwardResponse, taken_bytes: int) -> bool:
        label = first_value(answer.headers, "content-range")
        named = parse_content_range(label) if answer.status == 206 and label is not None else None
        return (
            named is not None
            and named.span == ByteRange(self.span.start + taken_bytes, self.span.end)
            and named.size_bytes == self.size_bytes
            and first_value(answer.headers, "etag") == self.etag
        )


class Passed:
    """The body of one answer, with the place that it has taken in `room`; `leave` gives that back, once."""

    def __init__(self, ask: Ask, request: ForwardRequest, answer: ForwardResponse, room: Room, pace: int) -> None:
        self._ask = ask
        self._answer = answer
        self._remainder = Remainder.of(request, answer)
        self._room = room
        self._pace = pace
        self._clock = asyncio.get_running_loop().time
        self._has_place = True
        self._taken_bytes = 0
        self._due_s: float | None = None  # when a client at the pace asks for more; None: the origin's turn

    def response(self) -> ForwardResponse:
        return ForwardResponse(self._answer.status, self._answer.headers, self, self.close)

    @property
    def late_s(self) -> float:
        """For how long the client has been slower than its pace; 0: it is not, or has lost its place already."""
        if self._due_s is None or not self._has_place or not self._pace:
            return 0.0
        return max(0.0, self._clock() - self._due_s)

    def lose_room(self) -> None:
        """`close` must follow: the origin's connection is for the next one."""
        assert self._has_place
        self.leave()

    def leave(self) -> None:
        if self._has_place:
            self._has_place = False
            self._room.give_back()

    async def close(self) -> None:
        await self._answer.close()

    def __aiter__(self) -> Passed:
        return self

    async def __anext__(self) -> bytes:
        self._due_s = None
        if not self._has_place:
            await self._go_on()
        chunk = await anext(self._answer.body)
        self._taken_bytes += len(chunk)
        if self._pace:
            self._due_s = self._clock() + max(PATIENCE_MIN_S, len(chunk) / self._pace)
        return chunk

    async def _go_on(self) -> None:
        """Raises OriginUnavailable, VersionChanged, and what the origin raises."""
        remainder = self._remainder
        if remainder is None:
            raise OriginUnavailable("the client took its bytes too slowly, and others waited")
        if self._taken_bytes == remainder.span.length:
            raise StopAsyncIteration
        while self._room.is_full:
            await asyncio.sleep(LOOK_AGAIN_S)
        self._room.take_anyway()
        self._has_place = True
        answer = await self._ask(remainder.ask(self._taken_bytes))
        self._answer = answer
        if not remainder.is_answered_by(answer, self._taken_bytes):
            raise VersionChanged("the object changed while a slow client read it")
