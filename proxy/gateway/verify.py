"""Whether an object's bytes on disk are the object: its checksum, combined from those of its blocks.

How it works. When all blocks are there, their sums combine into the whole object's, which is compared with the one
that the origin announced (a full-object CRC32C, CRC32 or CRC64NVME). A version found sound is remembered, until some
of it is fetched again (`doubt`), here or by another worker: then this process opens a segment that was made later.
A mismatch discards what the disk holds, so that it is fetched again; the second one for the same version makes it
uncacheable here: then it is not the disk that is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time

from cachetools import LRUCache

from proxy.cache.store import Store
from proxy.concurrency.threads import Threads
from proxy.metrics import CHECKSUM_FAILURES
from proxy.objects import ObjectRecord, ObjectVersion, SumKind

log = logging.getLogger(__name__)


class ObjectVerifier:
    def __init__(self, store: Store, threads: Threads, *, versions_max: int = 100_000) -> None:
        self._store = store
        self._threads = threads
        self._sound: LRUCache[bytes, int] = LRUCache(versions_max)  # when its check began, in Unix nanoseconds
        self._guard = threading.Lock()  # over changes of `_sound`: segments are opened by threads
        self._mismatches: LRUCache[bytes, int] = LRUCache(versions_max)
        self.troubled = False  # some version has failed
        self._checks: dict[bytes, asyncio.Task[bool | None]] = {}
        store.opened = self._note_segment

    def checkable(self, record: ObjectRecord) -> bool:
        """Whether a check can still tell anything: there is a sum, and it has not been found right already."""
        return bool(record.sums) and record.version.digest not in self._sound

    def doubt(self, record: ObjectRecord) -> None:
        """Some of it is on its way from the origin (again): the copy that was found sound is not the one to come."""
        with self._guard:
            self._sound.pop(record.version.digest, None)

    def _note_segment(self, version: ObjectVersion, created_ns: int) -> None:
        """A segment is opened: the verdict says nothing of one that was made after it. Called by any thread."""
        with self._guard:
            if self._sound.get(version.digest, created_ns) < created_ns:
                del self._sound[version.digest]

    def hopeless(self, record: ObjectRecord) -> bool:
        """Whether this version failed twice: serve it uncached."""
        return self.mismatches(record) >= 2

    def mismatches(self, record: ObjectRecord) -> int:
        """How often this version failed. Grew it during a body, that body may have sent wrong bytes."""
        return self._mismatches.get(record.version.digest, 0)

    async def check(self, record: ObjectRecord) -> bool | None:
        """True: the sums agree. False: they don't, and the disk's copy is discarded. None: some block is missing."""
        if not self.checkable(record):
            return True
        digest = record.version.digest
        check = self._checks.get(digest)
        if check is not None:
            result = await asyncio.shield(check)
            if result is not None:
                return result  # a check that began before ours may have missed a block: None says nothing to us
        check = self._checks.get(digest)
        if check is None or check.done():
            check = asyncio.get_running_loop().create_task(self._compare(record))
            self._checks[digest] = check
            check.add_done_callback(lambda done: self._forget(digest, done))
        return await asyncio.shield(check)

    def _forget(self, digest: bytes, check: asyncio.Task[bool | None]) -> None:
        if self._checks.get(digest) is check:
            del self._checks[digest]

    async def _compare(self, record: ObjectRecord) -> bool | None:
        kind, announced = _best(record)
        version = record.version
        began_ns = time.time_ns()
        combined = await self._threads.run(self._store.combined_sum, version, kind)
        if combined is None:
            return None
        if combined == announced:
            with self._guard:
                self._sound[version.digest] = began_ns
            return True
        CHECKSUM_FAILURES.labels("object").inc()
        self._mismatches[version.digest] = self.mismatches(record) + 1
        self.troubled = True
        if self.hopeless(record):
            log.error("%s %s failed its %s twice; it is served uncached", version.key, version.validator, kind.value)
        else:
            log.warning("%s %s failed its %s; it is fetched again", version.key, version.validator, kind.value)
        await self._threads.run(self._store.discard, version)
        return False


def _best(record: ObjectRecord) -> tuple[SumKind, int]:
    """The sum to compare: crc32c is always kept; another only where it was announced before the fill."""
    for kind, value in record.sums:
        if kind is SumKind.CRC32C:
            return kind, value
    return record.sums[0]
