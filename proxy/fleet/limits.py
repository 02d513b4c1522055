"""Where the fleet's nodes lay their reports about an origin, and find the plan that follows from them: in Redis.

How it works. One step does it all: a node's report is stored, the plan read, and whoever holds the key of the one who
plans, or finds it free, gets all reports as well, and stores the next plan. That key lasts PLANNER_S: when its holder
is gone, another node plans, from the last plan. A planner that stood still meanwhile has lost the key, and its plan is
not taken. Everything expires.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis.asyncio import Redis

PLANNER_S = 1.0
_EXPIRES_S = 120

# KEYS: reports, plan, planner. ARGV: node, report, milliseconds for who plans, expiry, seconds for which reports count
_SWAP = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.6f ', now) .. ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[4])
local plan = redis.call('GET', KEYS[2])
redis.call('SET', KEYS[3], ARGV[1], 'NX', 'PX', ARGV[3])
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return {string.format('%.6f', now), plan} end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
local reports = {}
local all = redis.call('HGETALL', KEYS[1])
for number = 1, #all, 2 do
    local at, report = string.match(all[number + 1], '^(%S+) (.*)$')
    if at and now - tonumber(at) <= tonumber(ARGV[5]) then
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


class LimitBoard:
    """One node's access. Every call raises proxy.fleet.redis.REDIS_ERRORS."""

    def __init__(self, redis: Redis, prefix: str, name: str) -> None:
        self.name = name
        self._prefix = prefix
        self._swap: Any = redis.register_script(_SWAP)
        self._plan: Any = redis.register_script(_PLAN)

    async def swap(self, origin: str, report: str, report_s: float) -> Swapped:
        """Leave the node's report; those that are older than `report_s` count no more."""
        arguments = [self.name, report, int(PLANNER_S * 1000), _EXPIRES_S, report_s]
        found = await self._swap(self._keys(origin), arguments)
        reports = found[2] if len(found) > 2 else None
        named = None if reports is None else {reports[at].decode(): reports[at + 1] for at in range(0, len(reports), 2)}
        return Swapped(float(found[0]), found[1], named)

    async def plan(self, origin: str, plan: str) -> None:
        await self._plan(self._keys(origin)[1:], [self.name, plan, _EXPIRES_S])

    def _keys(self, origin: str) -> list[str]:
        return [f"{self._prefix}:limits:{origin}:{part}" for part in ("reports", "plan", "planner")]
