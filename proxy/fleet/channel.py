"""What nodes tell each other of writes, and how Redis passes it on: messages, and the scripts that publish them.

How it works. All goes over one channel, `<prefix>:news`, whose order is the same for every subscriber. Redis gives each
message a stamp: a beat gets the stamp of the last write, a write a new one (the time, in microseconds, or one more than
the last), so that stamps go on growing when Redis has lost everything.

A beat also marks its node as listening. A write is published in the same step in which the nodes that listen are read:
it has to be acknowledged by those, and by nobody else. Each acknowledgement takes a node out of the set
`<prefix>:waiting:<id>`; the one that empties it tells the writer, on the writer's own channel.

A Redis that has just started, or was emptied, does not know who listened before. Until every freshness window of that
time has run out (`since`), it says so: `WriteReceipt.complete` is False, and the writer waits as if somebody were
silent. Everything expires. One Redis server holds it all: a Redis Cluster's channels have no common order.

Messages are sealed (`proxy.fleet.messages`): Redis, or whoever else writes there, can forge none. The stamp before a
message is Redis's own, and so are the counts of who has to acknowledge; they can make a write be seen late, by the
bucket's ttl at most. A key there that holds what no node can have written is begun anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from proxy.fleet.freshness import DRIFT_S, FRESHNESS_S
from proxy.fleet.messages import Seals
from proxy.fleet.rediskeys import RedisKeys
from proxy.fleet.state import FleetState
from proxy.objects import ObjectKey

if TYPE_CHECKING:
    from redis.asyncio import Redis

LISTENING_S = 10.0  # after its last beat: what a node that went without a word costs writers
_EXPIRES_S = 30
_STAMP_EXPIRES_S = 86_400
MESSAGE_BYTES_MAX = 8 << 20  # a batch delete names 1,000 keys of 1,024 bytes, each up to 6 in JSON
NAME_MAX = 256  # of a write, a run, a channel
_STAMP = re.compile(rb"\d{1,18}")

_OPENING = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%w+)') or 'unknown'
local kinds = {[KEYS[2]] = 'zset', [KEYS[3]] = 'hash'}
for key, kind in pairs(kinds) do
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' and found ~= kind then redis.call('DEL', key) end
end
local since = tonumber(redis.call('HGET', KEYS[3], run))
if not since or not (since <= now) then
    since = now
    redis.call('DEL', KEYS[3])
    redis.call('HSET', KEYS[3], run, string.format('%.0f', now))
end
redis.call('EXPIRE', KEYS[3], ARGV[1])
local stamp = redis.pcall('GET', KEYS[1])
stamp = type(stamp) == 'string' and tonumber(stamp) or 0
if not (stamp >= 0 and stamp <= now + 3600000000) then stamp = 0 end
"""

# KEYS: stamp, listening, since. ARGV: expiry, channel, node, message
_BEAT = (
    _OPENING
    + """
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[3])
redis.call('EXPIRE', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[2], string.format('%.0f ', stamp) .. ARGV[4])
return 1
"""
)

# KEYS: stamp, listening, since, waiting. ARGV: expiry, channel, node, message, listening time and freshness window in
# microseconds, expiry of those that wait; 0: nobody has to acknowledge
_TELL = (
    _OPENING
    + """
stamp = math.max(stamp + 1, now)
redis.call('SET', KEYS[1], string.format('%.0f', stamp), 'EX', ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - ARGV[5]))
local waiting = 0
if ARGV[7] ~= '0' then
    for _, node in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
        if node ~= ARGV[3] then
            redis.call('SADD', KEYS[4], node)
            waiting = waiting + 1
        end
    end
    redis.call('EXPIRE', KEYS[4], ARGV[7])
end
redis.call('PUBLISH', ARGV[2], string.format('%.0f ', stamp) .. ARGV[4])
return {waiting, now - since > tonumber(ARGV[6]) and 1 or 0}
"""
)

# KEYS: waiting of each write. ARGV: node, then for each write its id and its writer's channel
_ACKNOWLEDGE = """
for number, key in ipairs(KEYS) do
    if redis.call('SREM', key, ARGV[1]) == 1 and redis.call('EXISTS', key) == 0 then
        redis.call('PUBLISH', ARGV[2 * number + 1], ARGV[2 * number])
    end
end
return 1
"""


@dataclass(frozen=True, slots=True)
class Beat:
    """`run` is the process's that sent it, `at_s` that machine's time.monotonic when it did."""

    node_id: str
    run: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Invalidation:
    """Keys that are not what they were; no keys: any may have changed. `reply`: where its end is told, if anywhere."""

    write_id: str
    node_id: str
    keys: tuple[ObjectKey, ...]
    reply: str = ""


