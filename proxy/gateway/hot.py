"""Reads that are answered at once: known key, fresh record, blocks here and checked. Never waits.

How it works. A surface prepares a read once, and then `peek`s as often as it is asked, with whatever range. What does
not depend on the moment stays prepared: the route, the key, and, as long as the key's record is the same object, what
its conditions mean. Each `peek` looks at the moment: the record's token and age, the blocks' words, the segment's file.
It gives the very answer that `Gateway.read` would give, or None, which only ever means "ask it".
"""

from __future__ import annotations

from proxy.cache.store import Store
from proxy.errors import RangeNotSatisfiable, WarmstartError
from proxy.gateway.answers import CacheStatus, ReadAnswer, ReadObject
from proxy.gateway.decide import judge
from proxy.gateway.routes import BucketRoute
from proxy.gateway.soundness import Soundness
from proxy.gateway.versions import Versions
from proxy.objects import ObjectKey, ObjectRecord
from proxy.ranges import ByteRange, RangeRequest

PEEK_BLOCKS_MAX = 64  # beyond that a body looks at its blocks one by one, as it comes to them


class HotRead:
    """One read; its own range, if it has one, does not count."""

    __slots__ = (
        "_bytes_max",
        "_key",
        "_not_modified",
        "_ranged",
        "_record",
        "_request",
        "_route",
        "_soundness",
        "_store",
        "_versions",
        "_whole",
    )

    def __init__(
        self,
        request: ReadObject,
        route: BucketRoute,
        key: ObjectKey,
        versions: Versions,
        store: Store,
        soundness: Soundness,
    ) -> None:
        assert not request.revalidate
        assert request.part_number is None
        self._request = request
        self._route = route
        self._key = key
        self._versions = versions
        self._store = store
        self._soundness = soundness
        self._bytes_max = PEEK_BLOCKS_MAX * store.block_bytes
        # What the conditions mean for `_record`
        self._record: ObjectRecord | None = None
        self._whole = ByteRange(0, 0)
        self._not_modified = False
        self._ranged = False  # a range counts

    def peek(self, wanted: RangeRequest | None) -> ReadAnswer | None:
        """Costs two dict look-ups, one lseek per segment, one load per block."""
        record = self._versions.peek(self._route, self._key)
        if record is None or (record is not self._record and not self._judge(record)):
            return None
        span = self._whole
        chosen = None
        if wanted is not None and self._ranged:
            try:
                chosen = span = wanted.resolve(span.end)
            except RangeNotSatisfiable:
                return None  # it may have grown
        length = span.end - span.start
        if length > self._bytes_max:
            return None
        pieces = self._store.peek(record.version, span)
        if pieces is None:
            return None
        if self._not_modified or self._request.head_only:
            return ReadAnswer(record, CacheStatus.HIT, chosen, None, self._not_modified)
        soundness = self._soundness
        if length and (soundness.hopeless(record) or (span.end == self._whole.end and soundness.checkable(record))):
            return None  # uncached; or the last bytes wait for the object's checksum
        return ReadAnswer(record, CacheStatus.HIT, chosen, None, False, None, pieces)

    def _judge(self, record: ObjectRecord) -> bool:
        """False: a verdict that a record out of date may have got wrong, or nothing to be kept."""
        conditions = self._request.conditions
        try:
            modified = judge(conditions, record)
        except WarmstartError:
            return False
        if not record.cacheable:
            return False
        self._record = record
        self._whole = ByteRange(0, record.size_bytes)
        self._not_modified = not modified
        self._ranged = modified and conditions.range_applies(record.etag, record.last_modified_s)
        return True
