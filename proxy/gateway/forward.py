"""What is not a cached read goes on to the origin; what it writes is invalidated in every worker.

How it works. A write is forwarded inside fences, one for each name that it may change:
1. Every name is fenced, on disk and in shared memory, before the origin gets the first byte: from here on, reads ask
   the origin and keep nothing.
2. The request streams on. When its body fails (the client went away, a chunk was bad), the request to the origin is
   broken off short of its announced length, so that the origin commits nothing.
3. The fences are lifted when the origin's answer has been read to its end: a copy or a completed upload answers 200
   at once and says only in its body's last bytes whether it happened.
4. When the answer did not come, or not to its end, nobody knows whether the write happens after all. The fences then
   stay for `linger_s` more. Killed meanwhile, the process leaves tombstones, which mean "no record".
5. In a fleet, `tell` tells the other nodes, and returns when none of them can serve what was written over. That happens
   between the origin's last word and the client's: the end of the answer is held back for it. An outcome that nobody
   knows is told at once, and again when its fences are lifted; one that the origin refused has changed nothing.
Fencing and lifting block on the disk, so both run in threads. Like telling, neither is ever cut off by a cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

from proxy.admission import Admission, Room
from proxy.concurrency.tasks import BackgroundTasks
from proxy.concurrency.threads import Threads
from proxy.errors import AccessDenied, OriginUnavailable
from proxy.gateway.passed import Passed
from proxy.gateway.routes import BucketRoute
from proxy.objects import ObjectKey, ObjectName
from proxy.origin import ForwardRequest as ForwardRequest
from proxy.origin import ForwardResponse as ForwardResponse

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Tell: TypeAlias = Callable[[Sequence[ObjectKey]], Awaitable[None]]

_NO_VERDICT = (502, 504)  # a middle box's: the origin may still be at work
_TIMED_OUT = (408, 499)
LINGER_S = 60.0  # longer than an origin's own time-out for a request whose sender is gone


async def read_body(response: ForwardResponse, bytes_max: int) -> bytes:
    """A small answer's body, longer than `bytes_max` where there is more of it; the response is closed then."""
    body = bytearray()
    try:
        async for data in response.body:
            body += data
            if len(body) > bytes_max:
                break
    finally:
        await response.close()
    return bytes(body)


class WriteFence(Protocol):
    def lift(self) -> None: ...


class FenceStore(Protocol):
    """`proxy.cache.keys.KeyStore`."""

    def fence(self, key: ObjectKey) -> WriteFence: ...


class Forwarder:
    """One in each worker; all calls belong to its event loop."""

    def __init__(
        self,
        keys: FenceStore,
        *,
        linger_s: float = LINGER_S,
        tell: Tell | None = None,
        room: Room | None = None,
        reader_pace: int = 0,
    ) -> None:
        """`room`: for requests under way, from their beginning to the end of their answers. `reader_pace`: bytes a
        second that a client must take to keep its place there while others want it; 0: any."""
        self._keys = keys
        self._reader_pace = reader_pace
        self._passed: set[Passed] = set()
        self._room = room or Admission().pass_through
        self._tell = tell
        self._threads = Threads()
        self._linger_s = linger_s
        self._tasks = BackgroundTasks(log)
        self._lingering = BackgroundTasks(log)

    def check_writable(self, route: BucketRoute) -> None:
        """Raises AccessDenied, naming the key to set, where writes to this bucket are denied."""
        if not route.writes_through:
            raise AccessDenied(
                f"Writes to the bucket {route.name!r} are denied by this gateway's configuration: set "
                f"buckets.{route.name}.writes, or writes for all buckets, to 'through'."
            )

    async def forward(
        self, route: BucketRoute, request: ForwardRequest, written: Sequence[ObjectName] = (), *, mutates: bool
    ) -> ForwardResponse:
        """The origin's answer, whose `close` lifts the fences; `written` are the names that the request may change.

        Raises AccessDenied, Overloaded, what the origin raises, and what the request's body raises.
        """
        if mutates:
            self.check_writable(route)
        slow = self._find_slow() if self._room.is_full else None
        if slow is not None:
            slow.lose_room()
        self._room.take()
        try:
            if slow is not None:
                await slow.close()
            answer = await self._forward(route, request, written)
        except BaseException:
            self._room.give_back()
            raise
        if answer.ended is None:
            answer.ended = self._room.give_back
        return answer.response()

    def _find_slow(self) -> Passed | None:
        """Whose client has been too slow for longest; see `passed`."""
        found = max(self._passed, key=lambda passed: passed.late_s, default=None)
        return found if found is not None and found.late_s > 0 else None

    async def _forward(self, route: BucketRoute, request: ForwardRequest, written: Sequence[ObjectName]) -> _Answer:
        if not written:
            response = await route.origin.forward(request)
            passed = Passed(route.origin.forward, request, response, self._room, self._reader_pace)
            answer = _Answer(passed.response(), request.method)
            self._passed.add(passed)
            answer.ended = lambda: self._leave(passed)
            return answer
        write = _Write([route.object_key(name) for name in dict.fromkeys(written)])
        write.fences = await self._fence(write.keys)
        try:
            response = await route.origin.forward(request)
        except (OriginUnavailable, asyncio.CancelledError):
            self._linger(write)
            raise
        except BaseException:
            await self._lift(write)
            raise
        answer = _Answer(
            response, request.method, lambda: self._told(write), lambda certain: self._settle(write, certain)
        )
        try:
            await answer.begin()
        except BaseException:
            await answer.aclose()
            raise
        return answer

    async def aclose(self) -> None:
        """Waits for fences that are being lifted. Those whose outcome is unknown stay, and end with this process."""
        await self._lingering.aclose(cancel=True)
        await self._tasks.aclose(cancel=False)

    def _leave(self, passed: Passed) -> None:
        self._passed.discard(passed)
        passed.leave()

    async def _fence(self, keys: Sequence[ObjectKey]) -> list[WriteFence]:
        taking: asyncio.Task[list[WriteFence]] = self._tasks.keep(self._threads.run(self._take_fences, keys))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            self._tasks.start(self._lift_taken(taking))
            raise

    def _take_fences(self, keys: Sequence[ObjectKey]) -> list[WriteFence]:
        """Blocking."""
        fences: list[WriteFence] = []
        try:
            for key in keys:
                fences.append(self._keys.fence(key))
        except BaseException:
            _lift_all(fences)
            raise
        return fences

    async def _lift_taken(self, taking: asyncio.Task[list[WriteFence]]) -> None:
        await self._threads.run(_lift_all, await taking)

    async def _told(self, write: _Write) -> None:
        """Returns when the fleet knows."""
        if self._tell is not None:
            if write.telling is None:
                write.telling = self._tasks.keep(self._tell_of(write))
            await asyncio.shield(write.telling)

    async def _tell_of(self, write: _Write) -> None:
        """Whatever goes wrong: the origin has taken the write."""
        assert self._tell is not None
        try:
            await self._tell(write.keys)
        except Exception:
            log.exception("the fleet was not told of a write")

    async def _lift(self, write: _Write) -> None:
        """When the fleet knows, if it has to."""

        async def lift() -> None:
            if write.telling is not None:
                await asyncio.wait({write.telling})
            await self._threads.run(_lift_all, write.fences)

        await asyncio.shield(self._tasks.keep(lift()))

    def _linger(self, write: _Write) -> None:
        if self._tell is not None and write.telling is None:
            self._tasks.start(self._tell_of(write))

        async def lift_later() -> None:
            await asyncio.sleep(self._linger_s)
            await self._told(write)
            await self._lift(write)

        self._lingering.start(lift_later())

    async def _settle(self, write: _Write, certain: bool) -> None:
        if certain:
            await self._lift(write)
        else:
            self._linger(write)


