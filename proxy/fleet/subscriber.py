"""News of other nodes' writes, as the control process of a node hears it: it forgets the keys, and says so.

How it works. One task reads the channel, message by message, and finishes each before it takes the next. A write's keys
are forgotten on the disk and in every process of this node (in a thread), and only then acknowledged. A beat of this
process that comes back therefore tells that all writes published before it are known here: it renews the node's
freshness window, counted from the moment the beat was *sent*. A stopped process, a hanging disk, a lost connection:
each lets the window run out by itself, and writers wait for no longer than that.

Whenever the subscription is made (again), messages may have been missed: all that was checked before is due once. So
it is when keys can't be forgotten, or a member's message can't be read. What no member has sealed is dropped and
counted: anybody may publish there.

Beats of another process of this node (the one before this, say) do not count: what it heard, this one did not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from proxy.concurrency.threads import Threads
from proxy.fleet.channel import Beat, Invalidation, InvalidationChannel, parse_message
from proxy.fleet.freshness import FRESHNESS_S
from proxy.fleet.messages import Unsealed
from proxy.fleet.redis import REDIS_ERRORS
from proxy.fleet.state import FleetState
from proxy.metrics import DROPPED_MESSAGES, KEYS_HEARD
from proxy.objects import ObjectKey
from proxy.rate_limited_log import RateLimitedLog

if TYPE_CHECKING:
    from redis.asyncio.client import PubSub

BEAT_S = 1.0
SILENCE_S = 2.5  # without even the own beats: the connection is dead
PAUSE_S = 0.5  # before the next try to subscribe
LEAVE_S = 1.0
STAMP_AHEAD_S = 3600.0  # Redis's clock and this node's may differ by so much

log = logging.getLogger("warmstart.fleet")
_unsealed = RateLimitedLog(log)


class InvalidationSubscriber:
    """One in each node, in its control process; `name` is `sender_name`'s.

    `forget` blocks; False: the disk may still hold a record of the key.
    `clock` is time.monotonic, `now` Unix time; both in seconds.
    """

    def __init__(
        self,
        channel: InvalidationChannel,
        name: str,
        fleet_state: FleetState,
        forget: Callable[[ObjectKey], bool],
        *,
        threads: Threads | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.ready = asyncio.Event()  # while subscribed
        self._channel = channel
        self._name = name
        self._fleet_state = fleet_state
        self._forget = forget
        self._threads = threads or Threads()
        self._clock = clock
        self._now = now
        self._run = secrets.token_hex(8)
        self._heard: list[Invalidation] = []  # to be acknowledged
        self._to_acknowledge = asyncio.Event()
        self._complained = False

    async def run(self) -> None:
        """Until it is cancelled: then this node's freshness window ends, and no writer waits for it."""
        helpers = [asyncio.create_task(self._beat_on()), asyncio.create_task(self._acknowledge_on())]
        try:
            while True:
                try:
                    await self._listen()
                except REDIS_ERRORS as error:
                    self._complain(error)
                finally:
                    self.ready.clear()
                await asyncio.sleep(PAUSE_S)
        finally:
            for helper in helpers:
                helper.cancel()
            self._fleet_state.fresh_until_s = 0.0
            with contextlib.suppress(*REDIS_ERRORS):
                async with asyncio.timeout(LEAVE_S):
                    await self._channel.leave(self._name)
            await asyncio.gather(*helpers, return_exceptions=True)

    async def beat(self) -> None:
        """Sends one; this node's freshness window is renewed when it comes back. Raises REDIS_ERRORS."""
        await self._channel.beat(Beat(self._name, self._run, self._clock()))

    async def take(self, kind: str, data: bytes) -> None:
        """What the channel has brought; in order, one at a time."""
        if kind == "subscribe":
            self._all_due()
            self.ready.set()
            return
        if kind != "message":
            return
        try:
            stamp, message = parse_message(self._channel.seals, data)
        except Unsealed as error:
            DROPPED_MESSAGES.labels("news", error.reason).inc()
            _unsealed.say(
                f"a message in Redis about writes is dropped ({error}): compare cluster.secret and the versions of all"
                " nodes; else a stranger writes to Redis"
            )
            return
        except ValueError as error:
            DROPPED_MESSAGES.labels("news", "malformed").inc()
            log.error("a message of the fleet can't be read: %s", error)
            self._all_due()
            return
        if isinstance(message, Invalidation):
            await self._take_write(message)
        elif isinstance(message, Beat) and (message.node_id, message.run) == (self._name, self._run):
            self._take_own_beat(message)
        if stamp is not None and stamp <= (self._now() + STAMP_AHEAD_S) * 1e6:
            self._fleet_state.heard = stamp
        else:
            DROPPED_MESSAGES.labels("news", "stamp").inc()

    def _take_own_beat(self, beat: Beat) -> None:
        """It can't have been sent later than now."""
        if beat.at_s > self._clock():
            DROPPED_MESSAGES.labels("news", "time").inc()
            return
        self._fleet_state.fresh_until_s = max(self._fleet_state.fresh_until_s, beat.at_s + FRESHNESS_S)
        self._complained = False

    async def _take_write(self, write: Invalidation) -> None:
        """Of this node's own the worker that sent it takes care: its fences stand."""
        if write.node_id == self._name:
            return
        if not write.keys or not await self._threads.run(self._forget_all, write.keys):
            self._all_due()
        KEYS_HEARD.inc(len(write.keys))
        if write.reply:
            self._heard.append(write)
            self._to_acknowledge.set()

    def _forget_all(self, keys: Sequence[ObjectKey]) -> bool:
        """Blocking."""
        kept = [key for key in keys if not self._forget(key)]
        return not kept

    def _all_due(self) -> None:
        self._fleet_state.due_before_s = self._now()

    async def _listen(self) -> None:
        pubsub: PubSub = self._channel.redis.pubsub()
        try:
            await pubsub.subscribe(self._channel.channel)
            while True:
                async with asyncio.timeout(SILENCE_S):
                    message: dict[str, Any] | None = await pubsub.get_message(timeout=None)
                if message is not None:
                    await self.take(message["type"], message["data"] if message["type"] == "message" else b"")
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _beat_on(self) -> None:
        while True:
            await self.ready.wait()
            with contextlib.suppress(*REDIS_ERRORS):  # the silence will tell
                async with asyncio.timeout(SILENCE_S):
                    await self.beat()
            await asyncio.sleep(BEAT_S)

    async def _acknowledge_on(self) -> None:
        while True:
            await self._to_acknowledge.wait()
            self._to_acknowledge.clear()
            heard, self._heard = self._heard, []
            with contextlib.suppress(*REDIS_ERRORS):  # the writers wait, no longer than a freshness window
                async with asyncio.timeout(SILENCE_S):
                    await self._channel.acknowledge(self._name, heard)

    def _complain(self, error: BaseException) -> None:
        if not self._complained:
            self._complained = True
            log.warning("news of writes can't be had from Redis: %s", error or type(error).__name__)
