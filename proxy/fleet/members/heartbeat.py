"""Membership by heartbeats in Redis.

How it works. Each second a node writes its status under a key of its own, which expires after EXPIRES_S, and reads
those of all others: one script, one round trip, by Redis's clock alone. Large fleets read less often than they write.
Statuses are sealed (`proxy.fleet.messages`): one that no member has written, or an old one, is dropped and counted.

Redis may lose everything: then nobody is there until each has written again, and no node may believe that it is alone.
So whoever is missing stays a member for GRACE_S after the first round that Redis has answered again, or after the
first in which this node's own key, just written, was gone. While Redis does not answer, the last members stay.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace

from redis.asyncio import Redis

from proxy.fleet.members.advertise import AddressFinder, locate
from proxy.fleet.members.registry import MemberRegistry
from proxy.fleet.members.status import STATUS_BYTES_MAX, NodeStatus, read_status, status_values
from proxy.fleet.messages import Seals, Unsealed
from proxy.fleet.redis import REDIS_ERRORS
from proxy.fleet.rediskeys import RedisKeys
from proxy.fleet.state import FleetState
from proxy.metrics import DROPPED_MESSAGES, FLEET_COORDINATED, FLEET_FAILED_BEATS
from proxy.rate_limited_log import RateLimitedLog

PERIOD_S = 1.0
EXPIRES_S = 4.0
GRACE_S = 8.0
ANSWER_TIMEOUT_S = 3.0
KIND = "member"  # of its sealed messages
PAUSE_MAX_S = 2.0
NODES_PER_PERIOD = 100  # larger fleets read the members every so many beats
NODES_MAX = 10_000  # more entries are not read: fleets have 2,000 at most

assert PERIOD_S + PAUSE_MAX_S + ANSWER_TIMEOUT_S < GRACE_S

# KEYS: members by the time of their last beat (ms), this node's status. ARGV: node, status ("": not written),
# expiry in ms, the prefix of statuses ("": not read), the most bytes of one, the most nodes. Gives this node's
# status as it was, then all that stand; longer ones are cut, and so found wrong.
_BEAT = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function read(key)
    local found = redis.pcall('GETRANGE', key, 0, ARGV[5])
    return type(found) == 'string' and found or ''
end
local found = {read(KEYS[2])}
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and kind ~= 'zset' then redis.call('DEL', KEYS[1]) end
if ARGV[2] ~= '' then
    redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
    redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
    redis.call('PEXPIRE', KEYS[1], 10 * ARGV[3])
end
if ARGV[4] ~= '' then
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - ARGV[3]))
    for _, node in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[6] - 1)) do
        local status = read(ARGV[4] .. node)
        if status ~= '' then
            found[#found + 1] = status
        end
    end
end
return found
"""

log = logging.getLogger("warmstart.fleet")
_unsealed = RateLimitedLog(log)


