"""The gate before an origin: every request of this process passes it, in order of urgency, at the ledger's pace.

How it works. `turn` asks the ledger; mostly the answer is a ticket, at once and without a task. Otherwise the request
waits in one of two lines, urgent ones (metadata, small reads) ahead of bulk, first come first served in each. One task
for each origin asks the ledger again, when it said or when a request of ours has ended, and lets the first in line go.
How a request ended is read from what it raised: `OriginUnavailable` with `throttled` is a refusal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from proxy.errors import OriginUnavailable
from proxy.fetch.hedge import Hedges
from proxy.fetch.ledger import Ledger, Ticket

WAIT_MAX_S = 0.1  # other processes end requests, and a stopped clock starts again: look this often


class Gate:
    """One origin's; belongs to one event loop. `hedge_share` of its requests may be made twice."""

    def __init__(self, ledger: Ledger, hedge_share: float = 0.0) -> None:
        self.ledger = ledger
        self.hedges = Hedges(hedge_share)
        self._urgent: deque[asyncio.Future[Ticket]] = deque()
        self._bulk: deque[asyncio.Future[Ticket]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self._urgent) + len(self._bulk)

    def try_enter(self) -> Ticket | None:
        """A ticket if nothing stands in the way; whoever gets it calls `leave`."""
        if self.waiting:
            return None
        ticket = self.ledger.enter()
        return ticket if isinstance(ticket, Ticket) else None

    def leave(self, ticket: Ticket, error: BaseException | None) -> None:
        """The request of this ticket has ended, with this error."""
        if isinstance(error, OriginUnavailable) and error.throttled:
            self.ledger.refuse(ticket, error.retry_after_s)
        else:
            self.ledger.leave(success=error is None)
        self._ended.set()

    async def enter(self, *, urgent: bool = False) -> Ticket:
        """A ticket, when it is this request's turn; whoever gets it calls `leave`."""
        return self.try_enter() or await self._wait(self._urgent if urgent else self._bulk)

    @asynccontextmanager
    async def turn(self, *, urgent: bool = False) -> AsyncIterator[None]:
        """Holds a place at the origin while the block runs; what it raises says how that went."""
        ticket = await self.enter(urgent=urgent)
        try:
            yield
        except BaseException as error:
            self.leave(ticket, error)
            raise
        self.leave(ticket, None)

    def pay(self, nbytes: int) -> float:
        """See `Ledger.pay`."""
        return self.ledger.pay(nbytes)

    async def _wait(self, line: deque[asyncio.Future[Ticket]]) -> Ticket:
        turn: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        line.append(turn)
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._let_in(), name="gate")
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.ledger.leave(success=False)  # let in and cancelled in the same moment
            raise

    async def _let_in(self) -> None:
        while (line := self._first_line()) is not None:
            entered = self.ledger.enter()
            if isinstance(entered, Ticket):
                line.popleft().set_result(entered)
                continue
            self._ended.clear()
            try:
                async with asyncio.timeout(min(entered, WAIT_MAX_S)):
                    await self._ended.wait()
            except TimeoutError:
                pass
        self._pump = None

    def _first_line(self) -> deque[asyncio.Future[Ticket]] | None:
        """The line whose first still waits; who has gone away is dropped."""
        for line in (self._urgent, self._bulk):
            while line and line[0].done():
                line.popleft()
            if line:
                return line
        return None


class Gates:
    """The gates of all origins, by their ids; made as they are asked for."""

    def __init__(
        self, ledger: Callable[[str], Ledger], hedge_share: Callable[[str], float] = lambda origin: 0.0
    ) -> None:
        self._ledger = ledger
        self._hedge_share = hedge_share
        self._gates: dict[str, Gate] = {}

    def of(self, origin_id: str) -> Gate:
        gate = self._gates.get(origin_id)
        if gate is None:
            gate = self._gates[origin_id] = Gate(self._ledger(origin_id), self._hedge_share(origin_id))
        return gate

    @property
    def all(self) -> Mapping[str, Gate]:
        return self._gates
