"""Which version of a key is current: memory, then the disk's record, then the origin.

How it works.
1. A record in memory holds the key's token of the moment before it was looked up. Whoever invalidates the key, in any
   process, stores another token; so one compare of integers tells that the record is out.
2. A look-up is a task of its own, one for each key; it reads the token, then the disk's record, then (when that is
   due) asks the origin with one HEAD. What it finds is installed only if the token is still the one read first. Who
   waits is told as soon as the origin has answered; the look-up can be joined until the record is installed.
   Of a key that nobody knows, the answer to the reader's own bytes tells as much (`FirstAnswer`), all but the
   checksums of the whole. Where those matter, for an object of several blocks, a HEAD follows while the reader is
   served already: `Resolved.later`. Should that fail, the record is kept without them.
3. A request joins a look-up only if no invalidation lies between them, heard of or, in a fleet, missed. Where the
   answer must be of after the request's arrival (`strong`, or a client's no-cache), it joins only a look-up that began
   after it.
4. "Not found" is remembered in memory that all workers share (`proxy.cache.missing`), for the bucket's `negative_ttl`,
   under the key's token like a record. In a fleet the key's owner remembers it for all.
5. When the origin is down, a due record goes on being served for `stale_if_error`. The origin is asked again every
   few seconds, by a task that no reader waits for: an origin that swallows packets costs one reader a time-out, once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

from proxy.cache.missing import Missing
from proxy.concurrency.tasks import BackgroundTasks
from proxy.concurrency.threads import Threads
from proxy.errors import AccessDenied, NotFound, OriginUnavailable, WarmstartError
from proxy.gateway.lookup import KeyOwner, LookUp, OnUnknown, Records, Resolved, Tokens, Wish
from proxy.gateway.record_cache import CachedRecord, RecordCache
from proxy.gateway.routes import BucketRoute, Consistency
from proxy.metrics import MISSING_REMEMBERED, STALE_SERVED
from proxy.objects import ObjectKey, ObjectName, ObjectRecord
from proxy.upstream.retry import OriginCall, RetryPolicy, with_attempts

log = logging.getLogger(__name__)

DOWN_NEWS_S = 10.0  # how long after that pause a reader still need not find out for itself
DOWN_PAUSE_S = 2.0  # how long a down origin is left alone while a stale record can be served
COMPLETE_S = 2.0  # what a read that could be answered waits for checksums that its record lacks
TURN_S = 2.0
TURN_PAUSE_S = 0.005
COMPLETE_PAUSE_S = 30.0  # how long no read waits for them when some did in vain


class Versions:
    """`clock` is Unix time in seconds. `announce` tells other nodes of keys that were found to have changed."""

    def __init__(
        self,
        records: Records,
        tokens: Tokens,
        policy: RetryPolicy,
        *,
        threads: Threads,
        keys_max: int = 100_000,
        clock: Callable[[], float] = time.time,
        announce: Callable[[Sequence[ObjectKey]], None] | None = None,
        owner: KeyOwner | None = None,
    ) -> None:
        self._records = records
        self._tokens = tokens
        self._policy = policy
        # Where a stale record can be served, nobody waits for a dead origin.
        self._once = replace(policy, deadline_s=0.0)
        self._threads = threads
        self.clock = clock
        self._announce = announce
        self._owner = owner
        self._cached = RecordCache(keys_max)
        self._look_ups: dict[tuple[bytes, bool], LookUp] = {}  # a key's, and its look-ups as an owner
        self._asking_aside: dict[bytes, asyncio.Task[None]] = {}
        self._keeping = BackgroundTasks(log)
        self._arrivals = 0
        self._complete_from_s = 0.0

    def watch(self, key: ObjectKey) -> Callable[[], int]:
        """The key's token at each call: what `recall` gave holds while its own is the same."""
        return self._tokens.watch(key)

    def recall(self, key: ObjectKey) -> CachedRecord | None:
        """What is remembered of the key and has not been invalidated, however old it is."""
        known = self._cached.get(key.digest)
        return known if known is not None and known.token == self._tokens.peek(key) else None

    def peek(self, route: BucketRoute, key: ObjectKey) -> ObjectRecord | None:
        """The record, if it is known in memory and fresh. Costs a dict look-up and one compare."""
        known = self.recall(key)
        if known is None or not route.fresh(known.checked_at_s, self.clock()):
            return None
        return known.record

    async def resolve(
        self,
        route: BucketRoute,
        name: ObjectName,
        *,
        revalidate: bool = False,
        on_unknown: OnUnknown | None = None,
        as_owner: bool = False,
    ) -> Resolved:
        """Raises NotFound, AccessDenied, OriginRefused, OriginUnavailable.

        `on_unknown` is called where the origin is about to be asked of a key of which nothing is known here. What it
        gives may tell, in place of a HEAD. `as_owner`: another node of the fleet asks this one.
        """
        key = route.object_key(name)
        if not revalidate:
            record = self.peek(route, key)
            if record is not None:
                return Resolved(record)
            self._check_negative(route, key)
        after_arrival = revalidate or route.consistency is Consistency.STRONG
        as_owner = as_owner or self._owner is None or self._owner.is_here(key)  # one look-up for all who ask here
        return await self._look_up(route, key, Wish(after_arrival, on_unknown, as_owner))

    async def complete(self, route: BucketRoute, name: ObjectName, resolved: Resolved) -> Resolved:
        """The same with the checksums of the whole, where its record lacks them and the origin tells in time."""
        if resolved.record.sums_known or resolved.stale or self.clock() < self._complete_from_s:
            return resolved
        key = route.object_key(name)
        try:
            async with asyncio.timeout(COMPLETE_S):
                current = self._look_ups.get((key.digest, True)) or self._look_ups.get((key.digest, False))
                if current is not None and current.token == self._tokens.peek(key):
                    found = await asyncio.shield(current.task)
                    if found.record.sums_known:
                        return found
                return await self.resolve(route, name, revalidate=True)
        except (OriginUnavailable, TimeoutError):
            self._complete_from_s = self.clock() + COMPLETE_PAUSE_S
            return resolved

    async def outdated(self, key: ObjectKey) -> None:
        """The origin has another version than the record says: forget the record, on disk and in every process."""
        self._cached.drop(key.digest)
        await self._threads.run(self._records.remove, key)
        if self._announce is not None:
            self._announce([key])

    def _check_negative(self, route: BucketRoute, key: ObjectKey) -> None:
        """Costs a look into shared memory, where the bucket remembers missing keys. Raises NotFound."""
        if not route.negative_ttl_s:
            return
        missing = self._records.missing(key)
        if missing is not None and route.absent(missing.checked_at_s, self.clock()):
            MISSING_REMEMBERED.inc()
            name = key.bucket if missing.what == "bucket" else key.key
            raise NotFound(missing.what, name, certain=False, checked_at_s=missing.checked_at_s)

    async def _look_up(self, route: BucketRoute, key: ObjectKey, wish: Wish) -> Resolved:
        self._arrivals += 1
        arrived = self._arrivals
        while True:
            current = self._look_ups.get((key.digest, wish.as_owner))
            if current is None:
                current = self._start(route, key, wish)
            elif (
                current.token != self._tokens.peek(key)
                or (wish.after_arrival and current.began < arrived)
                or not route.joinable(current.began_at_s, self.clock())
            ):
                await asyncio.wait({current.task})
                continue
            joined_late = current.found.done()
            resolved = await asyncio.shield(current.found)
            if not joined_late:
                return resolved
            if resolved.stale or route.fresh(resolved.record.checked_at_s, self.clock()):
                return replace(resolved, asked=False)
            await asyncio.wait({current.task})  # it took long to keep what it found

    def _start(self, route: BucketRoute, key: ObjectKey, wish: Wish) -> LookUp:
        token = self._tokens.peek(key)
        self._arrivals += 1
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Resolved] = loop.create_future()
        task = loop.create_task(self._find(route, key, token, wish, found))
        look_up = LookUp(token, self._arrivals, self.clock(), found, task)
        name = (key.digest, wish.as_owner)
        self._look_ups[name] = look_up
        task.add_done_callback(lambda done: self._ended(name, look_up))
        return look_up

    def _ended(self, name: tuple[bytes, bool], look_up: LookUp) -> None:
        if self._look_ups.get(name) is look_up:
            del self._look_ups[name]
        task, found = look_up.task, look_up.found
        error = None if task.cancelled() else task.exception()
        if found.done():
            return
        if task.cancelled():
            found.cancel()
        elif error is not None:
            found.set_exception(error)
            found.exception()  # seen, also where every waiter has gone
        else:
            found.set_result(task.result())

    async def _find(
        self, route: BucketRoute, key: ObjectKey, token: int, wish: Wish, found: asyncio.Future[Resolved]
    ) -> Resolved:
        known = self.recall(key)
        record = await self._newest(key, known)
        if record is not None and not wish.after_arrival and route.fresh(record.checked_at_s, self.clock()):
            self._cached.put(key.digest, CachedRecord(token, record, record.checked_at_s))
            return Resolved(record)
        usable = record is not None and route.usable_on_error(record.checked_at_s, self.clock())
        if record is not None and usable and known is not None and self._is_down(key, known):
            self._ask_aside(route, key, known)
            return self._stale(record)
        try:
            by_owner = await self._ask_owner(route, key, token, wish, found)
            if by_owner is not None:
                return by_owner
            async with self._turn(route, key, wish) as by_other:
                if by_other is not None:
                    self._cached.put(key.digest, CachedRecord(token, by_other, by_other.checked_at_s))
                    return Resolved(by_other)
                async with self._noting_missing(route, key, token):  # before the next one has its turn
                    if record is None and wish.on_unknown is not None:
                        told = await self._take_first(key, token, wish.on_unknown, found)
                        if told is not None:
                            return told
                    return await self._ask(route, key, token, self._policy if not usable else self._once, found)
        except OriginUnavailable:
            if found.done():  # the first answer has told all but the checksums
                return await self._install(key, token, replace(found.result(), later=None))
            if record is None or not usable:
                raise
            self._cached.put(key.digest, CachedRecord(token, record, record.checked_at_s, self.clock() + DOWN_PAUSE_S))
            return self._stale(record)

    @asynccontextmanager
    async def _noting_missing(self, route: BucketRoute, key: ObjectKey, token: int) -> AsyncIterator[None]:
        """What the origin, or the key's owner, says meanwhile of a missing key is kept, where the bucket wants it."""
        asked_at_s = self.clock()
        try:
            yield
        except NotFound as error:
            self._cached.drop(key.digest)
            missing = Missing(error.what, asked_at_s if error.checked_at_s is None else error.checked_at_s)
            keep = route.negative_ttl_s > 0
            await self._threads.run(partial(self._records.note_missing, key, token, missing, keep=keep))
            raise

    @asynccontextmanager
    async def _turn(self, route: BucketRoute, key: ObjectKey, wish: Wish) -> AsyncIterator[ObjectRecord | None]:
        """This process's turn to ask the origin, where it asks for a fleet, or for all who remember what is missing:
        other workers are asked for the same key.

        Gives the record where another one has asked meanwhile, or raises NotFound. Waits TURN_S at most: a worker may
        have stopped.
        """
        if wish.after_arrival or (self._owner is None and not route.negative_ttl_s):
            yield None
            return
        give_up_at_s, held = self.clock() + TURN_S, False
        try:
            while not held and self.clock() < give_up_at_s:
                held = self._records.try_look_up(key)
                record = await self._threads.run(self._records.read, key)
                if record is not None and route.fresh(record.checked_at_s, self.clock()):
                    yield record
                    return
                self._check_negative(route, key)
                if not held:
                    await asyncio.sleep(TURN_PAUSE_S)
            yield None
        finally:
            if held:
                self._records.end_look_up(key)

    async def _take_first(
        self, key: ObjectKey, token: int, on_unknown: OnUnknown, found: asyncio.Future[Resolved]
    ) -> Resolved | None:
        """What a first read's own answer tells; None: ask by HEAD, too."""
        asked_at_s = self.clock()
        first = on_unknown()
        if first is None:
            return None
        try:
            record = await first.tell()
        except (NotFound, AccessDenied):
            raise
        except WarmstartError:  # of a range; the HEAD is tried again where that helps
            return None
        if record is None:
            return None
        resolved = Resolved(replace(record, checked_at_s=asked_at_s), asked=True)
        if not first.tells_all(record):
            found.set_result(replace(resolved, later=asyncio.current_task()))
            return None
        found.set_result(resolved)
        return await self._install(key, token, resolved)

    async def _ask_owner(
        self, route: BucketRoute, key: ObjectKey, token: int, wish: Wish, found: asyncio.Future[Resolved]
    ) -> Resolved | None:
        """What the key's owner says of it; None: this node asks the origin itself."""
        if self._owner is None or wish.as_owner:
            return None
        ttl_s = None if route.consistency is Consistency.IMMUTABLE else route.ttl_s
        async with self._noting_missing(route, key, token):
            told = await self._owner.tell(key, ttl_s, negative_ttl_s=route.negative_ttl_s, anew=wish.after_arrival)
        if told is None:
            return None
        resolved = Resolved(told.record, asked=told.asked)
        if not found.done():
            found.set_result(resolved)
        return await self._install(key, token, resolved)

    def _is_down(self, key: ObjectKey, known: CachedRecord) -> bool:
        """Whether the origin's silence is recent news; older news says nothing about now."""
        return key.digest in self._asking_aside or self.clock() < known.down_until_s + DOWN_NEWS_S

    def _ask_aside(self, route: BucketRoute, key: ObjectKey, known: CachedRecord) -> None:
        """Asks a down origin again, when its pause is over, with nobody waiting for the answer."""
        if self.clock() < known.down_until_s or key.digest in self._asking_aside:
            return

        async def ask() -> None:
            try:
                async with self._noting_missing(route, key, known.token):
                    await self._ask(route, key, known.token, self._once)
            except NotFound:
                return
            except WarmstartError:
                known.down_until_s = self.clock() + DOWN_PAUSE_S

        task = asyncio.get_running_loop().create_task(ask())
        self._asking_aside[key.digest] = task
        task.add_done_callback(lambda done: self._asking_aside.pop(key.digest))

    async def _newest(self, key: ObjectKey, known: CachedRecord | None) -> ObjectRecord | None:
        """The disk's record, or memory's where that is newer: another worker may have asked the origin since."""
        record = await self._threads.run(self._records.read, key)
        remembered = known.record if known is not None else None
        if remembered is None or (record is not None and record.checked_at_s >= remembered.checked_at_s):
            return record
        return remembered

    def _stale(self, record: ObjectRecord) -> Resolved:
        STALE_SERVED.inc()
        return Resolved(record, stale=True)

    async def _ask(
        self,
        route: BucketRoute,
        key: ObjectKey,
        token: int,
        policy: RetryPolicy,
        found: asyncio.Future[Resolved] | None = None,
    ) -> Resolved:
        asked_at_s = self.clock()

        async def ask() -> ObjectRecord:
            return await route.origin.head(key.bucket, key.key, key.version_id)

        asked = OriginCall(route.origin, key.bucket, key.key)
        record = await with_attempts(policy, route.origin.id, asked, ask)
        record = replace(record, checked_at_s=asked_at_s)
        resolved = Resolved(record, asked=True)
        if found is not None and not found.done():
            found.set_result(resolved)
        return await self._install(key, token, resolved)

    async def _install(self, key: ObjectKey, token: int, resolved: Resolved) -> Resolved:
        record = resolved.record
        if record.cacheable and await self._keep_to_the_end(key, record, token):
            self._cached.put(key.digest, CachedRecord(token, record, record.checked_at_s))
        return resolved

    async def _keep_to_the_end(self, key: ObjectKey, record: ObjectRecord, token: int) -> bool:
        """`_keep` in a thread, which `aclose` waits for whatever becomes of the look-up."""
        return await asyncio.shield(self._keeping.keep(self._threads.run(self._keep, key, record, token)))

    def _keep(self, key: ObjectKey, record: ObjectRecord, token: int) -> bool:
        """Installs the record on disk; True: it may be remembered, which a full disk does not prevent."""
        if self._records.install(key, record, token):
            return True
        return self._tokens.peek(key) == token and not self._records.fenced(key)

    async def aclose(self) -> None:
        """Ends what nobody waits for, and returns when what the origin has told is kept."""
        for task in [*self._asking_aside.values(), *(look_up.task for look_up in self._look_ups.values())]:
            task.cancel()
            await asyncio.wait({task})
        await self._keeping.aclose(cancel=False)
