"""One connection: it receives responses one after the other, each into its reader.

How it works. `exchange` runs in the caller's task; the event loop calls the rest.

1. `exchange` writes the request, sets the reader, and waits for a step.
2. Each receive fills the shared buffer and goes through the reader straight to the sink. While the sink is done at
   once, no task wakes up.
3. If the sink returns an awaitable, the connection lends it the buffer, stops reading, and hands the awaitable to the
   task as a step. The task awaits it, takes the buffer back and reads on. A close that was seen meanwhile takes effect
   only then, so nothing that came before it is lost.
4. The last step says that the response is complete, or raises.

Every exception from `exchange`, cancellation included, closes the connection. The reader is detached before that, so
no sink is called afterwards. Bytes that come while no reader waits were not requested: the connection closes.

Time-outs use one timer that checks the clock now and then, never one per receive. A head must be complete
`head_timeout_s` after its request. The next byte may take `read_timeout_s`, not counting the sink's own time. After a
busy loop, or a stopped process, the timer is due while the bytes are already in the socket. So an overdue peer gets one
more turn of the loop (GRACE_S) before the exchange fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from inspect import iscoroutine

from proxy.wire.buffers import ReceiveBuffers
from proxy.wire.endpoint import Endpoint
from proxy.wire.errors import ConnectionBroken, TimedOut
from proxy.wire.response import ResponseReader

GRACE_S = 0.02  # one turn of the loop, in which it reads what has come


@dataclass(frozen=True, slots=True)
class ExchangeLimits:
    """Seconds to wait for a whole head, and for the next byte of a body.

    `lively`: an interim head (1xx) is a sign of life, which restarts the time for the head.
    """

    head_timeout_s: float
    read_timeout_s: float
    lively: bool = False


class Connection(asyncio.BufferedProtocol):
    """A connection, opened by `connect`, with one `exchange` at a time. See the module's docstring."""

    def __init__(self, endpoint: Endpoint, buffers: ReceiveBuffers, limits: ExchangeLimits) -> None:
        # for the connection's life
        self.endpoint = endpoint
        self.exchanges = 0
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._buffers = buffers
        self._limits = self._exchange_limits = limits
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._peer_closed = False
        self._lost_reason: str | None = None
        # for one exchange
        self._reader: ResponseReader | None = None
        self._step: asyncio.Future[Awaitable[None] | None] | None = None
        self._failure: Exception | None = None
        self._lent: memoryview | None = None  # while the sink is not done and reading is paused
        self._timer: asyncio.TimerHandle | None = None
        self._head_due_s = 0.0
        self._received_at_s = 0.0
        self._overdue = False
        self.silence_s = 0.0  # the longest of the last exchange

    def __repr__(self) -> str:
        state = "closed" if self._closed else "idle" if self._reader is None else "busy"
        return f"<Connection to {self.endpoint}, {state}, {self.exchanges} exchanges>"

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not self._closed and self._reader is None

    async def exchange(self, request: bytes, reader: ResponseReader, limits: ExchangeLimits | None = None) -> None:
        """Send a request and run its response through the reader until it is complete.

        `limits` of this exchange replace the connection's.
        Raises a WireError, or what `accept` or the sink raised. Afterwards the connection is usable or closed.
        """
        if not self.usable:
            raise ConnectionBroken("the connection was closed, or the peer spoke, before the request")
        self.exchanges += 1
        self._exchange_limits = limits or self._limits
        self._reader = reader
        self._step = self._loop.create_future()
        self._start_timer()
        clean = False
        try:
            self._send(request)
            while (waiting := await self._step) is not None:
                self._step = self._loop.create_future()
                await waiting
                self._resume()
            clean = reader.reusable
        finally:
            self._detach()
            if not clean or self._closed:
                self.close()

    def _detach(self) -> None:
        """End the exchange. A buffer that is still lent is dropped, as a thread may be reading it."""
        step, self._step = self._step, None
        self._reader = self._failure = self._lent = None
        if self._timer is not None:
            self._timer.cancel()
        if step is not None and step.done() and not step.cancelled() and step.exception() is None:
            _drop(step.result())  # a cancellation came between the sink's answer and the task

    def close(self) -> None:
        """Close at once; an exchange under way fails."""
        self._closed = True
        if self._transport is not None:
            self._transport.abort()
        if self._reader is not None and not self._reader.complete:
            self._fail(self._reader.broken("the connection was closed by this side"))

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's does not derive from asyncio.Transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffers.current

    def buffer_updated(self, nbytes: int) -> None:
        self._take(nbytes)

    def eof_received(self) -> bool:
        self._closed = self._peer_closed = True
        self._look_at_end()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._lost_reason = "the peer closed" if exc is None else f"the connection broke ({exc})"
        if not self.lost.done():
            self.lost.set_result(None)
        self._look_at_end()

    # Steps.

    def _send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _take(self, nbytes: int) -> bool:
        """Process the received bytes (hot path: one look at the clock, one slice, one call of the sink).

        Return whether more may be taken now.
        """
        reader = self._reader
        if reader is None or self._failure is not None or self._lent is not None or reader.complete:
            self.close()  # these bytes were not requested, whatever they are
            return False
        now_s = self._loop.time()
        if now_s - self._received_at_s > self.silence_s:
            self.silence_s = now_s - self._received_at_s
        self._received_at_s = now_s
        try:
            waiting = reader.receive(self._buffers.current[:nbytes])
        except Exception as error:
            self._fail(error)
            return False
        if waiting is not None:
            self._pause(waiting)
            return False
        if reader.complete:
            self._settle()
        return True

    def _pause(self, waiting: Awaitable[None]) -> None:
        assert self._transport is not None
        assert self._step is not None
        self._lent = self._buffers.lend()
        if self._transport.is_reading():
            self._transport.pause_reading()
        if self._step.done():
            _drop(waiting)  # the task has just been cancelled
        else:
            self._step.set_result(waiting)

    def _resume(self) -> None:
        assert self._transport is not None
        assert self._lent is not None
        self._buffers.give_back(self._lent)
        self._lent = None
        self._received_at_s = self._loop.time()
        self._take_what_is_here()
        if self._lent is None:
            self._look_at_end()
            self._settle()
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _take_what_is_here(self) -> None:
        """Take what was received before the pause: nothing, on plain TCP."""

    def _look_at_end(self) -> None:
        """Complete or fail the response if the connection has ended and everything before that was taken."""
        reader = self._reader
        if reader is None or self._lent is not None or reader.complete:
            return
        try:
            if self._peer_closed:
                reader.end()
            elif self._lost_reason is not None:
                raise reader.broken(self._lost_reason)
            else:
                return
        except ConnectionBroken as error:
            self._fail(error)
        self._settle()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        self._settle()

    def _settle(self) -> None:
        """Wake the task if the response is complete, or never will be."""
        if self._step is None or self._step.done() or self._reader is None:
            return
        if self._lent is not None:  # the task waits for the sink; `_resume` settles
            return
        if self._failure is not None:
            self._step.set_exception(self._failure)
        elif self._reader.complete:
            self._step.set_result(None)

    # Time-outs.

    def _start_timer(self) -> None:
        self.silence_s = 0.0
        self._received_at_s = self._loop.time()
        self._head_due_s = self._received_at_s + self._exchange_limits.head_timeout_s
        self._arm_timer(self._head_due_s)

    def _arm_timer(self, due_s: float) -> None:
        self._overdue = False
        soonest_s = self._loop.time() + self._exchange_limits.read_timeout_s
        self._timer = self._loop.call_at(min(due_s, soonest_s), self._check_time)

    def _check_time(self) -> None:
        if self._reader is None:
            return
        now_s, limits = self._loop.time(), self._exchange_limits
        if self._reader.head is None:
            lively_s = self._received_at_s + limits.head_timeout_s if limits.lively else 0.0
            due_s, late = max(self._head_due_s, lively_s), TimedOut("head", limits.head_timeout_s)
        else:
            since_s = now_s if self._lent is not None else self._received_at_s
            due_s, late = since_s + limits.read_timeout_s, TimedOut("read", limits.read_timeout_s)
        if now_s < due_s:
            self._arm_timer(due_s)
        elif not self._overdue:
            self._overdue = True
            self._timer = self._loop.call_later(GRACE_S, self._check_time)
        else:
            self._fail(late)


def _drop(waiting: Awaitable[None] | None) -> None:
    """Close a coroutine that nobody will await."""
    if iscoroutine(waiting):
        waiting.close()
