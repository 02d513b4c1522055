"""The fleet's lease on a block: which node may fetch it from the origin. Kept in Redis.

How it works. Nodes may see different members, so two of them may believe that they own the same block. Before a node
asks the origin, it takes the block's lease for LEASE_S: a Redis key whose value names the node and its fill, with a
token of its own. It renews the lease while it fills, and changes the key only while the token is its own. A node that
finds the lease taken reads from the node that it names. When the block is there, the lease says so for a minute
(`done`), so that a node with another view finds the block instead of fetching it again. A node that stood still for
longer than its lease (paused, cut off) has lost it: it completes its own fill, and takes nothing from its successor.

If Redis is away, no read waits for it; then only the block's owners see to it that it is fetched once. A lease is a
hint: a forged one delays a block by a few seconds, but what is read from the node that it names must be proved. Nodes
of another protocol version use other keys, so that no node waits for one that it can't read from.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.concurrency.tasks import BackgroundTasks
from proxy.fleet.messages import parse_json
from proxy.fleet.rediskeys import RedisKeys
from proxy.metrics import DROPPED_MESSAGES
from proxy.rate_limited_log import RateLimitedLog

LEASE_S = 4.0
RENEW_S = 1.0
DONE_S = 60.0
PAUSE_S = 1.0  # how long Redis is left alone when it did not answer
LEASE_BYTES_MAX = 4096

_TAKE = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[3] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""
_KEEP = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""

log = logging.getLogger(__name__)
_limited_log = RateLimitedLog(log)


class Scripts(Protocol):
    """The part of a Redis client that leases need: `redis.asyncio.Redis`."""

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class LeasedByAnother:
    """The lease that another node has. `text` is the lease as stored; `done`: that node has the whole block.

    `url` is where that node serves, as this node may not know it as a member yet. "": that node did not know it itself.
    """

    node_id: str
    url: str
    fill_id: int
    done: bool
    text: str


@dataclass(slots=True)
class Lease:
    """A lease held by this node; give it to `Leases.end`. `real` False: Redis did not answer and has no such lease."""

    name: str
    text: str
    real: bool


class Leases:
    """The leases of one worker. `redis` None: there is none. `errors`: what it raises when it does not answer.

    `where` returns the URL at which this node serves.
    """

    def __init__(
        self,
        redis: Scripts | None,
        prefix: str,
        node_id: str,
        errors: tuple[type[Exception], ...] = (OSError,),
        clock: Callable[[], float] = time.monotonic,
        where: Callable[[], str] = str,
        *,
        lease_s: float = LEASE_S,
        renew_s: float = RENEW_S,
    ) -> None:
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._where = where
        self._errors: tuple[type[Exception], ...] = (*errors, TimeoutError)
        self.expected = redis is not None
        self._redis = redis
        self._names = RedisKeys(prefix)
        self._node_id = node_id
        self._clock = clock
        self._held: dict[str, Lease] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._ending = BackgroundTasks(log)
        self._away_until_s = 0.0

    async def take(
        self, digest: bytes, index: int, fill_id: int, instead: LeasedByAnother | None = None
    ) -> Lease | LeasedByAnother:
        """Return the lease, or the one that another node has. `instead`: replace that one, which led nowhere."""
        name = self._names.lease(digest.hex(), index)
        text = self._render(fill_id, done=False)
        if self._redis is None or self._clock() < self._away_until_s:
            return Lease(name, text, real=False)
        over = instead.text if instead is not None else ""
        try:
            held = await self._redis.eval(_TAKE, 1, name, text, int(self._lease_s * 1000), over)
        except self._errors as error:
            self._is_away(error)
            return Lease(name, text, real=False)
        elsewhere = _parse(held)
        if elsewhere is not None and elsewhere.node_id != self._node_id:
            return elsewhere
        lease = Lease(name, text, real=True)
        if elsewhere is not None:  # this node's own, of another worker or of an earlier process: take it over
            await self._keep(lease, elsewhere.text, lease.text, self._lease_s)
        self._held[name] = lease
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.get_running_loop().create_task(self._renew(), name="leases")
        return lease

    def end(self, lease: Lease, *, done: bool) -> None:
        """End a lease with its fill; `done`: the block is there. Redis is updated soon."""
        if self._held.pop(lease.name, None) is None:
            return
        after = self._render(int(json.loads(lease.text)["fill"], 16), done=True) if done else ""
        self._ending.start(self._keep(lease, lease.text, after, DONE_S))

    async def _renew(self) -> None:
        while self._held:
            await asyncio.sleep(self._renew_s)
            for lease in list(self._held.values()):
                if lease.name in self._held:
                    await self._keep(lease, lease.text, lease.text, self._lease_s)

    async def _keep(self, lease: Lease, before: str, after: str, for_s: float) -> None:
        if self._redis is None or self._clock() < self._away_until_s:
            return
        try:
            await self._redis.eval(_KEEP, 1, lease.name, before, after, int(for_s * 1000))
        except self._errors as error:
            self._is_away(error)

    def _is_away(self, error: BaseException) -> None:
        self._away_until_s = self._clock() + PAUSE_S
        _limited_log.say(f"no lease: Redis does not answer ({error or type(error).__name__})")

    def _render(self, fill_id: int, *, done: bool) -> str:
        values = {
            "node": self._node_id,
            "url": self._where(),
            "fill": f"{fill_id:x}",
            "done": done,
            "token": secrets.token_hex(8),
        }
        return json.dumps(values, separators=(",", ":"))

    async def aclose(self) -> None:
        """Stop renewing: leases still held expire by themselves."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
        await self._ending.aclose(cancel=False, timeout_s=PAUSE_S)


def _parse(held: Any) -> LeasedByAnother | None:
    """Return the lease that Redis holds; None if there is none, or the text is malformed."""
    if not held:
        return None
    raw = held if isinstance(held, bytes) else str(held).encode("utf-8", "replace")
    try:
        values = parse_json(raw, bytes_max=LEASE_BYTES_MAX)
        node_id, url, fill_id = str(values["node"]), str(values["url"]), int(values["fill"], 16)
        if not 0 <= fill_id < 1 << 64:
            raise ValueError("a fill id has 64 bits")
        return LeasedByAnother(node_id, url, fill_id, bool(values["done"]), raw.decode())
    except (ValueError, KeyError, TypeError):
        DROPPED_MESSAGES.labels("lease", "malformed").inc()
        return None
