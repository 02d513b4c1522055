"""Where the fleet's nodes lay their reports about an origin, and find the plan that follows from them: in Redis.

How it works. One step does it all: a node's report is stored, the plan read, and whoever holds the key of the one who
plans, or finds it free, gets all reports as well, and stores the next plan. That key lasts PLANNER_S: when its holder
is gone, another node plans, from the last plan. A planner that stood still meanwhile has lost the key, and its plan is
not taken. Everything expires. Reports and plans are sealed (`proxy.fleet.messages`): what no member has written is
dropped and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.fleet.messages import Seals, Unsealed
from proxy.fleet.rediskeys import RedisKeys
from proxy.metrics import DROPPED_MESSAGES

if TYPE_CHECKING:
    from redis.asyncio import Redis

PLANNER_S = 1.0
_EXPIRES_S = 120
TEXT_BYTES_MAX = 8 << 10
NODES_MAX = 10_000  # a hash with more reports is none of a fleet's

# KEYS: reports, plan, planner. ARGV: node, report, milliseconds for who plans, expiry, seconds for which reports count,
# the most bytes of a report or plan, the most reports. What can be no node's is removed.
_SWAP = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local kinds = {'hash', 'string', 'string'}
for number, key in ipairs(KEYS) do
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'none' and kind ~= kinds[number] then redis.call('DEL', key) end
end
if redis.call('HLEN', KEYS[1]) > tonumber(ARGV[7]) then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.6f ', now) .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
local plan = redis.call('STRLEN', KEYS[2]) <= tonumber(ARGV[6]) and redis.call('GET', KEYS[2])
redis.call('SET', KEYS[3], ARGV[1], 'NX', 'PX', ARGV[3])
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return {string.format('%.6f', now), plan} end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
local reports = {}
local all = redis.call('HGETALL', KEYS[1])
for number = 1, #all, 2 do
    local at, report
    if #all[number + 1] <= tonumber(ARGV[6]) then at, report = string.match(all[number + 1], '^(%S+) (.*)$') end
    at = at and tonumber(at)
    if at and now - at <= tonumber(ARGV[5]) then
        table.insert(reports, all[number])
        table.insert(reports, report)
    else
        redis.call('HDEL', KEYS[1], all[number])
    end
end
return {string.format('%.6f', now), plan, reports}
"""

# KEYS: plan, planner. ARGV: node, plan, expiry
_PLAN = """
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Swapped:
    """Redis's time, the last plan, and, for the one who plans, all reports by the names of their nodes."""

    now_s: float
    plan: bytes | None
    reports: Mapping[str, bytes] | None


class RateStore:
    """One node's access. Every call raises proxy.fleet.redis.REDIS_ERRORS."""

    def __init__(self, redis: Redis, prefix: str, name: str, seals: Seals) -> None:
        self.name = name
        self._seals = seals
        self._names = RedisKeys(prefix)
        self._swap: Any = redis.register_script(_SWAP)
        self._plan: Any = redis.register_script(_PLAN)

    async def swap(self, origin: str, report: str, report_s: float) -> Swapped:
        """Leave the node's report; those that are older than `report_s` count no more."""
        sealed = self._seals.seal(f"report {origin}", self.name, {"text": report})
        arguments = [self.name, sealed, int(PLANNER_S * 1000), _EXPIRES_S, report_s, TEXT_BYTES_MAX, NODES_MAX]
        found = await self._swap(self._keys(origin), arguments)
        by_planner = self._open(f"plan {origin}", found[1]) if found[1] else None
        plan = by_planner[1] if by_planner is not None else None
        if len(found) < 3:
            return Swapped(float(found[0]), plan, None)
        reports = [self._open(f"report {origin}", text) for text in found[2][1::2]]
        return Swapped(float(found[0]), plan, dict(each for each in reports if each is not None))

    async def plan(self, origin: str, plan: str) -> None:
        sealed = self._seals.seal(f"plan {origin}", self.name, {"text": plan})
        await self._plan(self._keys(origin)[1:], [self.name, sealed, _EXPIRES_S])

    def _open(self, kind: str, text: bytes) -> tuple[str, bytes] | None:
        """Who has sealed it, and what."""
        try:
            message = self._seals.open(kind, text, bytes_max=TEXT_BYTES_MAX)
            return message.node_id, str(message.values["text"]).encode()
        except Unsealed as error:
            DROPPED_MESSAGES.labels("limits", error.reason).inc()
        except (ValueError, KeyError):
            DROPPED_MESSAGES.labels("limits", "malformed").inc()
        return None

    def _keys(self, origin: str) -> list[str]:
        names = self._names
        return [names.limits_reports(origin), names.limits_plan(origin), names.limits_planner(origin)]