class _Write:
    """One write: its keys, their fences, and the task that tells the fleet of it."""

    def __init__(self, keys: Sequence[ObjectKey]) -> None:
        self.keys = keys
        self.fences: Sequence[WriteFence] = ()
        self.telling: asyncio.Task[None] | None = None


class _Answer:
    """An origin's answer that knows when it has ended: by its length where it has one, else by its body's end.

    `told` is awaited before its end is given on, where it may have changed something.
    """

    def __init__(
        self,
        response: ForwardResponse,
        method: str,
        told: Callable[[], Awaitable[None]] | None = None,
        settle: Callable[[bool], Awaitable[None]] | None = None,
    ) -> None:
        self._response = response
        self._told = told if _may_have_changed(response.status) else None
        self._settle = settle
        self._left = 0 if method == "HEAD" or response.status in (204, 304) else _length(response.headers)
        self._ended = self._left == 0
        self._closed = False
        self.ended: Callable[[], None] | None = None  # called once, when the answer has been closed

    async def begin(self) -> None:
        """Before anything of the answer is given on: one without a body has ended."""
        if self._ended and self._told is not None:
            await self._told()

    def response(self) -> ForwardResponse:
        return ForwardResponse(self._response.status, self._response.headers, self, self.aclose)

    def __aiter__(self) -> _Answer:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await anext(self._response.body)
        except StopAsyncIteration:
            self._ended = self._left in (None, 0)
            if self._ended and self._told is not None:
                await self._told()
            raise
        if self._left is not None:
            self._left = max(0, self._left - len(chunk))
            self._ended = self._left == 0
            if self._ended and self._told is not None:
                await self._told()
        return chunk

    async def aclose(self) -> None:
        """Closes the origin's answer and settles the fences, once."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._ended:  # lets the client library see the end, so that the connection serves again
                with contextlib.suppress(OriginUnavailable):
                    await anext(self._response.body, None)
            await self._response.close()
        finally:
            if self.ended is not None:
                self.ended()
            if self._settle is not None:
                await self._settle(self._ended and self._response.status not in _NO_VERDICT)


def _may_have_changed(status: int) -> bool:
    """Whether an answer with this status tells of a change; a refusal (4xx) but for time-outs does not."""
    return status not in _NO_VERDICT and (not 400 <= status < 500 or status in _TIMED_OUT)


def _length(headers: Sequence[tuple[str, str]]) -> int | None:
    values = [value for name, value in headers if name == "content-length"]
    return int(values[0]) if values and values[0].isascii() and values[0].isdigit() else None


def _lift_all(fences: Sequence[WriteFence]) -> None:
    """Blocking."""
    for fence in fences:
        fence.lift()
