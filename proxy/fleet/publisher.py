"""How a worker tells the fleet of a write, and waits until no node can serve what the write has replaced.

How it works. `tell` publishes the keys; Redis answers how many nodes must acknowledge. The last of these makes Redis
say so on this worker's own channel. A node that stays silent (stopped, cut off, slow) has a freshness window of
FRESHNESS_S at most, from before the write was published: after FRESHNESS_S and a margin for the clocks it has none, and
trusts nothing that was checked before the write. So `tell` returns within that time, whatever happens to whomever.

Where Redis can't be had, it is tried again for that same time, and then the write returns all the same. Two cases look
alike from here:
- Redis is away for all. The other nodes' beats have failed too; their freshness windows are over, and what they checked
  lately was checked after the write. Waiting has made the write visible everywhere.
- Only this node is cut off. Waiting has not helped: the others trust what they remember, until their ttl is over or
  this node reaches Redis again. What could not be told is kept, and told then; beyond KEYS_MAX of it, "any key".
Refusing the write would be of no use in either: the origin has taken it already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from proxy.concurrency.tasks import BackgroundTasks
from proxy.fleet.channel import Invalidation, InvalidationChannel, WriteReceipt
from proxy.fleet.freshness import DRIFT_S, FRESHNESS_S
from proxy.fleet.redis import REDIS_ERRORS
from proxy.metrics import WRITES_TOLD
from proxy.objects import ObjectKey

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

ANSWER_S = 1.0  # what one try may take
PAUSE_S = 0.1
LATER_S = 0.5  # before what nobody waits for is tried again
KEYS_MAX = 10_000  # that wait to be told
BATCH_KEYS = 500
PUBLISHING_MAX = 32  # at once: each takes a connection
CHECK_S = 5.0  # a connection for replies that brings none is asked whether it lives

log = logging.getLogger("warmstart.fleet")


class InvalidationPublisher:
    """One in each worker; belongs to its event loop. `name` is `sender_name`'s."""

    def __init__(self, channel: InvalidationChannel, name: str, *, patience_s: float = FRESHNESS_S + DRIFT_S) -> None:
        self._channel = channel
        self._name = name
        self._patience_s = patience_s
        self._reply = channel.reply_channel(secrets.token_hex(8))
        self._room = asyncio.Semaphore(PUBLISHING_MAX)
        self._acknowledged: dict[str, asyncio.Future[None]] = {}
        self._replies_heard = asyncio.Event()
        self._tasks = BackgroundTasks(log)
        self._listener: asyncio.Task[None] | None = None
        self._teller: asyncio.Task[None] | None = None
        self._untold: dict[ObjectKey, None] = {}
        self._all_untold = False
        self._complained = False

    async def tell(self, keys: Sequence[ObjectKey]) -> None:
        """These keys have been written: returns when no node serves what they were before. Never raises."""
        clock = asyncio.get_running_loop().time
        if self._listener is None:
            self._listener = self._tasks.start(self._listen_on())
        write = Invalidation(secrets.token_hex(8), self._name, tuple(keys), self._reply)
        done = self._acknowledged[write.write_id] = asyncio.get_running_loop().create_future()
        try:
            told, told_by_s = await self._publish(write, clock() + self._patience_s)
            if told is None:
                self._keep_untold(keys)
                outcome = "untold"
            elif not told.waiting and told.complete:
                outcome = "acknowledged"
            else:
                outcome = "waited_out"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(told_by_s + self._patience_s):
                        if told.complete:
                            await done
                            outcome = "acknowledged"
                        else:
                            await asyncio.get_running_loop().create_future()
        finally:
            del self._acknowledged[write.write_id]
        WRITES_TOLD.labels(outcome).inc()

    def announce(self, keys: Sequence[ObjectKey]) -> None:
        """These keys were found to have changed at the origin: others should know, and nobody waits for it."""
        self._keep_untold(keys)

    async def aclose(self) -> None:
        await self._tasks.aclose(cancel=True)
        if self._untold or self._all_untold:
            with contextlib.suppress(*REDIS_ERRORS):
                while self._untold or self._all_untold:
                    await self._tell_untold()

    async def _publish(self, write: Invalidation, until_s: float) -> tuple[WriteReceipt | None, float]:
        """What Redis answered, and a moment by which it had published; None: it did not answer in time."""
        clock = asyncio.get_running_loop().time
        with contextlib.suppress(TimeoutError):  # replies that are not heard cost a wait, no more
            async with asyncio.timeout(ANSWER_S):
                await self._replies_heard.wait()
        while True:
            try:
                async with asyncio.timeout(ANSWER_S), self._room:
                    told = await self._channel.tell(write)
            except REDIS_ERRORS as error:
                self._complain(error)
                if clock() + PAUSE_S >= until_s:
                    await asyncio.sleep(max(0.0, until_s - clock()))
                    return None, clock()
                await asyncio.sleep(PAUSE_S)
                continue
            self._complained = False
            return told, clock()

    def _keep_untold(self, keys: Sequence[ObjectKey]) -> None:
        self._untold.update(dict.fromkeys(keys))
        if len(self._untold) > KEYS_MAX:
            self._untold.clear()
            self._all_untold = True
        if self._teller is None:
            self._teller = self._tasks.start(self._catch_up())

    async def _catch_up(self) -> None:
        """Tells what could not be told, as soon as that is possible."""
        while self._untold or self._all_untold:
            try:
                await self._tell_untold()
            except REDIS_ERRORS as error:
                self._complain(error)
                await asyncio.sleep(LATER_S)
        self._teller = None

    async def _tell_untold(self) -> None:
        everything, keys = self._all_untold, tuple(self._untold)[:BATCH_KEYS]
        self._all_untold = False
        for key in keys:
            del self._untold[key]
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._channel.tell(Invalidation(secrets.token_hex(8), self._name, () if everything else keys))
        except BaseException:
            self._all_untold |= everything
            self._untold.update(dict.fromkeys(keys))
            raise

    async def _listen_on(self) -> None:
        while True:
            try:
                await self._listen()
            except REDIS_ERRORS as error:
                self._complain(error)
            finally:
                self._replies_heard.clear()
            await asyncio.sleep(LATER_S)

    async def _listen(self) -> None:
        """A reply that is lost costs its write the wait for a silent node."""
        pubsub: PubSub = self._channel.redis.pubsub()
        asked = False
        try:
            await pubsub.subscribe(self._reply)
            while True:
                message: dict[str, Any] | None = await pubsub.get_message(timeout=CHECK_S)
                if message is None:
                    if asked:
                        raise TimeoutError("the connection is silent")
                    await pubsub.ping()
                asked = message is None
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._replies_heard.set()
                elif message["type"] == "message":
                    done = self._acknowledged.get(message["data"].decode("ascii", "replace"))
                    if done is not None and not done.done():
                        done.set_result(None)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _complain(self, error: BaseException) -> None:
        if not self._complained:
            self._complained = True
            log.warning("other nodes can't be told of writes: %s", error or type(error).__name__)