class RedisMembership:
    """This node's heartbeat. `clock` counts seconds, from whenever."""

    def __init__(
        self,
        registry: MemberRegistry,
        fleet_state: FleetState,
        redis: Redis,
        prefix: str,
        finder: AddressFinder,
        seals: Seals,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._fleet_state = fleet_state
        self._redis = redis
        self._finder = finder
        self._seals = seals
        self._clock = clock
        self._names = RedisKeys(prefix)
        self._beat = redis.register_script(_BEAT)
        self._wake = asyncio.Event()
        self._rounds = 0
        self._failures = 0
        self._written_s: float | None = None
        self._written_url = ""
        self._sure_from_s: float | None = None  # from when on who is missing is gone; None: Redis does not answer

    async def run(self) -> None:
        """Beat until cancelled."""
        FLEET_COORDINATED.set(0)
        while True:
            began_s = self._clock()
            await locate(self._registry, self._finder)
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self.beat()
            except REDIS_ERRORS as error:
                self._lost(error)
            await self._pause(self._clock() - began_s)

    def hurry(self) -> None:
        """Beat now: this node has something to say."""
        self._rounds = 0
        self._wake.set()

    async def leave(self) -> None:
        """Out of the membership at once: its last status says so, until it expires. Raises nothing."""
        own = self._registry.last_status()
        text = self._seals.seal(KIND, own.member.node_id, status_values(replace(own, left=True)))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                if self._registry.located:
                    await self._redis.set(self._names.member(own.member.node_id), text, px=int(1000 * EXPIRES_S))
        except REDIS_ERRORS as error:
            log.warning("can't leave the fleet's members, as Redis does not answer: %s", error)

    async def beat(self) -> None:
        """One round. Raises REDIS_ERRORS."""
        began_s = self._clock()
        registry, own = self._registry, self._registry.note_status()
        reads = self._rounds % (1 + len(registry.others) // NODES_PER_PERIOD) == 0
        self._rounds += 1
        text = self._seals.seal(KIND, own.member.node_id, status_values(own)) if registry.located else b""
        keys = [self._names.members(), self._names.member(own.member.node_id)]
        prefix, expires_ms = self._names.member("") if reads else "", int(1000 * EXPIRES_S)
        arguments: list[str | bytes | int] = [own.member.node_id, text, expires_ms, prefix]
        arguments += [STATUS_BYTES_MAX, NODES_MAX]
        before, *found = await self._beat(keys, arguments)
        self._answered(began_s, before)
        if text:
            self._written_s, self._written_url = began_s, own.member.url
        if reads:
            self._see(found)

    def _answered(self, began_s: float, before: bytes) -> None:
        """Redis is there; `before` is what it had of this node."""
        fresh = self._written_s is not None and began_s - self._written_s < EXPIRES_S / 2
        if self._sure_from_s is None or (fresh and not before):
            self._sure_from_s = self._clock() + (GRACE_S if self._registry.others else 0.0)
        if self._failures or not self._fleet_state.coordinated:
            log.info("Redis answers")
        self._failures = 0
        self._fleet_state.coordinated = True
        FLEET_COORDINATED.set(1)
        self._look_for_twin(before if fresh else b"")

    def _lost(self, error: Exception) -> None:
        FLEET_FAILED_BEATS.inc()
        if self._failures == 0:
            log.warning("Redis does not answer, and the last members stay: %s", error or type(error).__name__)
        self._failures += 1
        self._sure_from_s = None
        self._fleet_state.coordinated = False
        FLEET_COORDINATED.set(0)

    def _see(self, found: list[bytes]) -> None:
        seen: dict[str, NodeStatus] = {}
        for text in found:
            status = self._open(text)
            if status is not None:
                seen[status.member.node_id] = status
        left = {name for name, status in seen.items() if status.left}
        for name in (*left, self._registry.own.node_id):
            seen.pop(name, None)
        if self._sure_from_s is None or self._clock() < self._sure_from_s:
            others = self._registry.others.items()
            staying = {name: other for name, other in others if not other.member.draining and name not in left}
            seen = {**staying, **seen}
        self._registry.see(seen, left)

    def _open(self, text: bytes) -> NodeStatus | None:
        """None: no member's; counted, and said."""
        try:
            message = self._seals.open(KIND, text, bytes_max=STATUS_BYTES_MAX)
            status = read_status(message.values)
            if status.member.node_id != message.node_id:
                raise ValueError("a node speaks for itself alone")
            return status
        except Unsealed as error:
            DROPPED_MESSAGES.labels("member", error.reason).inc()
            look_at = "the clocks of all nodes" if error.reason == "time" else "cluster.secret and the version"
            _unsealed.say(f"what says in Redis that it is {_name(text)} is dropped ({error}): compare {look_at}")
        except ValueError as error:
            DROPPED_MESSAGES.labels("member", "malformed").inc()
            _unsealed.say(f"what says in Redis that it is {_name(text)} is dropped ({error})")
        return None

    def _look_for_twin(self, before: bytes) -> None:
        """Somebody else writes this node's key, after this node did."""
        url: str | None = None
        if before:
            twin = self._open(before)
            url = twin.member.url if twin is not None else None  # what no member has written is no twin
        self._registry.note_twin(url if url != self._written_url else None)

    async def _pause(self, took_s: float) -> None:
        """Until the next beat is due: on time while all is well, after a growing pause while Redis is away."""
        if self._failures:
            pause_s = min(PERIOD_S * 2 ** (self._failures - 2), PAUSE_MAX_S) * random.uniform(0.5, 1.0)
        else:
            pause_s = max(0.0, PERIOD_S - took_s)
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()


def _name(text: bytes) -> str:
    """For the log alone, of what nobody vouches for: the URL in it, if it has one."""
    found = re.search(rb'"url": ?"([^"\\]{1,200})"', text)
    return repr(found[1].decode("ascii", "replace")) if found is not None else "a member"