Message: TypeAlias = "Beat | Invalidation"


@dataclass(frozen=True, slots=True)
class WriteReceipt:
    """`waiting` nodes have to acknowledge; not `complete`: others may have freshness windows that Redis does not know
    of."""

    waiting: int
    complete: bool


def render_message(seals: Seals, message: Message) -> bytes:
    if isinstance(message, Beat):
        return seals.seal("news", message.node_id, {"kind": "beat", "run": message.run, "at": message.at_s})
    keys = [[key.origin, key.bucket, key.key, key.version_id] for key in message.keys]
    values = {"kind": "write", "id": message.write_id, "reply": message.reply, "keys": keys}
    return seals.seal("news", message.node_id, values)


def parse_message(seals: Seals, data: bytes) -> tuple[int | None, Message | None]:
    """Stamp and message. No stamp: it is none that Redis has made; no message: this program does not know its kind.

    Raises Unsealed for what no member has written, ValueError for a member's that can't be read. A message's time does
    not matter: only the beats of the process that reads them count, and a write that is heard twice does no harm.
    """
    stamp, _, text = data.partition(b" ")
    found = seals.open("news", text, bytes_max=MESSAGE_BYTES_MAX, window_s=None)
    number = int(stamp) if _STAMP.fullmatch(stamp) else None
    values = found.values
    if values.get("kind") == "beat":
        at_s = values.get("at")
        if not isinstance(at_s, int | float) or not math.isfinite(at_s):
            raise ValueError("a beat has a time")
        return number, Beat(found.node_id, _name(values, "run"), float(at_s))
    if values.get("kind") == "write":
        keys = values.get("keys")
        if not isinstance(keys, list):
            raise ValueError("a write has keys")
        return number, Invalidation(
            _name(values, "id"), found.node_id, tuple(_parse_key(each) for each in keys), _name(values, "reply")
        )
    return number, None


def _name(values: Mapping[str, Any], field: str) -> str:
    name = values.get(field)
    if not isinstance(name, str) or len(name) > NAME_MAX:
        raise ValueError(f"{field} is a name")
    return name


def _parse_key(values: Any) -> ObjectKey:
    if not isinstance(values, list) or len(values) != 4:
        raise ValueError("a key has four parts")
    origin, bucket, key, version_id = values
    texts = (origin, bucket, key) if version_id is None else (origin, bucket, key, version_id)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a key is text")
    return ObjectKey(origin, bucket, key, version_id)


def sender_name(node_id: str, fleet_state: FleetState) -> str:
    """What a node is called here, in this run: one that has the same id is another node all the same."""
    return f"{node_id}.{fleet_state.run_nonce:016x}"


class InvalidationChannel:
    """The fleet's news in Redis, for one event loop. Every call raises proxy.fleet.redis.REDIS_ERRORS."""

    def __init__(self, redis: Redis, prefix: str, seals: Seals) -> None:
        self.redis = redis
        self.seals = seals
        self._names = RedisKeys(prefix)
        self.channel = self._names.news()
        self._keys = [self._names.news_stamp(), self._names.news_listening(), self._names.news_since()]
        self._beat = redis.register_script(_BEAT)
        self._tell = redis.register_script(_TELL)
        self._acknowledge = redis.register_script(_ACKNOWLEDGE)

    async def beat(self, message: Beat) -> None:
        await self._beat(
            self._keys, [_STAMP_EXPIRES_S, self.channel, message.node_id, render_message(self.seals, message)]
        )

    async def tell(self, message: Invalidation) -> WriteReceipt:
        keys = [*self._keys, self._names.waiting(message.write_id)]
        times = [int(LISTENING_S * 1e6), int((FRESHNESS_S + DRIFT_S) * 1e6), _EXPIRES_S if message.reply else 0]
        arguments: list[str | bytes | int] = [
            _STAMP_EXPIRES_S,
            self.channel,
            message.node_id,
            render_message(self.seals, message),
            *times,
        ]
        waiting, complete = cast("list[int]", await self._tell(keys, arguments))
        return WriteReceipt(waiting, bool(complete))

    async def acknowledge(self, node_id: str, writes: Sequence[Invalidation]) -> None:
        """This node has forgotten what these writes have changed."""
        places = [part for write in writes for part in (write.write_id, write.reply)]
        await self._acknowledge([self._names.waiting(write.write_id) for write in writes], [node_id, *places])

    async def leave(self, node_id: str) -> None:
        """This node has no freshness window any more, and acknowledges nothing."""
        await self.redis.zrem(self._names.news_listening(), node_id)

    def reply_channel(self, name: str) -> str:
        """A writer's own."""
        return self._names.told(name)
